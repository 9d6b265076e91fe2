"""A teacher that runs once per sample: its responses are kept on disk, and later epochs and runs read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from distill.errors import UserError
from distill.outputs import Batch, NetworkOutput
from distill.teacher.fingerprint import network_fingerprint, sample_checksums
from distill.teacher.row_store import Column, Positions, RowStore

Ask = Callable[[Batch], NetworkOutput]

PROBES = 32
"""How many samples stand for a data set in its fingerprint."""


class TeacherCache(Callback):
    """Keeps what the teacher says of each training sample, prediction and tapped features, in memory-mapped files.

    The rows lie in ``<folder>/<key>``. The key is a hash of the teacher's class, layers, settings and weights, of its
    inputs, tapped layers and precision, and of the training data: how many samples there are, and what the teacher sees
    of some of them, which tells other transforms as well. So any number of runs may use one folder, at the same time
    too, and those with the same teacher and data share its responses. A cache that is not whole is gone on with.

    What the teacher sees of a sample must be the same in every epoch. The data module says of which modalities that is
    so (``fixed_modalities``), and what it says is checked: beside each response stands the checksum of the inputs that
    it answers, and the first time that a fit reads a response, the two are compared.

    Only training reads and writes. Validation runs the teacher.

    Args:
        folder: Of one machine's processes; a network's file system will not do for memory-mapped files that change.

    Raises:
        ValueError: When a fit starts: the samples are drawn anew in every epoch, or the data module does not tell; the
            folder holds something else. In training: a sample is not what it was, or has another size than the others.
        OSError: The disk has no room, when a fit starts, or later; what is there stays whole.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._store: RowStore | None = None
        self._inputs: tuple[str, ...] = ()
        self._layers: tuple[str, ...] = ()
        self._checked = np.zeros(0, np.bool_)
        self._moved: tuple[Tensor | None, Tensor | None] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a module, as for export, have a cache that is not open."""
        return TeacherCache(self.folder).__dict__

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the cache of this teacher and these data, or makes it."""
        module = cast(Any, pl_module)
        self._inputs = module.teacher_inputs
        dataset, probes = _training_data(trainer, self._inputs)
        output = _ask_once(trainer, module, probes)
        self._layers = tuple(output.features)
        columns = _columns(output)
        identity = {
            "teacher": f"{type(module.teacher).__qualname__} {network_fingerprint(module.teacher)}",
            "inputs": list(self._inputs),
            "layers": list(module.teacher_layers),
            "precision": str(trainer.precision),
            "data": hashlib.sha256(sample_checksums([probes[name] for name in self._inputs]).data).hexdigest(),
            "samples": len(dataset),
        }
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

        def open_store() -> RowStore:
            return RowStore(self.folder / key, identity, columns, len(dataset))

        if trainer.local_rank == 0:
            self._store = open_store()
        trainer.strategy.barrier("the cache of the teacher's responses is there")
        store = self._store = self._store or open_store()
        self._checked = np.zeros(len(dataset), np.bool_)
        rank_zero_info(f"{store.count()} of {store.length} responses of the teacher are in {store.folder}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets all processes read in the next epoch what each wrote in this one."""
        if self._store is not None:
            self._store.commit()
            trainer.strategy.barrier("the teacher's responses are on disk")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keeps what was written so far."""
        with suppress(OSError):  # the disk may be what is full
            self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the files go."""
        self._close()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def note_transfer(self, batch: Batch, moved: Batch) -> None:
        """Remembers where a batch's ``index`` lies on the CPU, so that no GPU has to be waited for to read it."""
        self._moved = (moved.get("index"), batch.get("index"))

    def output(self, batch: Batch, ask: Ask) -> NetworkOutput:
        """The teacher's output for a training batch, of which it is asked what is not stored.

        Args:
            batch: With the position of each sample as ``index``.
            ask: Runs the teacher.
        """
        store = self._store
        if store is None:
            return ask(batch)
        positions = self._positions(batch)
        known = store.has(positions)
        if not known.any():
            return self._asked(store, batch, positions, ask)
        device = batch["index"].device
        *responses, sums = store.read(positions[known], pin=device.type == "cuda")
        self._compare(store, batch, positions, known, sums.numpy())
        responses = [rows.to(device, non_blocking=True) for rows in responses]
        if not known.all():
            rest = self._asked(store, self._rows(batch, ~known), positions[~known], ask)
            added = _packed(store, rest)
            responses = [_merged(rows, new, known) for rows, new in zip(responses, added, strict=True)]
        prediction, *features = (column.unpacked(rows) for column, rows in zip(store.columns, responses, strict=False))
        return NetworkOutput(prediction, dict(zip(self._layers, features, strict=True)))

    def _positions(self, batch: Batch) -> Positions:
        moved, on_cpu = self._moved
        index = on_cpu if on_cpu is not None and batch["index"] is moved else batch["index"]
        return cast(Positions, index.cpu().numpy())

    def _rows(self, batch: Batch, mask: NDArray[np.bool_]) -> Batch:
        """What the teacher sees of some samples, as it lies in memory."""
        chosen = torch.from_numpy(mask)
        columns = {name: Column.like(name, batch[name]) for name in self._inputs}
        return {name: column.unpacked(column.packed(batch[name])[chosen]) for name, column in columns.items()}

    def _asked(self, store: RowStore, batch: Batch, positions: Positions, ask: Ask) -> NetworkOutput:
        output = ask(batch)
        sums = sample_checksums([batch[name] for name in self._inputs])
        store.write(positions, [*_packed(store, output), torch.from_numpy(sums)])
        return output

    def _compare(
        self, store: RowStore, batch: Batch, positions: Positions, known: NDArray[np.bool_], sums: NDArray[np.int64]
    ) -> None:
        """Sees to it, once a fit, that a response answers what the teacher would see now."""
        fresh = ~self._checked[positions[known]]
        if not fresh.any():
            return
        chosen = known.copy()
        chosen[known] = fresh
        seen = self._rows(batch, chosen)
        different = sample_checksums([seen[name] for name in self._inputs]) != sums[fresh]
        if different.any():
            raise UserError(
                f"sample {positions[chosen][different][0]} is not what it was when the teacher's response to it was "
                f"stored in {store.folder}: its transforms are random, or the data have changed; leave cache_teacher "
                "out, or remove that folder"
            )
        self._checked[positions[chosen]] = True


def _packed(store: RowStore, output: NetworkOutput) -> list[Tensor]:
    values = [output.prediction, *output.features.values()]
    return [column.packed(value) for column, value in zip(store.columns, values, strict=False)]


def _merged(stored: Tensor, new: Tensor, known: NDArray[np.bool_]) -> Tensor:
    merged = new.new_empty(len(known), *new.shape[1:])
    merged[torch.from_numpy(known)] = stored
    merged[torch.from_numpy(~known)] = new
    return merged


def _columns(output: NetworkOutput) -> list[Column]:
    features = [Column.like(f"feature_{at}.rows", value) for at, value in enumerate(output.features.values())]
    sums = Column.like("inputs.rows", torch.zeros(1, dtype=torch.int64))
    return [Column.like("prediction.rows", output.prediction), *features, sums]


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # nothing is compiled for a batch of two
def _ask_once(trainer: Trainer, module: Any, probes: Batch) -> NetworkOutput:
    """The teacher's output for two samples, as training would have it."""
    few = trainer.precision_plugin.convert_input({name: values[:2] for name, values in probes.items()})
    with isolate_rng(), trainer.precision_plugin.forward_context():
        return cast(NetworkOutput, module.forward_teacher(trainer.strategy.batch_to_device(few)))


def _training_data(trainer: Trainer, inputs: Sequence[str]) -> tuple[Sized, Batch]:
    """The data set to train on, and samples that stand for it.

    Raises:
        ValueError: Its samples are not known to be the same in every epoch, or have no positions.
    """
    module = trainer.datamodule  # type: ignore[attr-defined]
    name = "a plain data loader" if module is None else type(module).__name__
    fixed = getattr(module, "fixed_modalities", ())
    drawn = [modality for modality in inputs if modality not in fixed]
    if drawn:
        raise UserError(
            f"cache_teacher needs what is the same in every epoch, but {name} does not say that of {drawn[0]!r} "
            "(fixed_modalities): leave out random transforms, or cache_teacher"
        )
    loader = trainer.fit_loop._data_source.dataloader()
    dataset = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None or not isinstance(dataset, Sized):
        raise UserError(f"cache_teacher needs one data set of samples with positions, which {name} does not give")
    positions = np.linspace(0, len(dataset) - 1, min(len(dataset), PROBES)).astype(np.int64).tolist()
    with isolate_rng():
        probes = next(iter(_loader_of(loader, positions)))
    if "index" not in probes or probes["index"].tolist() != positions:
        raise UserError(f"cache_teacher needs the position of each sample in its data set as 'index', from {name}")
    return dataset, probes


def _loader_of(loader: DataLoader[Any], positions: list[int]) -> DataLoader[Any]:
    """Delivers these samples as one batch, as the loader would."""
    return DataLoader(loader.dataset, batch_size=len(positions), sampler=positions, collate_fn=loader.collate_fn)

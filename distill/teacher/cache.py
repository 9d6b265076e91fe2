"""Runs a teacher once per sample: keeps its responses on disk, where later epochs and runs read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from distill.batches import Batch, check_named, chosen_samples, complete_samples, named_batch, samples_in
from distill.errors import UserError
from distill.internals.lightning import loader_of
from distill.outputs import NetworkOutput
from distill.teacher.fingerprint import network_fingerprint, sample_checksums
from distill.teacher.row_store import Column, Positions, RowStore

RunTeacher = Callable[[Batch], NetworkOutput]

PROBE_SAMPLES = 32
"""The number of samples that represent a data set in its fingerprint."""


class TeacherCache(Callback):
    """Keeps the teacher's prediction and tapped features of each training sample in memory-mapped files.

    The rows lie in ``<folder>/<key>``. The key is a hash of the teacher's class, layers, settings and weights, of its
    inputs, tapped layers and precision, and of the training data: the number of samples, and the teacher's inputs for
    some of them, so that other transforms give another key. Several runs may use one folder, even at the same time;
    runs with the same teacher and data share the responses. An incomplete cache is continued.

    The teacher's inputs for a sample must be the same in every epoch. The data module names the modalities with this
    property (``fixed_modalities``). This is checked: each response is stored with the checksum of its inputs, and when
    a fit reads a response for the first time, the checksum is compared with that of the current inputs.

    Only training uses the cache. Validation runs the teacher. Samples that lack a modality of the teacher have no row.

    Args:
        folder: A folder on a disk of this machine. A network file system does not work, because memory-mapped files
            change.

    Raises:
        ValueError: When a fit starts: the samples differ between epochs, or the data module does not name fixed
            modalities, or the folder holds something else. In training: the inputs of a sample have changed, or its
            size differs from that of the others.
        OSError: The disk is full, when a fit starts or later; the stored rows stay valid.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._store: RowStore | None = None
        self._trainer: Trainer | None = None
        self._inputs: tuple[str, ...] = ()
        self._layers: tuple[str, ...] = ()
        self._checked = np.zeros(0, np.bool_)
        self._moved: tuple[Tensor | None, Tensor | None] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        """Gives a copy of the module, as for export, a closed cache."""
        return TeacherCache(self.folder).__dict__

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the cache of this teacher and these data, or creates it."""
        module = cast(Any, pl_module)
        self._trainer = trainer
        self._inputs = module.teacher_inputs
        dataset, probes = _training_data(trainer, module)
        output = _probe_output(trainer, module, probes)
        self._layers = tuple(output.features)
        columns = _columns(output)
        identity = {
            "teacher": f"{type(module.teacher).__qualname__} {network_fingerprint(module.teacher)}",
            "inputs": list(self._inputs),
            # with the layouts, for without them another library or an older one has stored other features
            "layers": [[name, *layout] for name, layout in module.frozen_teacher.taps.layouts.items()],
            "precision": str(trainer.precision),
            "data": hashlib.sha256(sample_checksums([probes[name] for name in self._inputs]).data).hexdigest(),
            "samples": len(dataset),
        }
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

        def open_store() -> RowStore:
            return RowStore(self.folder / key, identity, columns, len(dataset))

        if trainer.local_rank == 0:
            self._store = open_store()
        trainer.strategy.barrier("the cache of the teacher's responses exists")
        store = self._store = self._store or open_store()
        self._checked = np.zeros(len(dataset), np.bool_)
        rank_zero_info(f"{store.count()} of {store.length} responses of the teacher are in {store.folder}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Commits the rows of this epoch, so that all processes can read them in the next epoch."""
        if self._store is not None:
            self._store.commit()
            trainer.strategy.barrier("the teacher's responses are on disk")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Commits the rows that are written so far."""
        with suppress(OSError):  # the exception may come from a full disk
            self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Commits and closes the files."""
        self._close()

    def _close(self) -> None:
        store, self._store, self._trainer = self._store, None, None
        if store is not None:
            store.close()

    def note_transfer(self, batch: Batch, moved: Batch) -> None:
        """Keeps the CPU copy of a batch's ``index``, so that reading it does not wait for the GPU."""
        self._moved = (moved.get("index"), batch.get("index"))

    def output(self, batch: Batch, run_teacher: RunTeacher) -> NetworkOutput:
        """The teacher's output for a batch; in training the teacher runs only on samples without a stored response.

        Args:
            batch: The batch, with the position of each sample as ``index``.
            run_teacher: Runs the teacher on a batch.
        """
        store = self._store
        if store is None or self._trainer is None or not self._trainer.training:
            return run_teacher(batch)
        positions = self._positions(batch)
        known = store.has(positions)
        if not known.any():
            return self._run_and_store(store, batch, positions, run_teacher)
        device = batch["index"].device
        *responses, sums = store.read(positions[known], pin=device.type == "cuda")
        self._compare(store, batch, positions, known, sums.numpy())
        responses = [rows.to(device, non_blocking=True) for rows in responses]
        if not known.all():
            rest = self._run_and_store(store, self._rows(batch, ~known), positions[~known], run_teacher)
            added = _packed(store, rest)
            responses = [_merged(rows, new, known) for rows, new in zip(responses, added, strict=True)]
        prediction, *features = (column.unpacked(rows) for column, rows in zip(store.columns, responses, strict=False))
        return NetworkOutput(prediction, dict(zip(self._layers, features, strict=True)))

    def _positions(self, batch: Batch) -> Positions:
        moved, on_cpu = self._moved
        index = on_cpu if on_cpu is not None and batch["index"] is moved else batch["index"]
        return cast(Positions, index.cpu().numpy())

    def _rows(self, batch: Batch, mask: NDArray[np.bool_]) -> Batch:
        """The teacher's inputs for the chosen samples, in the memory format of the batch."""
        rows = torch.from_numpy(mask.nonzero()[0])
        tensors = {name: batch[name] for name in self._inputs if isinstance(batch[name], Tensor)}
        columns = {name: Column.like(name, values) for name, values in tensors.items()}
        chosen = {name: column.unpacked(column.packed(tensors[name])[rows]) for name, column in columns.items()}
        others = {name: batch[name] for name in self._inputs if name not in tensors}
        return chosen | chosen_samples({"index": batch["index"], **others}, rows)

    def _run_and_store(
        self, store: RowStore, batch: Batch, positions: Positions, run_teacher: RunTeacher
    ) -> NetworkOutput:
        output = run_teacher(batch)
        sums = sample_checksums([batch[name] for name in self._inputs])
        store.write(positions, [*_packed(store, output), torch.from_numpy(sums)])
        return output

    def _compare(
        self, store: RowStore, batch: Batch, positions: Positions, known: NDArray[np.bool_], sums: NDArray[np.int64]
    ) -> None:
        """Checks, once per sample and fit, that a response belongs to the current inputs of the teacher."""
        unchecked = ~self._checked[positions[known]]
        if not unchecked.any():
            return
        chosen = known.copy()
        chosen[known] = unchecked
        inputs = self._rows(batch, chosen)
        different = sample_checksums([inputs[name] for name in self._inputs]) != sums[unchecked]
        if different.any():
            raise UserError(
                f"sample {positions[chosen][different][0]} differs from the sample whose response is stored in "
                f"{store.folder}: its transforms are random, or the data have changed; remove cache_teacher from the "
                "configuration, or remove that folder"
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
@torch.compiler.set_stance("force_eager")  # a batch of two is not worth a compilation
def _probe_output(trainer: Trainer, module: Any, probes: Batch) -> NetworkOutput:
    """The teacher's output for two samples, in the precision of training."""
    complete = complete_samples(probes, module.teacher_inputs)
    usable = complete if samples_in(complete) else probes
    two = chosen_samples(usable, range(min(2, samples_in(usable))))
    batch = trainer.precision_plugin.convert_input({name: two[name] for name in module.teacher_inputs})
    with isolate_rng(), trainer.precision_plugin.forward_context():
        return cast(NetworkOutput, module.run_teacher(trainer.strategy.batch_to_device(batch)))


def _training_data(trainer: Trainer, method: Any) -> tuple[Sized, Batch]:
    """The training set, and samples that represent it.

    Raises:
        ValueError: The data module does not say that the samples are the same in every epoch, or the samples have no
            positions.
    """
    module = trainer.datamodule  # type: ignore[attr-defined]
    name = "a plain data loader" if module is None else type(module).__name__
    fixed = getattr(module, "fixed_modalities", ())
    changing = [modality for modality in method.teacher_inputs if modality not in fixed]
    if changing:
        raise UserError(
            f"cache_teacher needs inputs that are the same in every epoch, but {changing[0]!r} is not one of the "
            f"fixed_modalities of {name}: remove random transforms, or cache_teacher"
        )
    loader = loader_of(trainer, "fit")
    dataset = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None or not isinstance(dataset, Sized):
        raise UserError(f"cache_teacher needs one data set of samples with positions, but {name} has none")
    positions = np.linspace(0, len(dataset) - 1, min(len(dataset), PROBE_SAMPLES)).astype(np.int64).tolist()
    with isolate_rng():
        probes = check_named(named_batch(next(iter(_loader_of(loader, positions))), method.batch_names))
    if "index" not in probes or probes["index"].tolist() != positions:
        raise UserError(f"cache_teacher needs the position of each sample as 'index' in the batches of {name}")
    return dataset, probes


def _loader_of(loader: DataLoader[Any], positions: list[int]) -> DataLoader[Any]:
    """A loader that returns these samples in one batch, in the format of the given loader."""
    return DataLoader(loader.dataset, batch_size=len(positions), sampler=positions, collate_fn=loader.collate_fn)

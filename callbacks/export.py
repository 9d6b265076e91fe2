"""The student as files for deployment."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from callbacks.parts.onnx_file import DifferenceError, onnx_model, root_cause
from callbacks.parts.run_folder import run_folder
from callbacks.parts.step import inputs_of, named_inputs
from callbacks.parts.student import Deployed, load_student, student_of
from distill.atomic import atomic_write
from distill.checkpoint import save_network
from distill.checks import check_positive
from distill.errors import UserError, UserKeyError

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class StudentExport(Callback):
    """Writes the best student to the run's folder when a fit ends: ``student.safetensors`` and ``student.onnx``.

    Its weights are those of the best checkpoint by the monitored metric, or the last weights if no metric is monitored.
    ``student.safetensors`` holds them by the names of the network's own ``state_dict``. ``student.onnx`` takes the
    modalities by name, in any batch size, and returns ``prediction`` as the network does in eval mode. It takes any
    height and width (and any length or depth) as well, if the network does: a convolutional one mostly does, a Vision
    Transformer does not. If it does not, an information says why, and the size is that of the training images. Before
    the file is kept, ONNX Runtime and PyTorch are compared on samples of a real batch, and at other sizes. If a
    network cannot be exported, a warning says so and there is no ``student.onnx``.

    It exports the student of any LightningModule (``docs/callbacks.md``).

    Args:
        onnx: Whether to write ``student.onnx``; ``None`` writes it if its packages are installed.
        tolerance: The largest difference between ONNX Runtime and PyTorch, as a share of the largest absolute value of
            PyTorch's prediction, or absolute if that value is below 1.
        student: The module's attribute that is the student; by default the first of ``student``, ``network`` and
            ``model`` that it has.
        inputs: What the student takes, by name in the batch, or by position if batches are tuples. By default these are
            the ``inputs`` that the steps return.

    Raises:
        ValueError: An input is neither a name nor a position. Before training: ``onnx`` is true and its packages are
            missing, or there is no student. At the end of the fit: the predictions of ONNX Runtime and PyTorch differ.
        KeyError: In the first step: a batch lacks an input.
    """

    def __init__(
        self,
        onnx: bool | None = None,
        tolerance: float = 1e-4,
        student: str | None = None,
        inputs: Sequence[str | int] = (),
    ) -> None:
        check_positive(tolerance=tolerance)
        self.onnx = onnx
        self.tolerance = tolerance
        self.student = student
        for item in inputs:
            if not isinstance(item, str) and not (isinstance(item, int) and item >= 0):
                raise UserError(f"inputs must hold names, or positions of 0 or more, got {item!r}")
        self.inputs = tuple(inputs)
        self._samples: dict[str, Tensor] = {}
        self._obstacle: str | None = None
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks before training that the student can be exported after it."""
        if stage != "fit":
            return
        student_of(pl_module, self.student)
        missing = _missing_packages()
        if self.onnx and missing:
            raise UserError(
                f"StudentExport(onnx=True) needs {' and '.join(missing)}: pip install 'crossdistill[onnx]', or leave "
                "onnx out"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)
        self._samples, self._obstacle = {}, None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps some samples, if validation has not."""
        self._keep_samples(trainer, pl_module, outputs, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps some samples."""
        self._keep_samples(trainer, pl_module, outputs, batch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        if not trainer.is_global_zero or self._folder is None:
            return
        network = self._best_student(trainer, pl_module)
        save_network(network, self._folder / "student.safetensors")
        path = self._folder / "student.onnx"
        path.unlink(missing_ok=True)  # an earlier fit in this folder had other weights
        if self.onnx is False:
            return
        missing = _missing_packages()
        if missing:
            rank_zero_info(f"there is no student.onnx, as {missing[0]} is missing: pip install 'crossdistill[onnx]'")
            return
        if self._obstacle is not None:
            rank_zero_warn(f"there is no student.onnx, because {self._obstacle}")
            return
        if not self._samples:
            rank_zero_warn(
                "there is no student.onnx, because no step returned inputs to export the student with: name them, as "
                "StudentExport(inputs=['image'])"
            )
            return
        self._export(Deployed(network, tuple(self._samples)).eval(), path)

    def _keep_samples(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        if self._samples or self._obstacle is not None or not trainer.is_global_zero:
            return
        if self.inputs:
            named = {f"input_{name}" if isinstance(name, int) else name: _item(batch, name) for name in self.inputs}
        else:
            inputs = inputs_of(outputs, "inputs")
            names = getattr(pl_module, "inputs", ())
            if len(names) != len(inputs):
                by_name = {id(tensor): name.replace(" ", "_") for name, tensor in named_inputs(batch, inputs).items()}
                names = [by_name[id(tensor)] for tensor in inputs]
            named = dict(zip(names, inputs, strict=True))
        others = [name for name, value in named.items() if not isinstance(value, Tensor)]
        if others:
            kind = type(named[others[0]]).__name__
            self._obstacle = f"the student's input {others[0]!r} is a {kind}, and ONNX takes tensors only"
        elif all(map(len, named.values())):  # a batch may have no sample with the student's modality
            self._samples = {name: tensor[:3].detach().clone().cpu() for name, tensor in named.items()}

    def _best_student(self, trainer: Trainer, pl_module: LightningModule) -> nn.Module:
        """A copy of the student on the CPU, with the best weights by a monitored metric, or its current weights."""
        path, student = student_of(pl_module, self.student)
        network = copy.deepcopy(student).cpu().eval()
        best = [
            callback.best_model_path
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_path
        ]
        if best and Path(best[0]).is_file():
            try:
                load_student(network, best[0], path)
            except UserError as error:  # a module's hyper-parameters may be more than plain data
                rank_zero_warn(f"{error}; the exported student has the last weights")
        elif best:
            rank_zero_warn(f"the best checkpoint {best[0]} is no file here: the exported student has the last weights")
        return network

    def _export(self, student: Deployed, path: Path) -> None:
        # a batch of one would be exported with a fixed batch size of one
        samples = tuple(torch.cat([x] * 2) if len(x) == 1 else x.clone() for x in self._samples.values())
        try:
            model = onnx_model(student, samples, self.tolerance)
        except DifferenceError:
            raise
        except Exception as error:  # the errors of the exporter and of ONNX Runtime share no other class
            rank_zero_warn(
                f"{type(student.network).__name__} cannot be exported to ONNX, so there is no student.onnx beside "
                f"student.safetensors: {root_cause(error)}"
            )
            return
        with atomic_write(path) as draft:
            draft.write_bytes(model)


def _missing_packages() -> list[str]:
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def _item(batch: Any, name: str | int) -> Tensor:
    """An input of a batch by name or position."""
    try:
        item = batch[name]
    except (KeyError, IndexError, TypeError):
        item = None
    if not isinstance(item, Tensor):
        held = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"{len(batch)} items"
        raise UserKeyError(f"StudentExport(inputs=...) names {name!r}, but the batch holds {held}")
    return item

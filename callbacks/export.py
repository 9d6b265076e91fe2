"""The student as files for deployment."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from callbacks.parts.run_folder import run_folder
from distill.atomic import atomic_write
from distill.base import Supervised
from distill.checkpoint import load_network, save_network
from distill.checks import check_positive
from distill.errors import UserError, UserTypeError

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class StudentExport(Callback):
    """Writes the best student to the run's folder when a fit ends: ``student.safetensors`` and ``student.onnx``.

    Its weights are those of the best checkpoint by the monitored metric, or the last weights if no metric is monitored.
    ``student.safetensors`` holds them by the names of the network's own ``state_dict``. ``student.onnx`` takes the
    modalities by name, in any batch size, and returns ``prediction`` as the network does in eval mode. Before it is
    kept, ONNX Runtime and PyTorch are compared on samples of a real batch. If a network cannot be exported, a warning
    says so and there is no ``student.onnx``.

    Args:
        onnx: Whether to write ``student.onnx``; ``None`` writes it if its packages are installed.
        tolerance: The largest difference between ONNX Runtime and PyTorch, as a share of the largest absolute value of
            PyTorch's prediction, or absolute if that value is below 1.

    Raises:
        ValueError: Before training: ``onnx`` is true and its packages are missing. At the end of the fit: the
            predictions of ONNX Runtime and PyTorch differ.
    """

    def __init__(self, onnx: bool | None = None, tolerance: float = 1e-4) -> None:
        check_positive(tolerance=tolerance)
        self.onnx = onnx
        self.tolerance = tolerance
        self._samples: tuple[Tensor, ...] | None = None
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks before training that the student can be exported after it."""
        if stage != "fit":
            return
        if not isinstance(pl_module, Supervised):
            raise UserTypeError(
                f"StudentExport exports the network of a Supervised module, got {type(pl_module).__name__}"
            )
        missing = _missing_packages()
        if self.onnx and missing:
            raise UserError(
                f"StudentExport(onnx=True) needs {' and '.join(missing)}: pip install 'crossdistill[onnx]', or leave "
                "onnx out"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the run's folder."""
        self._folder = run_folder(trainer)
        self._samples = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps some samples, if validation has not."""
        self._keep_samples(trainer, outputs)

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
        self._keep_samples(trainer, outputs)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        if not trainer.is_global_zero or self._folder is None:
            return
        assert isinstance(pl_module, Supervised)
        network = _best_student(trainer, pl_module)
        save_network(network, self._folder / "student.safetensors")
        path = self._folder / "student.onnx"
        path.unlink(missing_ok=True)  # an earlier fit in this folder had other weights
        if self.onnx is False:
            return
        missing = _missing_packages()
        if missing:
            rank_zero_info(f"there is no student.onnx, as {missing[0]} is missing: pip install 'crossdistill[onnx]'")
            return
        if self._samples is None:
            rank_zero_warn("there is no student.onnx, because no batch was seen to export the student with")
            return
        self._export(Supervised(network, inputs=pl_module.inputs).eval(), path)

    def _keep_samples(self, trainer: Trainer, outputs: Any) -> None:
        if self._samples is None and trainer.is_global_zero and isinstance(outputs, dict) and "inputs" in outputs:
            self._samples = tuple(tensor[:3].detach().clone().cpu() for tensor in outputs["inputs"])

    def _export(self, student: Supervised, path: Path) -> None:
        assert self._samples is not None
        # a batch of one would be exported with a fixed batch size of one
        samples = tuple(torch.cat([tensor] * 2) if len(tensor) == 1 else tensor.clone() for tensor in self._samples)
        try:
            model = _as_onnx(student, samples)
            differences = [_difference(student, tuple(x[:size] for x in samples), model) for size in (None, 1)]
        except Exception as error:  # the errors of the exporter and of ONNX Runtime share no other class
            rank_zero_warn(
                f"{type(student.network).__name__} cannot be exported to ONNX, so there is no student.onnx beside "
                f"student.safetensors: {_root_cause(error)}"
            )
            return
        for difference in differences:
            if not difference <= self.tolerance:  # a NaN is no agreement
                raise UserError(
                    f"student.onnx is not written: on a real batch it differs from PyTorch by {difference:.3g}, where "
                    f"the tolerance is {self.tolerance:.3g}"
                )
        with atomic_write(path) as draft:
            draft.write_bytes(model)


def _missing_packages() -> list[str]:
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def _best_student(trainer: Trainer, pl_module: Supervised) -> nn.Module:
    """A copy of the network on the CPU, with the best weights by a monitored metric, or with its current weights."""
    assert pl_module.network is not None
    network = copy.deepcopy(pl_module.network).cpu().eval()
    best = [
        callback.best_model_path
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_path
    ]
    if best and Path(best[0]).is_file():
        load_network(network, best[0])
    elif best:
        rank_zero_warn(f"the best checkpoint {best[0]} is no file here: the exported student has the last weights")
    return network


def _as_onnx(student: Supervised, samples: tuple[Tensor, ...]) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            student,
            samples,
            dynamo=True,
            verbose=False,
            input_names=list(student.inputs),
            output_names=["prediction"],
            dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in samples),),
        )
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _difference(student: Supervised, inputs: tuple[Tensor, ...], model: bytes) -> float:
    """The largest difference between ONNX Runtime and PyTorch, divided by the largest value, but at least by 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(student.inputs, inputs, strict=True)}
    (prediction,) = session.run(["prediction"], feed)
    with torch.no_grad():
        expected = student(*inputs)
    difference = (torch.from_numpy(prediction) - expected).abs().max() / expected.abs().max().clamp(min=1)
    return float(difference)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the prints, warnings and logs of the exporter."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

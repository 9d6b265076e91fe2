"""Pictures of what both models saw and said about a few samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import matplotlib
import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from callbacks.parts.evaluation import EvaluationCallback
from callbacks.parts.figures import publish
from distill.errors import UserError

Sample = TypeVar("Sample")
CELL = 2.6  # inches, the width of one picture


class Gallery(EvaluationCallback, Generic[Sample]):
    """Draws the same few samples of the validation every few epochs and at the end of a fit, and those of the test.

    A subclass names its pictures, says what it keeps of a sample, and draws that. Everything comes from what the step
    returned; no model runs again. The pictures are ``figures/<name>_epoch_0003.png`` and ``figures/<name>_test.png`` of
    the run's folder, and images in TensorBoard where that is a logger.

    Args:
        every_n_epochs: Draws the first validation after each so many epochs, and the last one.
        samples: How many samples, the first ones that the main process sees.

    Raises:
        ValueError: An argument is below 1.
    """

    name: str

    def __init__(self, every_n_epochs: int = 5, samples: int = 4) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("samples", samples)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self._kept: list[Sample] = []
        self._epoch = 0
        self._drawn = 0
        self._folder: Path | None = None
        self._warned = False

    @abstractmethod
    def obstacle(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> str | None:
        """Why a step cannot be drawn, if so."""

    @abstractmethod
    def keep(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Sample]:
        """What is drawn of the first ``count`` samples of a batch, on the CPU."""

    @abstractmethod
    def draw(self, samples: list[Sample], data: Any) -> Figure:
        """The picture of what was kept; ``data`` is the data module, if there is one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run's folder, on all processes as Lightning asks for."""
        folder = None if trainer.fast_dev_run else trainer.log_dir  # type: ignore[attr-defined]
        self._folder = None if folder is None else Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from the epoch on which a fit that goes on builds."""
        self._drawn = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last epoch, also where it came early."""
        self._publish(trainer, f"_epoch_{self._epoch:04d}")

    def start(self, stage: str) -> None:
        """Starts anew."""
        self._kept = []

    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Keeps the first samples: nobody knows yet whether this epoch of a fit is the last."""
        if stage == "test" or trainer.state.fn == TrainerFn.FITTING:
            self._keep_missing(trainer, outputs, batch)

    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws those of the test, and every few epochs those of a fit."""
        if stage == "test":
            self._publish(trainer, "_test")
            return
        self._epoch = trainer.current_epoch
        done = self._epoch + 1
        if done // self.every_n_epochs > self._drawn // self.every_n_epochs:
            self._publish(trainer, f"_epoch_{self._epoch:04d}")
            self._drawn = done

    def _keep_missing(self, trainer: Trainer, outputs: Any, batch: Any) -> None:
        missing = self.samples - len(self._kept)
        if missing <= 0 or not trainer.is_global_zero or self._folder is None or not outputs:
            return
        obstacle = self.obstacle(outputs, batch)
        if obstacle is None:
            self._kept += self.keep(outputs, batch, missing)
        elif not self._warned:
            rank_zero_warn(f"{type(self).__name__} draws nothing: {obstacle}")
            self._warned = True

    def _publish(self, trainer: Trainer, suffix: str) -> None:
        if not self._kept or self._folder is None:
            return
        figure = self.draw(self._kept, trainer.datamodule)  # type: ignore[attr-defined]
        self._kept = []
        publish(figure, self.name, self._folder, trainer, suffix)


def images_seen(outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The modalities ``(N, C, H, W)`` that teacher or student saw in a step, by their names in the batch."""
    seen = [*outputs.get("teacher_inputs", ()), *outputs["inputs"]]
    return {name: value for name, value in batch.items() if value.ndim == 4 and any(value is x for x in seen)}


def visible(modality: Tensor) -> NDArray[Any]:
    """A modality ``(C, H, W)`` as a picture.

    Returns:
        RGB ``(H, W, 3)``, stretched to the range of the values; unless there are three channels, the first one as a
        colour map.
    """
    if len(modality) != 3:
        modality = modality[:1]
    low, high = modality.min(), modality.max()
    stretched = ((modality - low) / (high - low).clamp(min=1e-12)).float().numpy()
    if len(stretched) == 3:
        return np.moveaxis(stretched, 0, -1)
    colours: NDArray[Any] = matplotlib.colormaps["viridis"](stretched[0])[..., :3]
    return colours

"""Base of the galleries: pictures of the inputs and the predictions of both models for a few samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.parts.evaluation import DrawingCallback
from callbacks.parts.figures import publish
from distill.checks import check_at_least

Sample = TypeVar("Sample")
PICTURE_WIDTH = 2.6  # inches


class Gallery(DrawingCallback, Generic[Sample]):
    """Draws the same few validation samples every few epochs and at the end of a fit, and a few test samples.

    A subclass names its pictures, says what it keeps of a sample, and draws that. It reads what the step returned; no
    model runs again. The pictures are ``figures/<name>_epoch_0003.png`` and ``figures/<name>_test.png`` in the run's
    folder, and images in TensorBoard if that is a logger.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.
        samples: The number of samples; they are the first ones of the main process.

    Raises:
        ValueError: An argument is below 1.
    """

    name: str

    def __init__(self, every_n_epochs: int = 5, samples: int = 4) -> None:
        super().__init__(every_n_epochs)
        check_at_least(1, samples=samples)
        self.samples = samples
        self._kept: list[Sample] = []

    @abstractmethod
    def obstacle(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> str | None:
        """Why a step cannot be drawn; ``None`` if it can."""

    @abstractmethod
    def keep(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], count: int) -> list[Sample]:
        """The drawn parts of the first ``count`` samples of a batch, on the CPU."""

    @abstractmethod
    def draw(self, samples: list[Sample], data: Any) -> Figure:
        """The picture of the kept samples; ``data`` is the data module or ``None``."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation, also of a fit that stopped early."""
        self._publish(trainer, f"_epoch_{self._epoch:04d}")

    def start(self, stage: str) -> None:
        """Forgets the samples of an earlier epoch."""
        self._kept = []

    def add(self, stage: str, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Keeps the first samples of every validation, because any epoch may be the last."""
        if stage == "test" or trainer.state.fn == TrainerFn.FITTING:
            self._keep_missing(trainer, outputs, batch)

    def close(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws a test, and every few epochs a validation."""
        if stage == "test":
            self._publish(trainer, "_test")
        elif self._is_due(trainer):
            self._publish(trainer, f"_epoch_{self._epoch:04d}")

    def _keep_missing(self, trainer: Trainer, outputs: Any, batch: Any) -> None:
        missing = self.samples - len(self._kept)
        if missing <= 0 or not trainer.is_global_zero or self._folder is None or not outputs:
            return
        obstacle = self.obstacle(outputs, batch)
        if obstacle is None:
            self._kept += self.keep(outputs, batch, missing)
        else:
            self._warn_once(f"draws nothing: {obstacle}")

    def _publish(self, trainer: Trainer, suffix: str) -> None:
        if not self._kept or self._folder is None:
            return
        figure = self.draw(self._kept, trainer.datamodule)  # type: ignore[attr-defined]
        self._kept = []
        publish(figure, self.name, self._folder, trainer, suffix)


def input_images(outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The images ``(N, C, H, W)`` of a batch that teacher or student takes as inputs, by name."""
    inputs = [*outputs.get("teacher_inputs", ()), *outputs["inputs"]]
    return {name: value for name, value in batch.items() if value.ndim == 4 and any(value is x for x in inputs)}

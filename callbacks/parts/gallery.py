"""Base of the galleries: pictures of the inputs and the predictions of both models for a few samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.parts.evaluation import DrawingCallback, Split
from callbacks.parts.figures import publish
from callbacks.parts.step import Step
from distill.checks import check_at_least

Sample = TypeVar("Sample")
PICTURE_WIDTH = 2.6  # inches


class Gallery(DrawingCallback, Generic[Sample]):
    """Draws the same few validation samples every few epochs and at the end of a fit, and a few test samples.

    A subclass names its pictures, says what it keeps of a sample, and draws that. It reads what the step returned; no
    model runs again. Each further loader has pictures of its own, ``figures/<name>_test_<name of the loader>.png``. The
    pictures are ``figures/<name>_epoch_0003.png`` and ``figures/<name>_test.png`` in the run's
    folder, and images in TensorBoard if that is a logger.

    Args:
        every_n_epochs: The first validation after each ``every_n_epochs`` epochs is drawn, and the last validation.
        samples: The number of samples; they are the first ones of the main process.

    Raises:
        ValueError: An argument is below 1.
    """

    name: str
    idle = "draws nothing"

    def __init__(self, every_n_epochs: int = 5, samples: int = 4) -> None:
        super().__init__(every_n_epochs)
        check_at_least(1, samples=samples)
        self.samples = samples
        self._kept: dict[Split, list[Sample]] = {}

    @abstractmethod
    def obstacle(self, step: Step) -> str | None:
        """Why a step cannot be drawn; ``None`` if it can."""

    @abstractmethod
    def keep(self, step: Step, count: int) -> list[Sample]:
        """The drawn parts of the first ``count`` samples of a batch, on the CPU."""

    @abstractmethod
    def draw(self, samples: list[Sample], trainer: Trainer) -> Figure:
        """The picture of the kept samples."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation, also of a fit that stopped early."""
        for split in list(self._kept):
            self._publish(split, trainer, f"_epoch_{self._epoch:04d}")

    def start(self, split: Split) -> None:
        """Forgets the samples of an earlier epoch."""
        self._kept[split] = []

    def add(self, split: Split, trainer: Trainer, pl_module: LightningModule, step: Step) -> None:
        """Keeps the first samples of every validation, because any epoch may be the last."""
        if split.stage == "test" or trainer.state.fn == TrainerFn.FITTING:
            self._keep_missing(split, trainer, step)

    def close(self, split: Split, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws a test, and every few epochs a validation."""
        if split.stage == "test":
            self._publish(split, trainer, "_test")
        elif self._due:
            self._publish(split, trainer, f"_epoch_{self._epoch:04d}")

    def _keep_missing(self, split: Split, trainer: Trainer, step: Step) -> None:
        missing = self.samples - len(self._kept[split])
        if missing <= 0 or not trainer.is_global_zero or self._folder is None:
            return
        obstacle = self.obstacle(step)
        if obstacle is not None:
            self._warn_once(f"{self.idle}: {obstacle}")
            return
        step = step.with_teacher()
        if len(step.prediction):
            shown = _shown(step, trainer.datamodule)  # type: ignore[attr-defined]
            self._kept[split] += self.keep(shown, missing)

    def _publish(self, split: Split, trainer: Trainer, suffix: str) -> None:
        samples = self._kept.pop(split, [])
        if samples and self._folder is not None:
            figure = self.draw(samples, trainer)
            publish(figure, self.name, self._folder, trainer, f"{suffix}{split.file_suffix}")


def _shown(step: Step, data: Any) -> Step:
    """The step with its modalities as they are drawn: colours from 0 to 1 where the data say how they were normalised.

    The data module may have ``normalization``, mean and standard deviation of the channels by modality, and
    ``rows_upwards``, the modalities whose first row belongs at the bottom.
    """
    normalization, upwards = getattr(data, "normalization", {}), getattr(data, "rows_upwards", ())

    def shown(name: str, values: Tensor) -> Tensor:
        if name in upwards:
            values = values.flip(-2)
        return colours(values, *normalization[name]) if name in normalization else values

    image = None if step.image is None else shown("image", step.image)
    return replace(step, modalities={name: shown(name, x) for name, x in step.modalities.items()}, image=image)


def colours(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised images ``(N, C, *)`` as colours from 0 to 1; grey ones with three equal channels."""
    channels = [1, -1, *[1] * (values.ndim - 2)]
    offset, scale = (torch.tensor(numbers, device=values.device).view(channels) for numbers in (mean, std))
    restored = (values * scale + offset).clamp(0, 1)
    return restored.expand(-1, 3, *values.shape[2:]) if restored.shape[1] == 1 else restored


def middle_slice(values: Tensor) -> Tensor:
    """Of volumes and videos ``(N, C, D, H, W)`` the slice in the middle, ``(N, C, H, W)``; others stay as they are."""
    return values[:, :, values.shape[2] // 2] if values.ndim == 5 else values

"""ALKD: a discriminator is not to tell the student's logits from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.losses.adversarial import Form
from distill.methods.parts.discriminator import Discriminator, discriminator_settings, opposed_losses
from distill.training.optimization import ParameterSettings


class ALKD(DistillationModule):
    """Adversarial distillation of logits (Xu et al., Training Shallow and Thin Networks ..., 2017, arXiv:1709.00513).

    ``hard_weight * CE + weight * adversarial + discriminator``: the discriminator learns to tell whose logits it sees,
    those of every sample or pixel by themselves, and the student learns to be taken for the teacher. The first loss
    trains the discriminator alone, the second the student alone.

    The paper's discriminator also predicts the class, and its student has an L1 loss besides; here it is the
    adversarial loss alone, to be combined with others. The paper takes turns, a step of the discriminator and one of
    the student, with an optimiser each. Here both learn in the same backward pass, which is simultaneous gradient
    descent, and by the same optimiser, in which the discriminator has a learning rate of its own and no weight decay:
    so mixed precision, accumulation of gradients, combinations and resumed runs work as for every method. Clipping of
    gradients by their norm takes both together; within :class:`~distill.methods.Combined`, a weight scales the
    discriminator's loss too.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        form: ``non_saturating`` or ``hinge``, see :func:`~distill.losses.discriminator_loss`.
        hidden: The units of each of the discriminator's two hidden layers.
        weight: The weight of the student's term; 0.1.
        discriminator_lr: The learning rate of the discriminator, which the schedule scales as the student's; that of
            the student if left out.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(
        self,
        *args: Any,
        form: Form = "non_saturating",
        hidden: int = 128,
        weight: float = 0.1,
        discriminator_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.form: Form = form
        self.weight = weight
        self.discriminator_lr = discriminator_lr
        self.discriminator = Discriminator(hidden)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """Those of :func:`~distill.methods.parts.discriminator.discriminator_settings`."""
        return discriminator_settings(self.discriminator, self.discriminator_lr)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Both losses for every sample or pixel."""
        logits = student.prediction
        learning, deceiving = opposed_losses(self.discriminator, logits, teacher.prediction, self.form)
        positions = logits.shape[:1] + logits.shape[2:]
        return {"adversarial": self.weight * deceiving.view(positions), "discriminator": learning.view(positions)}

"""ALKD: the student learns logits that a discriminator cannot tell from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_positive, check_weights
from distill.losses.adversarial import Form
from distill.methods.parts.discriminator import Discriminator, discriminator_settings, opposed_losses
from distill.training.optimization import ParameterSettings


class ALKD(DistillationModule):
    """Adversarial distillation of logits (Xu et al., Training Shallow and Thin Networks ..., 2017, arXiv:1709.00513).

    Trains: the discriminator, an MLP on the logits.

    ``hard_weight * CE + weight * adversarial + discriminator``. The discriminator scores each sample or pixel on its
    own and learns to tell the student's logits from the teacher's; the student learns to be taken for the teacher. The
    discriminator loss trains only the discriminator, the adversarial loss only the student.

    The paper's discriminator also predicts the class, and its student also has an L1 loss; here there is only the
    adversarial loss, to be combined with others. The paper alternates steps of the discriminator and of the student,
    each with its own optimiser. Here both learn in the same backward pass (simultaneous gradient descent) and with the
    same optimiser, in which the discriminator has its own learning rate and no weight decay. So mixed precision,
    gradient accumulation, combinations and resumed runs work as for every method. Clipping the gradient norm treats
    both together; within :class:`~distill.methods.Combined`, a weight also scales the discriminator's loss.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        form: ``non_saturating`` or ``hinge``, see :func:`~distill.losses.discriminator_loss`.
        hidden: The number of units in each of the discriminator's two hidden layers.
        weight: The weight of the student's term.
        discriminator_lr: The learning rate of the discriminator, by default the student's. The schedule scales both.
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
        check_weights(self.hard_weight, weight=weight)
        check_at_least(1, hidden=hidden)
        check_positive(discriminator_lr=discriminator_lr)
        self.form: Form = form
        self.weight = weight
        self.discriminator_lr = discriminator_lr
        self.discriminator = Discriminator(hidden)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """See :func:`~distill.methods.parts.discriminator.discriminator_settings`."""
        return discriminator_settings(self.discriminator, self.discriminator_lr)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Both losses for every sample or pixel."""
        logits = student.prediction
        losses = opposed_losses(self.discriminator, logits, teacher.prediction, self.form)
        discriminator, adversarial = (loss.view(logits.shape[:1] + logits.shape[2:]) for loss in losses)
        return {"adversarial": self.weight * adversarial, "discriminator": discriminator}

"""AFKD: the student learns features that a discriminator cannot tell from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_positive, check_weights
from distill.losses.adversarial import Form
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import convolve_to
from distill.methods.parts.discriminator import Discriminator, discriminator_settings, opposed_losses
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.training.optimization import ParameterSettings


class AFKD(DistillationModule):
    """Adversarial distillation of features (Wang et al., Adversarial Learning of Portable Student Networks, AAAI 2018).

    Needs: pairs of layers.

    Trains: an adaptor and a discriminator for each pair.

    ``hard_weight * CE + weight * adversarial + discriminator``, where the last two are sums over the pairs of layers.
    Each pair has a discriminator. It learns to tell the student's feature from the teacher's, and the student learns to
    be taken for the teacher. The discriminator loss trains only the discriminators; the adversarial loss trains only
    the student and its adaptors. Features may be vectors (in the paper, the last layer before the classifier) or maps,
    which are scored at each position. The larger of two maps is average-pooled
    (:func:`~distill.losses.parts.pooling.to_common_size`); a linear layer (1x1 convolution) brings the student's
    channels to the teacher's.

    The paper alternates steps of the discriminator and of the student, each with its own optimiser. Here both learn in
    the same backward pass (simultaneous gradient descent) and with the same optimiser, in which the discriminators have
    their own learning rate and no weight decay. So mixed precision, gradient accumulation, combinations and resumed
    runs work as for every method. Clipping the gradient norm treats both together; within
    :class:`~distill.methods.Combined`, a weight also scales the discriminators' loss.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        form: ``non_saturating``, as in the paper, or ``hinge``; see :func:`~distill.losses.discriminator_loss`.
        hidden: The number of units in each of a discriminator's two hidden layers.
        weight: The weight of the student's term.
        discriminator_lr: The learning rate of the discriminators, by default the student's. The schedule scales both.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, or teacher and student have different numbers of layers.
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
        require_pairs(self)
        check_weights(self.hard_weight, weight=weight)
        check_at_least(1, hidden=hidden)
        check_positive(discriminator_lr=discriminator_lr)
        self.form: Form = form
        self.weight = weight
        self.discriminator_lr = discriminator_lr
        self.adaptors = nn.ModuleList(nn.LazyConv1d(1, kernel_size=1) for _ in self.student_layers)
        self.discriminators = nn.ModuleList(Discriminator(hidden) for _ in self.student_layers)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """See :func:`~distill.methods.parts.discriminator.discriminator_settings`."""
        return discriminator_settings(self.discriminators, self.discriminator_lr)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Both losses for each sample, as means over its positions."""
        discriminator_losses, adversarial_losses = [], []
        parts = zip(self.adaptors, self.discriminators, feature_pairs(self, student, teacher), strict=True)
        for adaptor, discriminator, pair in parts:
            of_student, of_teacher = (feature.unsqueeze(-1).flatten(2) for feature in to_common_size(*pair))
            adapted = convolve_to(of_teacher.shape[1], adaptor, of_student)
            losses = opposed_losses(discriminator, adapted, of_teacher, self.form)
            discriminator_losses.append(losses[0].mean(1))
            adversarial_losses.append(losses[1].mean(1))
        return {
            "adversarial": self.weight * torch.stack(adversarial_losses).sum(0),
            "discriminator": torch.stack(discriminator_losses).sum(0),
        }

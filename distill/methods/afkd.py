"""AFKD: a discriminator is not to tell the student's features from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.losses.adversarial import Form
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import convolve_to
from distill.methods.parts.discriminator import Discriminator, discriminator_settings, opposed_losses
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.training.optimization import ParameterSettings


class AFKD(DistillationModule):
    """Adversarial distillation of features (Wang et al., Adversarial Learning of Portable Student Networks, AAAI 2018).

    ``hard_weight * CE + weight * adversarial + discriminator``, both summed over the pairs of layers: a discriminator a
    pair learns to tell whose feature it sees, and the student learns to be taken for the teacher. The first loss trains
    the discriminators alone, the second the student and its adaptors alone. Features may be vectors, as the paper's
    from the last layer before the classifier, or maps, which are scored at each position. The larger of two maps is
    average-pooled; a linear layer (1x1 convolution) brings the student's channels to the teacher's.

    The paper takes turns, a step of the discriminator and one of the student, with an optimiser each. Here both learn
    in the same backward pass, which is simultaneous gradient descent, and by the same optimiser, in which the
    discriminators have a learning rate of their own and no weight decay: so mixed precision, accumulation of gradients,
    combinations and resumed runs work as for every method. Clipping of gradients by their norm takes both together;
    within :class:`~distill.methods.Combined`, a weight scales the discriminators' loss too.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs.
        form: ``non_saturating``, as in the paper, or ``hinge``; see :func:`~distill.losses.discriminator_loss`.
        hidden: The units of each of a discriminator's two hidden layers.
        weight: The weight of the student's term; 0.1.
        discriminator_lr: The learning rate of the discriminators, which the schedule scales as the student's; that of
            the student if left out.
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
        self.form: Form = form
        self.weight = weight
        self.discriminator_lr = discriminator_lr
        self.adaptors = nn.ModuleList(nn.LazyConv1d(1, kernel_size=1) for _ in self.student_layers)
        self.discriminators = nn.ModuleList(Discriminator(hidden) for _ in self.student_layers)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """Those of :func:`~distill.methods.parts.discriminator.discriminator_settings`."""
        return discriminator_settings(self.discriminators, self.discriminator_lr)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Both losses for each sample, the means over its positions."""
        learning, deceiving = [], []
        parts = zip(self.adaptors, self.discriminators, feature_pairs(self, student, teacher), strict=True)
        for adaptor, discriminator, pair in parts:
            ours, theirs = (feature.reshape(*feature.shape[:2], -1) for feature in to_common_size(*pair))
            adapted = convolve_to(theirs.shape[1], adaptor, ours)
            of_discriminator, of_student = opposed_losses(discriminator, adapted, theirs, self.form)
            learning.append(of_discriminator.mean(1))
            deceiving.append(of_student.mean(1))
        return {
            "adversarial": self.weight * torch.stack(deceiving).sum(0),
            "discriminator": torch.stack(learning).sum(0),
        }

"""DS: dimensions of the output are told apart, intermediate features are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.distributed import gather
from distill.errors import UserError
from distill.losses.ds import Cross, dcm_terms, sem_terms
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.pairs import as_vector, feature_pairs, require_pairs

Term = Literal["sem_1", "sem_2", "dcm_1", "dcm_2"]


class DimensionalStructure(DistillationModule):
    """Knowledge of the dimensional structure (DS; Si et al., A Dimensional Structure based ..., eqs. 6-12).

    ``hard_weight * CE + gamma (SEM + DCM)``. The last pair of layers is the output feature: projectors, one a side,
    bring it to more dimensions, whose correlation between student and teacher is to be the identity (semantic
    enhancement, SEM). The pairs before it are intermediate features: those of different samples are to lie apart
    (distribution calibration, DCM; summed over the pairs). Both look at all samples of the batch, of all processes
    together, also at those without a label.

    Features may be vectors or maps. For SEM the mean is taken over positions. For DCM the larger of two maps is
    average-pooled, and the side with fewer channels gets channels of zeros, which change no distance on its own side:
    eq. 12 trains no adaptor. Where the paper's text and equations cannot both be met, ``center`` and ``cross`` choose;
    see :func:`~distill.losses.cross_correlation` and :func:`~distill.losses.dcm_loss`.

    What the paper leaves open was measured on the digits of :class:`~datamodules.NoisyPair` over 5 seeds
    (``configs/studies/ds_readings.yaml``), in points of accuracy against the student without distillation. With
    ``dimension=128``: +0.6 ± 0.6 at gamma 0.001, 0.0 ± 0.8 at 0.01, -2.3 ± 0.8 at 0.1; with 1024, +0.3 ± 0.6 at 0.0001
    and -0.4 ± 1.0 at 0.001. At gamma 0.01 and 128, not centred -0.4 ± 0.9, aligned -0.4 ± 1.0, the teacher's projector
    trained -0.8 ± 0.8. At 0.001, aligned +0.2 ± 0.7, sigma 0.35 +0.4 ± 0.8, sigma 1.4 +0.2 ± 1.0, lambda 0.0005 +0.2 ±
    0.6, lambda 0.05 -0.1 ± 0.5. So each default has the best mean of its kind, but only gamma 0.1 differs from the
    student by more than chance.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs,
            such as ``[stage1, stage2, stage3, pool]``.
        terms: Which of the four terms of the paper's Table 6 there are; its fifth, SRM, is the hard loss, which
            ``hard_weight=0`` leaves out.
        dimension: The paper's d, of the projected embeddings, and of the projectors' hidden layer; the paper says
            "higher dimensions". 1024 is four times that of its ResNet8x4.
        gamma: The weight of all four terms; the paper names no value. SEM is a sum over dimensions, so what fits
            depends on ``dimension``: 0.0001 for 1024, 0.001 for 128.
        lambda_: The weight of ``sem_2`` within SEM; the paper names no value, Barlow Twins has 0.005.
        sigma: The width of DCM's kernel; the paper names no value. 0.7071 is that of Wang and Isola, whom it follows.
        center: Whether SEM centres the embeddings over the batch; not so in eq. 6.
        cross: What ``dcm_2`` is: ``printed`` as in eq. 10, ``align`` the distance of true pairs.
        train_teacher_projector: Whether the teacher's projector learns. Eq. 12 does not train it: it stays as it
            started, at random.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: A term is unknown, there is none, or there are no layers for it; teacher and student have different
            numbers of layers.
    """

    def __init__(
        self,
        *args: Any,
        terms: Sequence[Term] = get_args(Term),
        dimension: int = 1024,
        gamma: float = 0.0001,
        lambda_: float = 0.005,
        sigma: float = math.sqrt(0.5),
        center: bool = True,
        cross: Cross = "printed",
        train_teacher_projector: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        require_pairs(self)
        unknown = [term for term in terms if term not in get_args(Term)]
        if unknown or not terms:
            raise UserError(f"terms must be some of {', '.join(get_args(Term))}, got {list(terms)}")
        self.terms = tuple(terms)
        if self._has("dcm") and len(self.student_layers) < 2:
            raise UserError(
                f"{type(self).__name__} has one pair of layers, which is the output's: name intermediate ones before "
                "it, or leave dcm_1 and dcm_2 out of terms"
            )
        self.gamma = gamma
        self.lambda_ = lambda_
        self.sigma = sigma
        self.center = center
        self.cross: Cross = cross
        if self._has("sem"):
            self.student_projector = _projector(dimension)
            self.teacher_projector = _projector(dimension)
            for parameter in self.teacher_projector.parameters():  # requires_grad_() refuses lazy ones
                parameter.requires_grad = train_teacher_projector

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 12, its terms apart."""
        *intermediate, output = feature_pairs(self, student, teacher)
        values = self._sem(*output) if self._has("sem") else {}
        if self._has("dcm"):
            values |= self._dcm(intermediate)
        return {term: self.gamma * values[term] for term in self.terms}

    def _has(self, module: str) -> bool:
        return any(term.startswith(module) for term in self.terms)

    def _sem(self, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
        student_z = self.student_projector(as_vector(ours))
        teacher_z = self.teacher_projector(as_vector(theirs))
        alike, apart = sem_terms(gather(student_z), gather(teacher_z), center=self.center)
        return {"sem_1": alike, "sem_2": self.lambda_ * apart}

    def _dcm(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        values = [dcm_terms(*map(gather, _of_one_shape(*pair)), sigma=self.sigma, cross=self.cross) for pair in pairs]
        own, across = zip(*values, strict=True)
        return {"dcm_1": torch.stack(own).sum(), "dcm_2": torch.stack(across).sum()}


def _projector(dimension: int) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(dimension), nn.ReLU(), nn.Linear(dimension, dimension))


def _of_one_shape(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    ours, theirs = to_common_size(ours, theirs)
    channels = max(ours.shape[1], theirs.shape[1])
    return _padded(ours, channels), _padded(theirs, channels)


def _padded(feature: Tensor, channels: int) -> Tensor:
    """Zeros for the channels that are lacking."""
    return F.pad(feature, (0, 0) * (feature.ndim - 2) + (0, channels - feature.shape[1]))

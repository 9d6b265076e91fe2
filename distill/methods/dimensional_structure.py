"""DS: each dimension of the output correlates with its counterpart alone, and intermediate features are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_positive, check_weights
from distill.distributed import gather
from distill.errors import UserError
from distill.losses.ds import Cross, dcm_terms, sem_terms
from distill.losses.parts.pooling import as_vector, to_common_size
from distill.methods.parts.pairs import feature_pairs, require_pairs

Term = Literal["sem_1", "sem_2", "dcm_1", "dcm_2"]


class DimensionalStructure(DistillationModule):
    """Knowledge of the dimensional structure (DS; Si et al., A Dimensional Structure based ..., eqs. 6-12).

    Needs: pairs of layers, the last of them the output's; global.

    Trains: a projector.

    ``hard_weight * CE + gamma (SEM + DCM)``. The last pair of layers is the output feature. One projector for each
    network brings it to more dimensions, and the correlation of these dimensions between student and teacher should be
    the identity (semantic enhancement, SEM). The pairs before it are intermediate features, and features of different
    samples should lie apart (distribution calibration, DCM, summed over the pairs). Both terms compare all samples of
    the batch, of all processes together, also samples without a label.

    Features may be vectors or maps. SEM takes their mean over positions. For DCM the two features of a pair are brought
    to the same positions (:func:`~distill.losses.parts.pooling.to_common_size`), and the network with fewer channels
    gets channels of zeros, which change none of its distances: eq. 12 trains no adaptor. The paper's text and its
    equations contradict each other in two places, where ``center`` and ``cross`` choose; see
    :func:`~distill.losses.cross_correlation` and :func:`~distill.losses.dcm_loss`. The defaults were chosen by a study,
    see ``docs/ds_ablation.md``.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs,
            such as ``[stage1, stage2, stage3, pool]``.
        terms: Which of the four terms of the paper's Table 6 are used. Its fifth, SRM, is the hard loss, which
            ``hard_weight=0`` leaves out.
        dimension: The paper's d, the number of dimensions of the projected embeddings and of the projectors' hidden
            layer; the paper says "higher dimensions". 1024 is four times the output of its ResNet8x4.
        gamma: The weight of all four terms; the paper names no value. SEM is a sum over dimensions, so the right value
            depends on ``dimension``: 0.0001 for 1024, 0.001 for 128.
        lambda_: The weight of ``sem_2`` within SEM; the paper names no value, Barlow Twins has 0.005.
        sigma: The width of DCM's kernel; the paper names no value. 0.7071 is that of Wang and Isola, whom it follows.
        center: Whether SEM centres the embeddings over the batch; eq. 6 does not.
        cross: The form of ``dcm_2``: ``printed`` as in eq. 10, ``align`` for the distance between the two features of
            each sample.
        train_teacher_projector: Whether the teacher's projector learns. Eq. 12 does not train it: it keeps its random
            start.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no term, one is unknown or has no layers, or teacher and student have different numbers of
            layers.
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
        check_weights(self.hard_weight, gamma=gamma)
        check_at_least(0, lambda_=lambda_)
        check_at_least(1, dimension=dimension)
        check_positive(sigma=sigma)
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
        """The terms of equation 12."""
        *intermediate, output = feature_pairs(self, student, teacher)
        values = self._sem(*output) if self._has("sem") else {}
        if self._has("dcm"):
            values |= self._dcm(intermediate)
        return {term: self.gamma * values[term] for term in self.terms}

    def _has(self, module: str) -> bool:
        return any(term.startswith(module) for term in self.terms)

    def _sem(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        student_z = self.student_projector(as_vector(student))
        teacher_z = self.teacher_projector(as_vector(teacher))
        diagonal, off_diagonal = sem_terms(
            gather(student_z), gather(teacher_z), center=self.center, teacher_gradient=True
        )
        return {"sem_1": diagonal, "sem_2": self.lambda_ * off_diagonal}

    def _dcm(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        values = [dcm_terms(*map(gather, _same_shape(*pair)), sigma=self.sigma, cross=self.cross) for pair in pairs]
        within, across = zip(*values, strict=True)
        return {"dcm_1": torch.stack(within).sum(), "dcm_2": torch.stack(across).sum()}


def _projector(dimension: int) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(dimension), nn.ReLU(), nn.Linear(dimension, dimension))


def _same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = to_common_size(student, teacher)
    channels = max(student.shape[1], teacher.shape[1])
    return _padded(student, channels), _padded(teacher, channels)


def _padded(feature: Tensor, channels: int) -> Tensor:
    """The feature with zeros for its missing channels."""
    return F.pad(feature, (0, 0) * (feature.ndim - 2) + (0, channels - feature.shape[1]))

"""FitNet: a regressor predicts a middle layer of the teacher from one of the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.base import Batch, NetworkOutput
from distill.checks import check_positive
from distill.losses import hint_loss
from distill.methods.parts.pairs import feature_pairs, require_pairs
from distill.methods.parts.regressor import Regressor
from distill.methods.parts.staged import StagedDistillation


class FitNet(StagedDistillation):
    """Hints for thin deep nets (Romero et al., ICLR 2015, eq. 3 and Algorithm 1).

    Needs: pairs of layers.

    Trains: a regressor for each pair, in the first stage.

    The first ``stage_one_epochs`` train the student up to its guided layers, and a regressor on each of these, on
    ``weight * sum over the pairs of layers of the mean squared error``; nothing else is trained. After them the
    regressors are no longer used, and the whole student trains on ``hard_weight * CE``. The paper's second stage adds
    KD. ``Combined`` with KD as another part does the same, but runs KD in the first stage as well.

    With ``joint=True`` there are no stages: hints and hard loss are trained together in all epochs, as in most
    comparisons of methods.

    The regressor is a 1x1 convolution (for vectors a linear layer) with batch normalisation
    (:class:`~distill.methods.parts.regressor.Regressor`). If two maps differ in size, the larger one is pooled
    (:func:`~distill.losses.parts.pooling.to_common_size`). The paper's convolution has no padding and a kernel large
    enough to reach the teacher's size. Published code has the normalisation and a ReLU after it, which cannot predict
    negative features.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` (hint layers) and ``student_layers``
            (guided layers) are pairs, in the paper one in the middle of each network.
        stage_one_epochs: The number of epochs of the first stage; unused with ``joint``. 30 in published code for
            methods with two stages.
        joint: Whether hints and hard loss are trained together.
        weight: The weight of the hints; 100 in published code that compares methods. The paper has 1 / 2 of the sum
            over channels and positions.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, teacher and student have different numbers of layers, or ``hard_weight`` is 0
            without ``joint``; and as :class:`~distill.methods.parts.staged.StagedDistillation` does.
    """

    def __init__(
        self,
        *args: Any,
        stage_one_epochs: int = 30,
        joint: bool = False,
        weight: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, stage_one_epochs=stage_one_epochs, **kwargs)
        require_pairs(self)
        check_positive(weight=weight)
        self.joint = joint
        self.weight = weight
        if joint:
            self.stage_one_epochs = 0
        else:
            self._require_hard_loss()
        self.regressors = nn.ModuleList(Regressor() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 3 for each sample; 0 in the second stage."""
        if not (self.in_stage_one or self.joint):
            return {"hint": student.prediction.new_zeros(())}
        values = []
        for regressor, pair in zip(self.regressors, feature_pairs(self, student, teacher), strict=True):
            guided, hint = pair
            values.append(hint_loss(regressor(guided, hint.shape[1]), hint, reduction="none"))
        return {"hint": self.weight * torch.stack(values).sum(0)}

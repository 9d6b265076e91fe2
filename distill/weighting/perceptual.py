"""PSSM: a weight for each wrong prediction by how similar the outputs of teacher and student are."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checks import check_option, check_share
from distill.losses.parts.logits import check_logits
from distill.losses.parts.precision import at_least_float32
from distill.losses.parts.recompute import in_chunks
from distill.outputs import Batch
from distill.weighting.base import SampleWeighting

Reading = Literal["text", "printed", "drop_wrong"]
Predictor = Literal["teacher", "student"]
Outputs = Literal["logits", "probabilities"]


class PerceptualSolutionSpaceMask(SampleWeighting):
    r"""PSSM: weights each wrong prediction by the similarity of the outputs of teacher and student.

    The similarity of the outputs O at one position is

    .. math::
        s = \tfrac12 \left( \frac{O^T \cdot O^S}{\lVert O^T \rVert \lVert O^S \rVert} + 1 \right)

    (eq. 5). Eq. 6 makes a weight of it, and eq. 8 multiplies the loss by this weight. The paper calls s a distance. So
    its eq. 6, with weight 1 for s < threshold, gives the full weight to the *least* similar outputs, but its text gives
    "features with larger differences [...] smaller weights". ``reading`` chooses:

    - ``"text"``: 1 where 1 - s < threshold, else s.
    - ``"printed"``: eq. 6 exactly as printed, 1 where s < threshold, else s.
    - ``"drop_wrong"``: 0, a control that does not use the similarity.

    Every reading applies only where the predicted class is not the target (eq. 7); other positions have weight 1.

    Args:
        reading: The reading of eq. 6.
        threshold: The paper's tau, in [0, 1].
        predictor: The model whose prediction eq. 7 compares with the target. The paper does not name it; its text
            mentions wrong pseudo-labels, which are the teacher's.
        on: The outputs O. Probabilities are not negative, so their cosine is at least 0, s is at least 1/2, and the
            mask has little effect. The cosine of logits lies between -1 and 1, but it changes if a constant is added
            to all logits. Classes with a logit of -inf, which masks them, are left out of it.
        ignore_index: Positions with this target never count as wrong.

    Raises:
        ValueError: The threshold lies outside [0, 1], or an option is unknown; when called, the shapes do not fit each
            other.

    Source: Investigating the Impact of Data Distribution Shifts on Cross-Modal Knowledge Distillation (PSSM), Sec. 3.3.
    """

    def __init__(
        self,
        reading: Reading = "text",
        threshold: float = 0.1,
        predictor: Predictor = "teacher",
        on: Outputs = "logits",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        check_option("reading", reading, get_args(Reading))
        check_option("predictor", predictor, get_args(Predictor))
        check_option("on", on, get_args(Outputs))
        check_share(threshold=threshold)
        self.reading = reading
        self.threshold = threshold
        self.predictor = predictor
        self.on = on
        self.ignore_index = ignore_index

    @property
    def usual_cause(self) -> str:
        """The predictor is right."""
        return f"mostly because the {self.predictor} predicts the labels of all training samples right"

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The weight of every sample or pixel, ``(N, *)``; see :meth:`SampleWeighting.forward`."""
        target = batch["target"]
        check_logits(student, teacher, target)
        prediction = (teacher if self.predictor == "teacher" else student).argmax(1)
        wrong = (prediction != target) & (target != self.ignore_index)
        similarity = in_chunks(self._similarity, student, teacher)
        return torch.where(wrong, self._mask(similarity), 1)

    def _similarity(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        if self.on == "probabilities":
            student, teacher = student.softmax(1), teacher.softmax(1)
        else:
            masked = (student == -torch.inf) | (teacher == -torch.inf)
            student, teacher = student.masked_fill(masked, 0), teacher.masked_fill(masked, 0)
        # rounding can make a cosine slightly larger than 1
        return ((F.cosine_similarity(student, teacher, dim=1) + 1) / 2).clamp(0, 1)

    def _mask(self, similarity: Tensor) -> Tensor:
        if self.reading == "drop_wrong":
            return torch.zeros_like(similarity)
        distance = similarity if self.reading == "printed" else 1 - similarity
        return torch.where(distance < self.threshold, 1, similarity)

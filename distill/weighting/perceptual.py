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
    r"""PSSM: where the prediction is wrong, teacher and student count by how similar their outputs are.

    .. math::
        s = \tfrac12 \left( \frac{O^T \cdot O^S}{\lVert O^T \rVert \lVert O^S \rVert} + 1 \right)

    is the similarity of the outputs O at one position (eq. 5; eq. 8 multiplies the loss by the weight made from it).
    The paper calls s a distance, so its eq. 6, with weight 1 for s < threshold, keeps the *least* similar outputs
    whole, while its text gives "features with larger differences [...] smaller weights". ``reading`` chooses:

    - ``"text"``: 1 where 1 - s < threshold, else s.
    - ``"printed"``: eq. 6 letter by letter, 1 where s < threshold, else s.
    - ``"drop_wrong"``: 0, a control that looks at no similarity.

    Every reading applies only where the predictor's class is not the target (eq. 7); other positions weigh 1.

    Args:
        reading: How eq. 6 is read.
        threshold: The paper's tau, in [0, 1].
        predictor: Whose prediction eq. 7 compares with the target. The paper does not say; its text speaks of wrong
            pseudo-labels, which are the teacher's.
        on: What O is. The cosine of probabilities, which have no negative entries, is 0 or more, so s is at least 1/2
            and the mask does little; that of logits is between -1 and 1, but changes when a constant is added to all
            of them.
        ignore_index: Positions with this target are never wrong.

    Raises:
        ValueError: The threshold lies outside [0, 1], or an option is unknown; when called, the shapes do not belong
            together.

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
        # rounding can take a cosine just above 1
        return ((F.cosine_similarity(student, teacher, dim=1) + 1) / 2).clamp(0, 1)

    def _mask(self, similarity: Tensor) -> Tensor:
        if self.reading == "drop_wrong":
            return torch.zeros_like(similarity)
        distance = similarity if self.reading == "printed" else 1 - similarity
        return torch.where(distance < self.threshold, 1, similarity)

"""How much each sample or pixel counts in a logit loss: weights made from the two models' predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.distributed import gather, own_rows, world_size
from distill.losses.logits import at_least_float32, check_logits
from distill.losses.parts import by_parts
from distill.metrics.jsd import nontarget_jsd

Reading = Literal["text", "printed", "drop_wrong"]
Predictor = Literal["teacher", "student"]
Outputs = Literal["logits", "probabilities"]
MaskMode = Literal["true", "false", "random"]


class SampleWeighting(nn.Module, ABC):
    """Weights in [0, 1], without gradient, that multiply the unreduced value of any logit loss.

    ``ignore_index`` is the target of positions to ignore; a method sets it to its task's.
    """

    ignore_index: int

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The weight of every sample or pixel.

        Args:
            student: The student's logits, ``(N, C, *)``.
            teacher: The teacher's logits, of the same shape.
            target: Class indices, ``(N, *)``.

        Returns:
            ``(N, *)``, detached; 1 at ignored positions, where the loss is 0 anyway.
        """


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
        _check_option("reading", reading, get_args(Reading))
        _check_option("predictor", predictor, get_args(Predictor))
        _check_option("on", on, get_args(Outputs))
        _check_share("threshold", threshold)
        self.reading = reading
        self.threshold = threshold
        self.predictor = predictor
        self.on = on
        self.ignore_index = ignore_index

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The weight of every sample or pixel, ``(N, *)``; see :meth:`SampleWeighting.forward`."""
        check_logits(student, teacher, target)
        prediction = (teacher if self.predictor == "teacher" else student).argmax(1)
        wrong = (prediction != target) & (target != self.ignore_index)
        similarity = by_parts(self._similarity, student, teacher)
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


class NontargetSampleMask(SampleWeighting):
    """NTDH's sample mask: leaves out the part of a batch in which the non-target classes differ most.

    The samples or pixels of the global batch, those of all processes together, are ranked by NCJSD
    (:func:`~distill.metrics.nontarget_jsd`), and ``round(fraction * counted)`` of them, halves to the even number, get
    weight 0, exactly so many. Of equal ones the first in the order of the global batch go first. Ignored positions are
    not ranked and do not count.

    Several processes, also with batches of different sizes, choose in every mode what one process would that holds
    their batches one after the other (given that NCJSD comes out equal to the last bit). The random mode ranks by
    numbers that every process draws for the whole global batch, from a seed of its own and the number of calls so far:
    it needs no equal random states, disturbs none, and goes on after a resumed run as if never stopped. The seed is
    drawn when the mask is made, so ``seed_everything`` settles it; processes that drew different ones use the first
    process's.

    Args:
        fraction: The share to leave out, in [0, 1]; the paper takes 0.25, 0.5 and 0.75.
        mode: ``"true"`` leaves out the highest NCJSD, and its controls ``"false"`` the lowest and ``"random"`` any.
        ignore_index: Positions with this target are not ranked.

    Raises:
        ValueError: The fraction lies outside [0, 1], or the mode is unknown; when called, the shapes do not belong
            together.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), Algorithm 2 and Sec. IV.
    """

    def __init__(self, fraction: float, mode: MaskMode = "true", ignore_index: int = 255) -> None:
        super().__init__()
        _check_share("fraction", fraction)
        _check_option("mode", mode, get_args(MaskMode))
        self.fraction = fraction
        self.mode = mode
        self.ignore_index = ignore_index
        self._seed = int(torch.randint(2**31, ())) if mode == "random" else 0
        self._calls = 0

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The weight of every sample or pixel, ``(N, *)``; see :meth:`SampleWeighting.forward`."""
        check_logits(student, teacher, target)
        urgency = gather(self._urgency(student, teacher, target).masked_fill(target == self.ignore_index, -torch.inf))
        if self.mode == "random":
            urgency = torch.where(urgency.isneginf(), urgency, self._draw(urgency))
        return own_rows(self._weights(urgency), target)

    def _urgency(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The higher, the sooner a position is left out; the random mode draws its own later, for all processes."""
        if self.mode == "random":
            return torch.zeros_like(target, dtype=torch.float32)
        divergence = nontarget_jsd(student, teacher, target, ignore_index=self.ignore_index)
        return -divergence if self.mode == "false" else divergence

    def _weights(self, urgency: Tensor) -> Tensor:
        """0 for the most urgent positions to leave out, 1 for the others; minus infinity does not count."""
        ranking = urgency.flatten()
        masked = (self.fraction * ranking.isfinite().sum(dtype=torch.float64)).round()
        order = ranking.argsort(descending=True, stable=True)
        weights = torch.ones_like(ranking)
        weights[order] = (torch.arange(len(order), device=order.device) >= masked).to(weights.dtype)
        return weights.view_as(urgency)

    def _draw(self, like: Tensor) -> Tensor:
        seed = self._seed
        if world_size() > 1:
            seed = int(gather(torch.tensor([seed], device=like.device))[0])
        # on the CPU, so that the numbers are the same on every device
        generator = torch.Generator().manual_seed(seed + self._calls)
        self._calls += 1
        return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    def get_extra_state(self) -> Tensor:
        """What checkpoints keep: the seed, and how often it was drawn from."""
        return torch.tensor([self._seed, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on where the mask of the checkpoint stopped."""
        self._seed, self._calls = (int(number) for number in state)


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")

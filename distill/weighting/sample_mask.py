"""NTDH: leaves out the samples or pixels on which teacher and student differ most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from distill.batches import Batch, complete_samples, with_floats
from distill.checkpoint import Weights
from distill.checks import check_option, check_share
from distill.distributed import gather, is_held_out, own_rows, world_size
from distill.errors import UserError, UserKeyError
from distill.internals.torch import FollowedModule, apply_to
from distill.losses.parts.logits import check_logits
from distill.losses.parts.precision import at_least_float32
from distill.metrics.jsd import nontarget_jsd
from distill.training.training_set import training_set
from distill.weighting.base import FittedMethod, ReferenceStudent, SampleWeighting

MaskMode = Literal["true", "false", "random"]
Ranking = Literal["static", "dynamic"]
Schedule = Literal["constant", "linear", "cosine"]
Average = Literal["all", "kept"]


class NontargetSampleMask(FollowedModule, SampleWeighting):
    """NTDH's sample mask: leaves out the samples or pixels on which the non-target classes differ most.

    Positions are ranked by NCJSD (:func:`~distill.metrics.nontarget_jsd`). Exactly ``round(fraction * counted)`` of
    them get weight 0; halves are rounded to the even number. Ties are broken by position. Ignored positions are not
    ranked and do not count. ``ranking`` chooses the student that is compared with the teacher:

    - ``"dynamic"``: the student in training. Each global batch, over all processes, is ranked in its step.
    - ``"static"``: a reference student that was trained without distillation. With one label per sample, the whole
      training set is ranked once, before the first step, and the ranks are stored by ``index``. The number of samples
      that a batch loses then depends on the ranks of its samples. With maps and point clouds, the pixels of each
      global batch are ranked by the reference student's prediction for this batch. So the mask follows random
      augmentation, at the cost of one more forward pass per step. A resumed fit ranks again and gets the same order.

    The paper ranks each batch with the student in training (Algorithm 2). On scikit-learn data the paper's order of the
    modes appears with a reference student only; ``docs/ntdh_masks.md`` has the numbers.

    In every mode, several processes choose the same positions as one process that holds their batches one after the
    other, even if the batches have different sizes (as long as NCJSD is equal to the last bit). The random mode ranks
    by random numbers, which every process draws for all processes from the mask's seed and the number of calls. So it
    does not need equal random states in the processes, does not change them, and a resumed run draws the same numbers
    as a run that never stopped. The seed is drawn when the mask is created, so ``seed_everything`` determines it; all
    processes use the seed of the first process.

    Args:
        fraction: The share to leave out, in [0, 1]; the paper uses 0.25, 0.5 and 0.75. A list has one share per epoch;
            later epochs use its last share.
        mode: ``"true"`` leaves out the highest NCJSD. The controls leave out the lowest (``"false"``) or random
            positions (``"random"``).
        ranking: See above; static if there is a ``reference_checkpoint``, else dynamic.
        reference_checkpoint: The weights of the reference student, which has the architecture of the method's student:
            a checkpoint of a run without distillation, a plain ``state_dict`` file, or ``.safetensors``.
        schedule: ``"constant"``, or a growth of the fraction from 0 in the first epoch to its full value in the last
            epoch: ``"linear"`` or along half a ``"cosine"``.
        average: With ``"all"`` the positions left out count as 0 in the mean of the loss, so a mask also lowers the
            total weight of distillation. With ``"kept"`` the other weights are raised, so that the mean is over the
            positions of the global batch that the mask keeps.
        ignore_index: Positions with this target are not ranked.

    Raises:
        ValueError: An option is unknown, out of its range, or contradicts another; when called, the shapes do not fit
            each other.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), Algorithm 2 and Sec. IV.
    """

    _reference: ReferenceStudent | None

    def __init__(
        self,
        fraction: float | list[float],
        mode: MaskMode = "true",
        ranking: Ranking | None = None,
        reference_checkpoint: Weights | str | Path | None = None,
        schedule: Schedule = "constant",
        average: Average = "all",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("mode", mode, MaskMode),
            ("ranking", ranking or "static", Ranking),
            ("schedule", schedule, Schedule),
            ("average", average, Average),
        ):
            check_option(name, value, get_args(known))
        _check_fraction(fraction, schedule)
        self.ranking: Ranking = ranking or ("dynamic" if reference_checkpoint is None else "static")
        if (self.ranking == "static") != (reference_checkpoint is not None):
            needs, got = ("a", "none") if self.ranking == "static" else ("no", reference_checkpoint)
            raise UserError(f"ranking={self.ranking!r} takes {needs} reference_checkpoint, got {got}")
        self.fraction = fraction
        self.mode = mode
        self.reference_checkpoint = reference_checkpoint
        self.schedule = schedule
        self.average = average
        self.ignore_index = ignore_index
        self._seed = int(torch.randint(2**31, ())) if mode == "random" else 0
        self._calls = 0
        # not a registered module: like a method's teacher it is not trained and not saved
        self.__dict__["_reference"] = None
        # the ranking score of each sample of the training set by its index, and its rank: rank 0 is left out first
        self._score_by_index: Tensor | None
        self._rank_by_index: Tensor | None
        self.register_buffer("_score_by_index", None, persistent=False)
        self.register_buffer("_rank_by_index", None, persistent=False)
        self.begin_epoch(0, 1)

    @property
    def is_active(self) -> bool:
        """Whether the share to leave out in this epoch is above 0."""
        return self.current_fraction > 0

    @property
    def usual_cause(self) -> str:
        """The batches are too small."""
        return f"mostly because a share of {self.current_fraction:g} of the positions of a batch is rounded to none"

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Sets the share to leave out in this epoch."""
        if not isinstance(self.fraction, float | int):
            self.current_fraction = self.fraction[min(epoch, len(self.fraction) - 1)]
            return
        if epochs < 1 and self.schedule != "constant":
            raise UserError(
                f"schedule={self.schedule!r} needs to know the trainer's max_epochs, got {epochs}: set it, even if "
                "max_steps is set, or use schedule='constant'"
            )
        grown = epoch / (epochs - 1) if epochs > 1 else 1.0
        shares = {"constant": 1.0, "linear": grown, "cosine": (1 - math.cos(math.pi * grown)) / 2}
        self.current_fraction = self.fraction * shares[self.schedule]

    @torch.no_grad()
    def begin_fit(self, method: FittedMethod) -> None:
        """Loads the reference student, and ranks the training set if it has one label per sample.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            KeyError: The batches have no ``index``.
            ValueError: The checkpoint does not fit the student, or the schedule needs the number of epochs.
        """
        self.begin_epoch(0, method.trainer.max_epochs or -1)
        if self.reference_checkpoint is None:
            return
        self.__dict__["_reference"] = method.reference_student(self.reference_checkpoint)
        self._score_by_index = self._rank_by_index = None
        device = method.device
        indices, scores = [torch.empty(0, dtype=torch.int64, device=device)], [torch.empty(0, device=device)]
        for samples in training_set(method, "ranking the training set"):
            batch = complete_samples(samples, method.teacher_inputs)
            if batch["target"].ndim > 1:
                return
            if "index" not in batch:
                raise UserKeyError("the batch has no 'index', but ranking='static' needs it to identify the samples")
            indices.append(batch["index"])
            scores.append(self._scores(self._reference_prediction(batch), method.teacher_prediction(batch), batch))
        if not len(gather(torch.cat(indices))):
            raise UserError("no sample of the training set has all modalities of the teacher, so none can be ranked")
        index, score = gather(torch.cat(indices)), gather(torch.cat(scores))
        self._score_by_index = score.new_full((int(index.max()) + 1,), -torch.inf).index_copy_(0, index, score)
        self._rank_by_index = _ranks(self._randomized(self._score_by_index, 0))
        self.__dict__["_reference"] = None  # the ranks replace it

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The weight of every sample or pixel, ``(N, *)``; see :meth:`SampleWeighting.forward`."""
        target = batch["target"]
        check_logits(student, teacher, target)
        if self._score_by_index is not None and self._rank_by_index is not None:
            if is_held_out():  # only samples of the training set have a rank
                return torch.ones_like(at_least_float32(teacher[:, 0]))
            out = (self._rank_by_index < _number_left_out(self._score_by_index, self.current_fraction))[batch["index"]]
        else:
            if self._reference is not None and self.mode != "random":
                student = self._reference_prediction(batch)
            scores = gather(self._scores(student, teacher, batch))
            out = own_rows(left_out(self._randomized(scores, self._calls), self._fraction()), target)
            self._calls += self.mode == "random" and not is_held_out()
        weights = torch.ones_like(at_least_float32(teacher[:, 0])).masked_fill(out, 0)
        return weights if self.average == "all" else self._rescaled(weights, target)

    def _fraction(self) -> float:
        """The share to leave out: for a held-out batch its last value, so that losses compare over the epochs."""
        if not is_held_out():
            return self.current_fraction
        return self.fraction if isinstance(self.fraction, float | int) else self.fraction[-1]

    def _reference_prediction(self, batch: Batch) -> Tensor:
        assert self._reference is not None
        # with precision bf16-true the batch has another type than the losses and this student
        dtype = self._reference.dtype
        return self._reference.predict(with_floats(batch, dtype))

    def _scores(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The ranking scores: the highest are left out first; minus infinity at ignored positions."""
        target = batch["target"]
        if self.mode == "random":
            scores = torch.zeros_like(target, dtype=torch.float32)
        else:
            divergence = nontarget_jsd(student, teacher, target, ignore_index=self.ignore_index)
            scores = -divergence if self.mode == "false" else divergence
        return scores.masked_fill(target == self.ignore_index, -torch.inf)

    def _rescaled(self, weights: Tensor, target: Tensor) -> Tensor:
        """The weights for ``average="kept"``: their mean over the counted positions of the global batch is 1."""
        counted = target != self.ignore_index
        counts = torch.stack([counted.sum(), (counted & (weights > 0)).sum()])
        total, kept = gather(counts[None]).sum(0)
        return torch.where(counted, weights * total / kept.clamp(min=1), weights)

    def _randomized(self, scores: Tensor, call: int) -> Tensor:
        """The scores of the positions of all processes; in random mode equal random numbers in all processes."""
        if self.mode != "random":
            return scores
        seed = self._seed
        if world_size() > 1:
            seed = int(gather(torch.tensor([seed], device=scores.device))[0])
        # on the CPU, so that the numbers are the same on every device
        generator = torch.Generator().manual_seed(seed + call)
        random = torch.rand(scores.shape, generator=generator, dtype=scores.dtype).to(scores.device)
        return torch.where(scores.isneginf(), scores, random)

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Moves the reference student to another device or type."""
        if self._reference is not None:
            apply_to(cast(nn.Module, self._reference), change)

    def get_extra_state(self) -> Tensor:
        """The state in checkpoints: the seed, and the number of calls in random mode."""
        return torch.tensor([self._seed, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the state of the mask from a checkpoint."""
        self._seed, self._calls = (int(number) for number in state)
        if self._score_by_index is not None:
            self._rank_by_index = _ranks(self._randomized(self._score_by_index, 0))


def left_out(scores: Tensor, fraction: float) -> Tensor:
    """Whether each position is left out: true for the given share with the highest scores.

    Args:
        scores: ``(*)``; a position with minus infinity does not count.
        fraction: The share of the counted positions, in [0, 1].

    Returns:
        ``(*)``, true at ``round(fraction * counted)`` positions. Ties are broken by position.
    """
    return _ranks(scores) < _number_left_out(scores, fraction)


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each position by its score, 0 for the highest score."""
    order = scores.flatten().argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.view_as(scores)


def _number_left_out(scores: Tensor, fraction: float) -> Tensor:
    return (fraction * scores.isfinite().sum(dtype=torch.float64)).round()


def _check_fraction(fraction: float | Sequence[float], schedule: str) -> None:
    if isinstance(fraction, float | int):
        check_share(fraction=fraction)
        return
    if not fraction:
        raise UserError("fraction is an empty list: give it one number per epoch")
    if schedule != "constant":
        raise UserError(f"schedule={schedule!r} takes one fraction, got the list {list(fraction)}")
    for share in fraction:
        check_share(**{"each fraction": share})

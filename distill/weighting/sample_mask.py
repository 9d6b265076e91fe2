"""NTDH: the samples or pixels that teacher and student are most apart on are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from distill.distributed import gather, own_rows, world_size
from distill.errors import UserError, UserKeyError
from distill.losses.parts.logits import at_least_float32, check_logits
from distill.metrics.jsd import nontarget_jsd
from distill.outputs import Batch
from distill.training.training_set import training_set
from distill.weighting.base import FittedMethod, ReferenceStudent, SampleWeighting, check_option, check_share

MaskMode = Literal["true", "false", "random"]
Ranking = Literal["static", "dynamic"]
Schedule = Literal["constant", "linear", "cosine"]
Average = Literal["all", "kept"]


class NontargetSampleMask(SampleWeighting):
    """NTDH's sample mask: leaves out the samples or pixels on which the non-target classes differ most.

    They are ranked by NCJSD (:func:`~distill.metrics.nontarget_jsd`), and ``round(fraction * counted)`` of them, halves
    to the even number, get weight 0, exactly so many. Of equal ones the first go first. Ignored positions are not
    ranked and do not count. ``ranking`` says which student is compared with the teacher, and when:

    - ``"dynamic"``: the student as it is in this step. Ranked is the global batch, that of all processes together.
    - ``"static"``: a reference student that was trained without distillation. Labels of one a sample are ranked once,
      over the whole training set before the first step, and the places are kept by ``index``; a batch then loses as
      many as it has of those to leave out. Of maps and point clouds the pixels of each global batch are ranked, by
      what the reference student says of them: the mask so follows the images through random augmentation, at the cost
      of one more forward pass a step. A resumed fit ranks again and comes to the same order.

    The paper ranks each batch with the student in training (Algorithm 2). On scikit-learn data its order of the modes
    shows with a reference student only: ``docs/ntdh_masks.md`` has the numbers.

    Several processes, also with batches of different sizes, choose in every mode what one process would that holds
    their batches one after the other (given that NCJSD comes out equal to the last bit). The random mode ranks by
    numbers that every process draws for all of them, from a seed of its own and the number of calls so far: it needs
    no equal random states, disturbs none, and goes on after a resumed run as if never stopped. The seed is drawn when
    the mask is made, so ``seed_everything`` settles it; processes that drew different ones use the first process's.

    Args:
        fraction: The share to leave out, in [0, 1]; the paper takes 0.25, 0.5 and 0.75. A list gives it epoch by
            epoch; its last number holds on.
        mode: ``"true"`` leaves out the highest NCJSD, and its controls ``"false"`` the lowest and ``"random"`` any.
        ranking: See above; static where there is a ``reference_checkpoint``, else dynamic.
        reference_checkpoint: The weights of the reference student, a network as the method's student: a checkpoint of
            a run without distillation, a plain ``state_dict`` file, or ``.safetensors``.
        schedule: Whether the fraction is ``"constant"`` or grows from 0 in the first epoch to all of it in the last
            one, ``"linear"`` or along half a ``"cosine"``.
        average: With ``"all"`` what is left out still counts in the mean of the loss, as 0, so that a mask also lowers
            the weight of distillation as a whole. With ``"kept"`` the weights of the others are raised, so that the
            mean is that over what the mask leaves of the global batch.
        ignore_index: Positions with this target are not ranked.

    Raises:
        ValueError: An option is unknown, out of its range, or does not go with another; when called, the shapes do not
            belong together.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), Algorithm 2 and Sec. IV.
    """

    _reference: ReferenceStudent | None

    def __init__(
        self,
        fraction: float | list[float],
        mode: MaskMode = "true",
        ranking: Ranking | None = None,
        reference_checkpoint: str | Path | None = None,
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
        # neither in a checkpoint nor trained, like a method's teacher
        self.__dict__["_reference"] = None
        # of each sample of the training set, by its index: how soon it is left out, and its place in that order
        self._by_index: Tensor | None
        self._places: Tensor | None
        self.register_buffer("_by_index", None, persistent=False)
        self.register_buffer("_places", None, persistent=False)
        self.begin_epoch(0, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Settles the share to leave out in this epoch."""
        if not isinstance(self.fraction, float | int):
            self.current_fraction = self.fraction[min(epoch, len(self.fraction) - 1)]
            return
        if epochs < 1 and self.schedule != "constant":
            raise UserError(
                f"schedule={self.schedule!r} needs to know the trainer's max_epochs, got {epochs}: set it, also beside "
                "max_steps, or schedule='constant'"
            )
        grown = epoch / (epochs - 1) if epochs > 1 else 1.0
        shares = {"constant": 1.0, "linear": grown, "cosine": (1 - math.cos(math.pi * grown)) / 2}
        self.current_fraction = self.fraction * shares[self.schedule]

    @torch.no_grad()
    def begin_fit(self, method: FittedMethod) -> None:
        """Fetches the reference student, and ranks the training set where that has one label a sample.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            KeyError: The batches have no ``index``.
            ValueError: The checkpoint is of another network than the student, or the schedule's end is open.
        """
        self.begin_epoch(0, method.trainer.max_epochs or -1)
        if self.reference_checkpoint is None:
            return
        self.__dict__["_reference"] = method.reference_student(self.reference_checkpoint)
        self._by_index = self._places = None
        device = method.device
        positions, urgencies = [torch.empty(0, dtype=torch.int64, device=device)], [torch.empty(0, device=device)]
        for batch in training_set(method.trainer, device, "ranking the training set"):
            if batch["target"].ndim > 1:
                return
            if "index" not in batch:
                raise UserKeyError("the batch has no 'index', by which ranking='static' knows its samples")
            positions.append(batch["index"])
            urgencies.append(self._urgency(self._reference_prediction(batch), method.teacher_prediction(batch), batch))
        index, urgency = gather(torch.cat(positions)), gather(torch.cat(urgencies))
        self._by_index = urgency.new_full((int(index.max()) + 1,), -torch.inf).index_copy_(0, index, urgency)
        self._places = _places(self._drawn(self._by_index, 0))
        self.__dict__["_reference"] = None  # it has said all

    @torch.no_grad()
    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The weight of every sample or pixel, ``(N, *)``; see :meth:`SampleWeighting.forward`."""
        target = batch["target"]
        check_logits(student, teacher, target)
        if self._by_index is not None and self._places is not None:
            out = (self._places < _number_out(self._by_index, self.current_fraction))[batch["index"]]
        else:
            if self._reference is not None and self.mode != "random":
                student = self._reference_prediction(batch)
            urgency = gather(self._urgency(student, teacher, batch))
            out = own_rows(left_out(self._drawn(urgency, self._calls), self.current_fraction), target)
            self._calls += self.mode == "random"
        weights = torch.ones_like(at_least_float32(teacher[:, 0])).masked_fill(out, 0)
        return weights if self.average == "all" else self._averaging_kept(weights, target)

    def _reference_prediction(self, batch: Batch) -> Tensor:
        assert self._reference is not None
        # with precision bf16-true the batch has another type than what belongs to losses
        dtype = self._reference.dtype
        return self._reference.predict({n: x.to(dtype) if x.is_floating_point() else x for n, x in batch.items()})

    def _urgency(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The higher, the sooner a position is left out; minus infinity where it does not count."""
        target = batch["target"]
        if self.mode == "random":
            urgency = torch.zeros_like(target, dtype=torch.float32)
        else:
            divergence = nontarget_jsd(student, teacher, target, ignore_index=self.ignore_index)
            urgency = -divergence if self.mode == "false" else divergence
        return urgency.masked_fill(target == self.ignore_index, -torch.inf)

    def _averaging_kept(self, weights: Tensor, target: Tensor) -> Tensor:
        counted = target != self.ignore_index
        own = torch.stack([counted.sum(), (counted & (weights > 0)).sum()])
        of_all, kept = gather(own[None]).sum(0)
        return torch.where(counted, weights * of_all / kept.clamp(min=1), weights)

    def _drawn(self, urgency: Tensor, call: int) -> Tensor:
        """The urgency of all processes' positions; the random mode draws it here, for all of them alike."""
        if self.mode != "random":
            return urgency
        seed = self._seed
        if world_size() > 1:
            seed = int(gather(torch.tensor([seed], device=urgency.device))[0])
        # on the CPU, so that the numbers are the same on every device
        generator = torch.Generator().manual_seed(seed + call)
        drawn = torch.rand(urgency.shape, generator=generator, dtype=urgency.dtype).to(urgency.device)
        return torch.where(urgency.isneginf(), urgency, drawn)

    def _apply(self, fn: Any, recurse: bool = True) -> NontargetSampleMask:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._reference is not None:
            self._reference._apply(fn)
        return self

    def get_extra_state(self) -> Tensor:
        """What checkpoints keep: the seed, and how often it was drawn from."""
        return torch.tensor([self._seed, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on where the mask of the checkpoint stopped."""
        self._seed, self._calls = (int(number) for number in state)
        if self._by_index is not None:
            self._places = _places(self._drawn(self._by_index, 0))


def left_out(urgency: Tensor, fraction: float) -> Tensor:
    """Whether each position is among the given share of the most urgent ones.

    Args:
        urgency: ``(*)``; minus infinity does not count.
        fraction: The share of what counts, in [0, 1].

    Returns:
        ``(*)``, true at ``round(fraction * counted)`` positions; of equal ones the first go first.
    """
    return _places(urgency) < _number_out(urgency, fraction)


def _places(urgency: Tensor) -> Tensor:
    """The place of each position in the order of urgency, 0 for the most urgent."""
    order = urgency.flatten().argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view_as(urgency)


def _number_out(urgency: Tensor, fraction: float) -> Tensor:
    return (fraction * urgency.isfinite().sum(dtype=torch.float64)).round()


def _check_fraction(fraction: float | Sequence[float], schedule: str) -> None:
    if isinstance(fraction, float | int):
        check_share("fraction", fraction)
        return
    if not fraction:
        raise UserError("fraction is an empty list: give it one number an epoch")
    if schedule != "constant":
        raise UserError(f"schedule={schedule!r} takes one fraction, got the list {list(fraction)}")
    for share in fraction:
        check_share("each fraction", share)

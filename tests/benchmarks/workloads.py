"""Every loss with what it is compared with, and the tensors that it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill import losses
from tests.benchmarks import textbook
from tests.benchmarks.textbook import T
from tests.benchmarks.torchdistill_losses import torchdistill_losses
from tests.losses.plain_dpm import plain_divergence

SHAPES: dict[str, tuple[int, ...]] = {
    "logits": (256, 100),
    "features": (64, 256, 8, 8),
    "dense": (4, 19, 256, 512),
    "depth": (4, 1, 352, 704),
}
"""The first three are the workloads; depth is the crop of TIE-KD's paper."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Loss = Callable[..., Tensor]


class Workload(NamedTuple):
    student: Tensor
    teacher: Tensor
    target: Tensor


class Case(NamedTuple):
    """A loss on one workload: it and its rivals as functions of the student's tensor alone."""

    loss: str
    workload: str
    student: Tensor
    own: Callable[[Tensor], Tensor]
    rivals: dict[str, Callable[[Tensor], Tensor]]
    agreement: float


def arguments_of_pair(x: Workload) -> tuple[Any, ...]:
    return (x.teacher,)


def with_target(x: Workload) -> tuple[Any, ...]:
    return x.teacher, x.target


def target_alone(x: Workload) -> tuple[Any, ...]:
    return (x.target,)


def with_weights(x: Workload) -> tuple[Any, ...]:
    return x.teacher, x.target, 1 + 9 * torch.rand_like(x.student)


def with_variance(x: Workload) -> tuple[Any, ...]:
    return x.teacher, torch.linspace(0.5, 5, x.student.shape[1], device=x.student.device)


class Comparison(NamedTuple):
    """``own`` and ``textbook`` take the student's tensor and what ``arguments`` gives; they agree to ``agreement``."""

    own: Loss
    textbook: Loss
    workloads: str
    arguments: Callable[[Workload], tuple[Any, ...]] = arguments_of_pair
    agreement: float = 1e-3


def fsp(student: Tensor, teacher: Tensor) -> Tensor:
    halves = student.chunk(2, 1), teacher.chunk(2, 1)
    return losses.fsp_loss(losses.fsp_matrix(*halves[0]), losses.fsp_matrix(*halves[1]))


def nce(loss: Loss) -> Loss:
    return lambda student, teacher: loss(teacher.flatten(1)[:, 0], student.flatten(1), n_data=50000)


def pooled(loss: Loss) -> Loss:
    return lambda *sides: loss(*(side.flatten(2).mean(2) if side.ndim > 2 else side for side in sides))


def all_pairs(loss: Loss) -> Loss:
    """Two layers of the student with two of the teacher."""

    def call(student: Tensor, teacher: Tensor) -> Tensor:
        attention = torch.full((len(student), 2, 2), 0.5, device=student.device)
        return loss([[student, student], [student, student]], [teacher, teacher], attention)

    return call


def student_alone(loss: Loss) -> Loss:
    return lambda student, teacher: loss(student)


MAPS, ALL = "features dense", "logits features dense"
LOSSES: dict[str, Comparison] = {
    "kd": Comparison(partial(losses.kd_loss, temperature=T), textbook.kd, "logits dense"),
    "dkd": Comparison(losses.dkd_loss, textbook.dkd, "logits dense", with_target),
    "dwld": Comparison(partial(losses.dwld_loss, temperature=T), textbook.dwld, "logits dense", with_weights),
    "lovasz": Comparison(losses.lovasz_loss, textbook.lovasz, "dense", target_alone),
    "cwd": Comparison(partial(losses.cwd_loss, temperature=T), textbook.cwd, MAPS),
    "discriminator": Comparison(losses.discriminator_loss, textbook.discriminator, ALL),
    "deception": Comparison(student_alone(losses.deception_loss), student_alone(textbook.deception), ALL),
    "nce": Comparison(nce(losses.nce_loss), nce(textbook.nce), "logits features"),
    "hint": Comparison(losses.hint_loss, textbook.hint, ALL),
    "semckd": Comparison(all_pairs(losses.semckd_loss), all_pairs(textbook.semckd), "features"),
    "at": Comparison(losses.at_loss, textbook.at, MAPS),
    "nst": Comparison(losses.nst_loss, textbook.nst, MAPS),
    "factor": Comparison(losses.factor_loss, textbook.factor, ALL),
    "vid": Comparison(losses.vid_loss, textbook.vid, ALL, with_variance),
    "fsp": Comparison(fsp, textbook.fsp, "features"),
    "rkd distance": Comparison(losses.rkd_distance_loss, textbook.rkd_distance, ALL),
    "rkd angle": Comparison(losses.rkd_angle_loss, textbook.rkd_angle, ALL),
    "sp": Comparison(losses.sp_loss, textbook.sp, ALL),
    "pkt": Comparison(losses.pkt_loss, textbook.pkt, ALL),
    "cc": Comparison(losses.cc_loss, textbook.cc, ALL),
    "sem": Comparison(pooled(losses.sem_loss), pooled(textbook.sem), "logits features"),
    # in float32 the plain formula has samples at some distance from themselves
    "dcm": Comparison(partial(losses.dcm_loss, sigma=1.0), textbook.dcm, ALL, agreement=5e-3),
    "recalibrate": Comparison(
        student_alone(lambda x: losses.recalibrate(x).sum()),
        student_alone(lambda x: textbook.recalibrate(x).sum()),
        MAPS,
    ),
    "consistency": Comparison(lambda s, t: losses.consistency_loss(s, t).mean(), textbook.cka, MAPS),
    "silog": Comparison(losses.silog_loss, textbook.silog, "depth"),
    # at the borders of the image the plain formula has windows with zeros in them
    "ssim": Comparison(losses.ssim_loss, textbook.ssim, "depth", agreement=0.05),
    "dpm": Comparison(losses.dpm_loss, lambda s, depth: plain_divergence(s, depth).mean(), "dense"),
}


def workload(name: str, loss: str) -> Workload:
    generator = torch.Generator().manual_seed(0)
    shape = SHAPES[name]
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    if name == "depth":
        student, teacher = (1 + 79 * torch.rand(shape, generator=generator) for _ in range(2))
    if loss == "dpm":
        teacher = 1 + 79 * torch.rand(shape[0], 1, *shape[2:], generator=generator)
    return Workload(student.to(DEVICE), teacher.to(DEVICE), target.to(DEVICE))


def names() -> Iterator[tuple[str, str]]:
    """Every loss with every workload that it takes."""
    return ((loss, name) for loss, comparison in LOSSES.items() for name in comparison.workloads.split())


def make(loss: str, name: str) -> Case:
    comparison, x = LOSSES[loss], workload(name, loss)
    arguments = comparison.arguments(x)

    def of_student(function: Loss) -> Callable[[Tensor], Tensor]:
        return lambda student: function(student, *arguments)

    rivals = {"textbook": of_student(comparison.textbook)}
    if loss in (published := torchdistill_losses()):
        rivals["torchdistill"] = of_student(published[loss])
    return Case(loss, name, x.student.requires_grad_(), of_student(comparison.own), rivals, comparison.agreement)

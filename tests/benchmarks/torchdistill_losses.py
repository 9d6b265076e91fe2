"""torchdistill's losses, as functions of the student's and the teacher's tensors; none where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.textbook import GAMMA, T

INSTALLED = importlib.util.find_spec("torchdistill") is not None


def torchdistill_losses() -> dict[str, Callable[..., Tensor]]:
    """By our names."""
    if not INSTALLED:
        return {}
    from torchdistill.losses import mid_level

    io = {"student_module_path": "x", "student_module_io": "output"}
    io |= {"teacher_module_path": "x", "teacher_module_io": "output"}
    paths = {"student_output_path": "x", "teacher_output_path": "x"}
    one = {"path": "x", "io": "output"}
    kernel = {"type": "gaussian", "gamma": GAMMA, "max_p": 2}
    halves = {
        f"{side}_{half}": {"path": half, "io": "output"}
        for side in ("student", "teacher")
        for half in ("first", "second")
    }
    at = mid_level.ATLoss(at_pairs={"x": {"student": one, "teacher": one}})
    cc = mid_level.CCKDLoss("x", "x", kernel_config=kernel, reduction="batchmean")
    factor = mid_level.FTLoss(paraphraser_path="x", translator_path="x")
    fsp = mid_level.FSPLoss({"x": halves})
    kd = mid_level.KDLoss(**io, temperature=T, alpha=0.0)
    pkt = mid_level.PKTLoss(**io)
    rkd_angle = mid_level.RKDLoss(**paths, dist_factor=0, angle_factor=1, reduction="mean")
    rkd_distance = mid_level.RKDLoss(**paths, dist_factor=1, angle_factor=0, reduction="mean")
    sp = mid_level.SPKDLoss(**paths, reduction="batchmean")
    vid = mid_level.VIDLoss({"x": {"student": one, "teacher": one}})

    def plain(loss: Any) -> Callable[..., Tensor]:
        def call(student: Any, teacher: Tensor) -> Tensor:
            return torch.as_tensor(loss({"x": {"output": student}}, {"x": {"output": teacher}}))

        return call

    def of_rows(loss: Any) -> Callable[..., Tensor]:
        return lambda student, teacher: plain(loss)(student.flatten(1), teacher.flatten(1))

    def of_halves(student: Tensor, teacher: Tensor) -> Tensor:
        sides = [dict(zip(("first", "second"), x.chunk(2, 1), strict=True)) for x in (student, teacher)]
        return torch.as_tensor(fsp(*({name: {"output": half} for name, half in side.items()} for side in sides)))

    def of_variances(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
        return plain(vid)((mean, variance.view(-1, *[1] * (teacher.ndim - 2))), teacher)

    losses = {name: plain(loss) for name, loss in {"kd": kd, "at": at, "factor": factor}.items()}
    losses |= {name: of_rows(loss) for name, loss in {"cc": cc, "pkt": pkt, "sp": sp}.items()}
    losses |= {name: of_rows(loss) for name, loss in {"rkd distance": rkd_distance, "rkd angle": rkd_angle}.items()}
    return losses | {"fsp": of_halves, "vid": of_variances}

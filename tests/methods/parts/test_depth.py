from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill import DepthEstimation, DistillationModule, NetworkOutput, SemanticSegmentation
from distill.losses import depth_probability_map, ssim_loss
from distill.methods import TIEKD, ResKD
from tests.toys import MAX_DEPTH, ON_DEPTH, ToyData, make_batch, network, pair_arguments, prepared, quiet_trainer

TOP = 2


def depths(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Depth of student and teacher and the student's logits over 8 bins, of 3 images of 7 x 9 pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (0.5 + 9 * torch.rand(3, 1, 7, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[0, 0, 4, 2:5] = 0  # no response
    return student, teacher, torch.randn(3, 8, 7, 9, generator=generator, dtype=torch.float64)


def terms_of(method: DistillationModule) -> dict[str, Tensor]:
    student, teacher, logits = depths()
    features = dict.fromkeys(method.student_layers, logits)
    return method.distillation_step(NetworkOutput(teacher, {}), NetworkOutput(student, features), {})


def task() -> DepthEstimation:
    return DepthEstimation(max_depth=MAX_DEPTH, ignore_top_rows=TOP)


def region() -> Tensor:
    """What counts: the rows below the ignored ones, where the teacher has a response."""
    return (depths()[1] > 0)[:, 0, TOP:]


def test_tie_kd_is_equation_4_below_the_ignored_rows_where_the_teacher_responds() -> None:
    student, teacher, logits = depths()
    q = logits.softmax(1)[:, :, TOP:]
    p = depth_probability_map(teacher[:, :, TOP:], bins=8, max_depth=MAX_DEPTH, sigma=0.3)
    kl = torch.where(p > 0, p * (p / q).log(), 0).sum(1)
    terms = terms_of(TIEKD(task=task(), sigma=0.3, alpha=0.25, beta=4.0))
    torch.testing.assert_close(terms["dpm"], 4 * 0.25 * kl[region()].mean())
    dissimilar = ssim_loss(student[:, :, TOP:], teacher[:, :, TOP:], data_range=MAX_DEPTH, reduction="none")
    torch.testing.assert_close(terms["depth"], 4 * 0.75 * dissimilar[region()].mean())


@pytest.mark.parametrize(("alpha", "left"), [(0.0, "depth"), (1.0, "dpm")])
def test_a_loss_that_weighs_nothing_is_not_computed(alpha: float, left: str) -> None:
    assert list(terms_of(TIEKD(task=task(), alpha=alpha))) == [left]


def test_tie_kd_has_the_papers_weights_and_uses_no_labels() -> None:
    method = TIEKD(task=task())
    assert (method.alpha, method.beta, method.sigma, method.hard_weight) == (0.1, 10.0, 0.8, 0.0)
    assert method.student_layers == ("bins",)


def test_res_kd_is_the_sum_of_the_losses_asked_for() -> None:
    student, teacher, _ = depths()
    of_student, of_teacher, counted = student[:, 0, TOP:], teacher[:, 0, TOP:], region()
    si = []
    for n in range(3):
        g = of_student[n][counted[n]].log() - of_teacher[n][counted[n]].log()
        si.append((g.square().mean() - 0.85 * g.mean().square()).sqrt())
    terms = terms_of(ResKD(task=task(), losses=["mse", "si", "ssim"], weight=3.0))
    torch.testing.assert_close(terms["mse"], 3 * (of_student - of_teacher)[counted].square().mean())
    torch.testing.assert_close(terms["si"], 3 * torch.stack(si).mean())
    expected = ssim_loss(student[:, :, TOP:], teacher[:, :, TOP:], data_range=MAX_DEPTH, reduction="none")
    torch.testing.assert_close(terms["ssim"], 3 * expected[counted].mean())
    assert list(terms_of(ResKD(task=task()))) == ["ssim", "si"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ResKD(losses=["huber"]),  # type: ignore[list-item]
            r"losses must be one or more of ssim, mse, si, got \['huber'\]",
        ),
        (partial(ResKD, losses=[]), r"losses must be one or more of ssim, mse, si, got \[\]"),
        (partial(TIEKD, alpha=1.5), r"alpha must lie in \[0, 1\], got 1.5"),
        (partial(TIEKD, student_layers=["a", "b"]), r"name the one layer with logits over bins, got \['a', 'b'\]"),
    ],
)
def test_unusable_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_another_task_is_named() -> None:
    with pytest.raises(ValueError, match=r"ResKD needs task: distill.DepthEstimation or distill.Regr.* has SemanticS"):
        terms_of(ResKD(task=SemanticSegmentation(4)))


def test_bins_of_another_range_than_the_tasks_are_named_before_the_first_step(tmp_path: Path) -> None:
    student = network(ON_DEPTH, 4)
    student.max_depth = 80  # type: ignore[assignment]
    method = TIEKD(**pair_arguments(ON_DEPTH, student=student), student_layers=["head"])
    with pytest.raises(ValueError, match="network DepthNet has max_depth=80, but the task has max_depth=10"):
        quiet_trainer(tmp_path).fit(method, ToyData(method=ON_DEPTH))


def test_without_targets_the_teachers_depth_is_brought_to_the_students_size() -> None:
    method = prepared(TIEKD(**pair_arguments(ON_DEPTH), student_layers=["head"]))
    batch = make_batch(method=ON_DEPTH)
    del batch["target"]
    small = {**batch, "x_a": batch["x_a"][..., ::2, ::2]}

    class Half(torch.nn.Module):
        def forward(self, x_a: Tensor, x_b: Tensor) -> Tensor:
            return x_a[:, :1].exp()

    halved = TIEKD(**pair_arguments(ON_DEPTH, teacher=Half().eval()), student_layers=["head"])
    for module, seen in ((method, batch), (prepared(halved), small)):
        loss = module.training_step(seen, 0)["loss"]
        assert torch.isfinite(loss)
        assert loss.requires_grad


def test_tie_kd_says_what_it_needs_where_the_student_has_no_bins() -> None:
    with pytest.raises(KeyError, match=r"has no layer 'bins'.*logits over bins.*student_layers"):
        TIEKD(student=torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1)), task=task())

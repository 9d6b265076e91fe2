"""What every divergence on logits guarantees, whatever its formula."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from distill.losses import decoupled_kd_terms, dkd_loss, dwld_loss, dwld_terms, kd_loss
from distill.losses.parts import recompute
from distill.metrics import nontarget_jsd, target_jsd
from tests.losses.cases import IGNORED, Divergence, assert_near, gradient, random_case


def beta(logits: Tensor) -> Tensor:
    """A weight that differs from class to class and is the same at every position, so that parts are the whole."""
    classes = logits.shape[1] if logits.ndim > 1 else 1
    weights = torch.linspace(1, 3, classes, dtype=torch.float64)
    return weights.view(-1, *[1] * max(0, logits.ndim - 2)).expand_as(logits)


UNREDUCED: dict[str, Divergence] = {
    "kd": lambda s, t, y: kd_loss(s, t, temperature=4.0, target=y, reduction="none"),
    "tckd": lambda s, t, y: decoupled_kd_terms(s, t, y, temperature=4.0)[0],
    "nckd": lambda s, t, y: decoupled_kd_terms(s, t, y, temperature=4.0)[1],
    "dkd": lambda s, t, y: dkd_loss(s, t, y, reduction="none"),
    "tcld": lambda s, t, y: dwld_terms(s, t, y, beta(s), temperature=4.0)[0],
    "ncld": lambda s, t, y: dwld_terms(s, t, y, beta(s), temperature=4.0, form="bregman")[1],
    "dwld": lambda s, t, y: dwld_loss(s, t, y, beta(s), form="bregman", reduction="none"),
    "target_jsd": target_jsd,
    "nontarget_jsd": nontarget_jsd,
}
REDUCED: dict[str, Divergence] = {
    "kd": lambda s, t, y: kd_loss(s, t, target=y),
    "dkd": dkd_loss,
    "dwld": lambda s, t, y: dwld_loss(s, t, y, beta(s)),
}

unreduced = pytest.mark.parametrize("divergence", UNREDUCED.values(), ids=UNREDUCED)
reduced = pytest.mark.parametrize("loss", REDUCED.values(), ids=REDUCED)


@unreduced
def test_ignored_positions_are_zero_with_zero_gradient(divergence: Divergence) -> None:
    student, teacher, target = random_case(samples=4, spatial=(3, 3))
    values = divergence(student, teacher, target)
    assert values.shape == target.shape
    assert torch.equal(values == 0, target == IGNORED)
    of_ignored = gradient(lambda s: divergence(s, teacher, target), student).movedim(1, -1)[target == IGNORED]
    assert len(of_ignored) > 0
    assert of_ignored.eq(0).all()


@unreduced
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_what_stands_at_ignored_positions_does_not_matter(divergence: Divergence, strange: float) -> None:
    case = random_case(samples=4, spatial=(3, 3))
    ignored = (case.target == IGNORED).unsqueeze(1)
    student, teacher = (logits.masked_fill(ignored, strange) for logits in case[:2])
    assert_near(divergence(student, teacher, case.target), divergence(*case))
    assert_near(
        gradient(lambda s: divergence(s, teacher, case.target), student),
        gradient(lambda s: divergence(s, *case[1:]), case.student),
    )


@unreduced
def test_a_class_masked_by_minus_infinity_is_a_class_less(divergence: Divergence) -> None:
    student, teacher, target = random_case(samples=4, classes=6, spatial=(3,))
    # all classes but two are masked at the first position, one class at the others
    masked = torch.zeros_like(student, dtype=torch.bool)
    masked[:, 5] = masked[:, 2:, 0] = True
    target = torch.where((target != IGNORED) & masked.gather(1, target.clamp(max=5)[:, None])[:, 0], 0, target)

    def least(logits: Tensor, mask: Tensor) -> Tensor:
        return logits.masked_fill(mask, -1e4)

    for of_student in (masked, torch.zeros_like(masked)):
        spoiled = student.masked_fill(of_student, -torch.inf)
        values = divergence(spoiled, teacher.masked_fill(masked, -torch.inf), target)
        assert_near(values, divergence(least(student, of_student), least(teacher, masked), target))
        slope = gradient(lambda s: divergence(s, teacher.masked_fill(masked, -torch.inf), target), spoiled)
        expected = gradient(lambda s: divergence(s, least(teacher, masked), target), least(student, of_student))
        assert_near(slope, expected)


@unreduced
def test_a_teacher_sure_of_its_target_class_by_minus_infinity_is_finite(divergence: Divergence) -> None:
    student, teacher, target = random_case(samples=3, classes=3)
    target = torch.tensor([0, 1, 2])
    teacher = teacher.masked_fill(torch.arange(3) != target[:, None], -torch.inf)
    assert divergence(student, teacher, target).isfinite().all()
    assert gradient(lambda s: divergence(s, teacher, target), student).isfinite().all()
    assert divergence(teacher, teacher, target).eq(0).all()


@reduced
def test_a_target_that_is_all_ignored_gives_zero_with_zero_gradient(loss: Divergence) -> None:
    student, teacher, target = random_case(spatial=(2, 2))
    student.requires_grad_()
    value = loss(student, teacher, torch.full_like(target, IGNORED))
    (in_student,) = torch.autograd.grad(value, student)
    assert value == 0
    assert in_student.eq(0).all()


@reduced
def test_mean_is_over_the_positions_that_count(loss: Divergence) -> None:
    student, teacher, target = random_case(samples=8, classes=5)
    counted = target != IGNORED
    assert 0 < counted.sum() < 8
    assert_near(loss(student, teacher, target), loss(student[counted], teacher[counted], target[counted]))


@reduced
def test_an_empty_batch_gives_zero(loss: Divergence) -> None:
    student, target = torch.zeros(0, 3, 2, requires_grad=True), torch.zeros(0, 2, dtype=torch.int64)
    assert loss(student, torch.zeros(0, 3, 2), target) == 0
    assert kd_loss(student, torch.zeros(0, 3, 2)) == 0


@unreduced
@pytest.mark.parametrize("classes", [2, 3, 19])
def test_finite_for_logit_gaps_of_1000_of_both_signs(divergence: Divergence, classes: int) -> None:
    rows = torch.stack([torch.zeros(classes), *1000 * torch.eye(classes), *-1000 * torch.eye(classes)])
    pairs = [*product(rows, rows)]
    student, teacher = (torch.stack([pair[side] for pair in pairs]).requires_grad_() for side in (0, 1))
    for label in (0, classes - 1):
        target = torch.full((len(pairs),), label)
        values = divergence(student, teacher, target)
        (in_single,) = torch.autograd.grad(values.sum(), student)
        exact = divergence(student.double(), teacher.double(), target)
        (in_double,) = torch.autograd.grad(exact.sum(), student)
        torch.testing.assert_close(values, exact.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(in_single, in_double, rtol=1e-5, atol=1e-5)
        assert values.isfinite().all()
        assert in_single.isfinite().all()


@unreduced
def test_all_equal_logits_differ_by_nothing(divergence: Divergence) -> None:
    student = torch.full((2, 7, 3), 5.0, requires_grad=True)
    values = divergence(student, torch.full((2, 7, 3), 5.0), torch.tensor([[0, 3, 6], [1, 2, 5]]))
    (in_student,) = torch.autograd.grad(values.sum(), student)
    assert values.eq(0).all()
    torch.testing.assert_close(in_student, torch.zeros_like(student), rtol=0, atol=1e-6)


@unreduced
def test_never_negative_beyond_rounding(divergence: Divergence) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, change = torch.randn(2, 500, 10, generator=generator, dtype=torch.float64)
    for size in (1e-6, 1e-3, 1.0):
        assert divergence(teacher + size * change, teacher, torch.arange(500) % 10).min() > -1e-12


@unreduced
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(divergence: Divergence, dtype: torch.dtype) -> None:
    student, teacher, target = random_case(classes=19, spatial=(2, 2))
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    values = divergence(student, teacher, target)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, divergence(student.float(), teacher.float(), target), rtol=0, atol=0)
    (in_student,) = torch.autograd.grad(values.sum(), student)
    assert in_student.dtype == dtype


@unreduced
def test_float64_is_kept(divergence: Divergence) -> None:
    assert divergence(*random_case()).dtype == torch.float64


@unreduced
def test_memory_layout_does_not_matter(divergence: Divergence) -> None:
    student, teacher, target = random_case(classes=5, spatial=(4, 6))
    expected = divergence(student, teacher, target)
    channels_last = divergence(
        student.contiguous(memory_format=torch.channels_last),
        teacher.contiguous(memory_format=torch.channels_last),
        target,
    )
    assert_near(channels_last, expected, 1e-14)
    strided = divergence(student[:, :, ::2], teacher[:, :, ::2], target[:, ::2])
    assert_near(strided, expected[:, ::2], 1e-14)


@unreduced
def test_positions_do_not_know_of_each_other(divergence: Divergence) -> None:
    student, teacher, target = random_case(samples=4, spatial=(2, 3))
    alone = divergence(student[2:3, :, 1:, 2:], teacher[2:3, :, 1:, 2:], target[2:3, 1:, 2:])
    assert_near(alone, divergence(student, teacher, target)[2:3, 1:, 2:], 1e-14)


@unreduced
@pytest.mark.parametrize("part", [1, 60, 10**6])
def test_a_batch_in_parts_is_the_whole_batch(
    divergence: Divergence, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher, target = random_case(samples=7, spatial=(2, 3))
    whole = divergence(student, teacher, target)
    gradient_of_whole = gradient(lambda s: divergence(s, teacher, target), student)
    monkeypatch.setattr(recompute, "CHUNK_NUMEL", part)
    with torch.no_grad():
        assert_near(divergence(student, teacher, target), whole, 1e-14)
    assert_near(divergence(student.requires_grad_(), teacher, target), whole, 1e-14)
    assert_near(gradient(lambda s: divergence(s, teacher, target), student), gradient_of_whole, 1e-14)


@unreduced
def test_gradients_are_those_of_finite_differences(divergence: Divergence) -> None:
    student, teacher, target = random_case(samples=2, classes=3, spatial=(2,))
    assert torch.autograd.gradcheck(lambda s: divergence(s, teacher, target), student.requires_grad_())


@unreduced
def test_any_integer_type_of_target_will_do(divergence: Divergence) -> None:
    student, teacher, target = random_case(spatial=(2, 2))
    assert_near(divergence(student, teacher, target.to(torch.uint8)), divergence(student, teacher, target), 0)


@unreduced
@pytest.mark.parametrize(
    ("student", "teacher", "target", "message"),
    [
        ((4, 10), (4, 12), (4,), r"student and teacher must have the same shape, got \(4, 10\) and \(4, 12\)"),
        ((4,), (4,), (4,), r"logits must have shape \(N, C, \*\), got \(4,\)"),
        ((4, 3), (4, 3), (4, 1), r"target must have shape \(4,\) for logits of shape \(4, 3\), got \(4, 1\)"),
        ((4, 3, 8, 8), (4, 3, 8, 8), (4, 1, 8, 8), r"target must have shape \(4, 8, 8\) for"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    divergence: Divergence, student: tuple[int, ...], teacher: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        divergence(torch.zeros(student), torch.zeros(teacher), torch.zeros(target, dtype=torch.int64))


@unreduced
def test_a_target_of_probabilities_is_refused(divergence: Divergence) -> None:
    with pytest.raises(ValueError, match=r"target must hold class indices, got torch\.float32"):
        divergence(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))


@pytest.mark.parametrize("name", UNREDUCED)
def test_one_class_alone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"at least 2 classes on dim 1, got shape \(2, 1\)"):
        UNREDUCED[name](torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("temperature", "wrong"),
    [(0.0, "positive, got 0.0"), (-1.0, "positive, got -1.0"), (math.nan, "finite, got nan"), (math.inf, "finite")],
)
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float, wrong: str) -> None:
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for loss in (
        lambda: kd_loss(logits, logits, temperature=temperature),
        lambda: decoupled_kd_terms(logits, logits, target, temperature=temperature),
        lambda: dkd_loss(logits, logits, target, temperature=temperature),
    ):
        with pytest.raises(ValueError, match=f"temperature must be {wrong}"):
            loss()


def test_an_unknown_reduction_is_refused() -> None:
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    message = "reduction must be one of none, mean, sum, got 'batchmean'"
    with pytest.raises(ValueError, match=message):
        kd_loss(logits, logits, reduction="batchmean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        dkd_loss(logits, logits, target, reduction="batchmean")  # type: ignore[arg-type]

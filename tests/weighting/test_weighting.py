from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.losses import kd_loss
from distill.metrics import nontarget_jsd
from distill.weighting import (
    MaskMode,
    NontargetSampleMask,
    PerceptualSolutionSpaceMask,
    Predictor,
    Reading,
    SampleWeighting,
)
from tests.losses.cases import (
    IGNORED,
    Case,
    assert_near,
    by_equation,
    cases,
    few_examples,
    random_case,
    softmax,
)
from tests.processes import run_in_processes

WEIGHTINGS: dict[str, SampleWeighting] = {
    "text": PerceptualSolutionSpaceMask(),
    "printed": PerceptualSolutionSpaceMask("printed", threshold=0.5),
    "drop_wrong": PerceptualSolutionSpaceMask("drop_wrong"),
    "probabilities": PerceptualSolutionSpaceMask(on="probabilities", predictor="student"),
    "true": NontargetSampleMask(0.5),
    "false": NontargetSampleMask(0.5, "false"),
    "random": NontargetSampleMask(0.5, "random"),
}
weightings = pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS)


def weigh(weighting: SampleWeighting, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    weights: Tensor = weighting(student, teacher, {"target": target})
    return weights


READINGS: list[Reading] = ["text", "printed", "drop_wrong"]
PREDICTORS: list[Predictor] = ["teacher", "student"]
MODES: list[MaskMode] = ["true", "false", "random"]


@weightings
def test_weights_lie_in_0_to_1_and_carry_no_gradient(weighting: SampleWeighting) -> None:
    student, teacher, target = random_case(samples=6, spatial=(3, 2))
    weights = weigh(weighting, student.requires_grad_(), teacher.requires_grad_(), target)
    assert weights.shape == target.shape
    assert not weights.requires_grad
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.lt(1).any()


@weightings
def test_weights_multiply_an_unreduced_loss(weighting: SampleWeighting) -> None:
    student, teacher, target = random_case(samples=6)
    loss = weigh(weighting, student, teacher, target) * kd_loss(student, teacher, target=target, reduction="none")
    assert loss.shape == target.shape


@weightings
def test_ignored_positions_weigh_1(weighting: SampleWeighting) -> None:
    student, teacher, target = random_case(samples=8, spatial=(2, 2))
    assert weigh(weighting, student, teacher, target)[target == IGNORED].eq(1).all()
    assert weigh(weighting, student, teacher, torch.full_like(target, IGNORED)).eq(1).all()


@weightings
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_weights(weighting: SampleWeighting, dtype: torch.dtype) -> None:
    student, teacher, target = random_case()
    assert weigh(weighting, student.to(dtype), teacher.to(dtype), target).dtype == torch.float32


@weightings
def test_extreme_logits_give_finite_weights(weighting: SampleWeighting) -> None:
    student = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0]])
    weights = weigh(weighting, student, student.flip(0, 1), torch.tensor([1, 2]))
    assert weights.isfinite().all()


@weightings
def test_a_batch_of_one(weighting: SampleWeighting) -> None:
    assert weigh(weighting, *random_case(samples=1)).shape == (1,)


@weightings
def test_shapes_that_do_not_fit_are_refused(weighting: SampleWeighting) -> None:
    with pytest.raises(ValueError, match=r"must have the same shape, got \(4, 10\) and \(4, 12\)"):
        weigh(weighting, torch.zeros(4, 10), torch.zeros(4, 12), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"target must have shape \(4,\)"):
        weigh(weighting, torch.zeros(4, 10), torch.zeros(4, 10), torch.zeros(3, dtype=torch.int64))


def pssm_equations(case: Case, reading: Reading, threshold: float, predictor: Predictor, on: str) -> Tensor:
    """Eqs. 5-7 at one position after the other; 0 at ignored ones."""

    def weight(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        prediction = teacher if predictor == "teacher" else student
        if prediction.argmax() == target:
            return torch.ones((), dtype=torch.float64)
        o_a, o_b = (softmax(teacher), softmax(student)) if on == "probabilities" else (teacher, student)
        similarity = ((o_a @ o_b) / (o_a.norm() * o_b.norm()) + 1) / 2
        if reading == "drop_wrong":
            return torch.zeros_like(similarity)
        if reading == "printed":
            return torch.ones_like(similarity) if similarity < threshold else similarity
        return torch.ones_like(similarity) if 1 - similarity < threshold else similarity

    return by_equation(case, weight)


@few_examples
@given(
    cases(min_classes=2),
    st.sampled_from(READINGS),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from(PREDICTORS),
    st.sampled_from(["logits", "probabilities"]),
)
def test_pssm_is_eqs_5_to_7(case: Case, reading: Reading, threshold: float, predictor: Predictor, on: str) -> None:
    mask = PerceptualSolutionSpaceMask(reading, threshold, predictor, on)  # type: ignore[arg-type]
    counted = case.target != IGNORED
    expected = pssm_equations(case, reading, threshold, predictor, on)
    assert_near(weigh(mask, *case)[counted], expected[counted])


def test_pssm_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 3.0]])  # similarities 1, 1/2, 0, 1/2
    target = torch.tensor([1, 1, 1, 0])  # the teacher is right about the last alone
    by_reading = {
        reading: weigh(PerceptualSolutionSpaceMask(reading), student, teacher, target) for reading in READINGS
    }
    torch.testing.assert_close(by_reading["text"], torch.tensor([1.0, 0.5, 0.0, 1.0]))
    torch.testing.assert_close(by_reading["printed"], torch.tensor([1.0, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(by_reading["drop_wrong"], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    by_student = weigh(PerceptualSolutionSpaceMask(predictor="student"), student, teacher, target)
    torch.testing.assert_close(by_student, torch.tensor([1.0, 1.0, 1.0, 0.5]))


def test_pssm_threshold_is_on_the_distance_one_minus_similarity() -> None:
    angle = torch.tensor(1.0)  # similarity (cos 1 + 1) / 2 = 0.770
    teacher, student = torch.tensor([[1.0, 0.0]]), torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
    target = torch.tensor([1])
    assert weigh(PerceptualSolutionSpaceMask(threshold=0.24), student, teacher, target) == 1
    assert weigh(PerceptualSolutionSpaceMask(threshold=0.22), student, teacher, target).item() == pytest.approx(
        0.770, abs=1e-3
    )


def test_similarities_are_at_most_1_in_spite_of_rounding() -> None:
    student = torch.randn(5000, 7, generator=torch.Generator().manual_seed(0))
    wrong = (student.argmax(1) + 1) % 7
    assert weigh(PerceptualSolutionSpaceMask("printed"), student, 3.3 * student, wrong).max() <= 1


def test_all_zero_logits_are_half_similar() -> None:
    weights = weigh(PerceptualSolutionSpaceMask(), torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([2]))
    assert weights == 0.5


@few_examples
@given(cases(), st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.75, 1.0]), st.sampled_from(MODES), st.sampled_from([1, 10**6]))
def test_exactly_the_fraction_of_the_counted_positions_is_left_out(
    case: Case, fraction: float, mode: MaskMode, seed: int
) -> None:
    torch.manual_seed(seed)
    weights = weigh(NontargetSampleMask(fraction, mode), *case)
    counted = case.target != IGNORED
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    assert (weights == 0).sum() == round(fraction * int(counted.sum()))
    assert weights[~counted].eq(1).all()


@pytest.mark.parametrize("spatial", [(), (3, 4)])
def test_true_leaves_out_the_highest_divergences_and_false_the_lowest(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=12, classes=5, spatial=spatial)
    divergence = nontarget_jsd(*case)
    counted = case.target != IGNORED
    for mode, out_of, into in (("true", "min", "max"), ("false", "max", "min")):
        weights = weigh(NontargetSampleMask(0.4, mode), *case)  # type: ignore[arg-type]
        out, kept = divergence[counted & (weights == 0)], divergence[counted & (weights == 1)]
        assert len(out) > 0
        border_out, border_kept = getattr(out, out_of)(), getattr(kept, into)()
        assert border_out > border_kept if mode == "true" else border_out < border_kept


@pytest.mark.parametrize("mode", ["true", "false"])
def test_ties_are_broken_by_position(mode: MaskMode) -> None:
    student, teacher, _ = random_case(samples=2, classes=2, spatial=(4,))  # two classes: all divergences are 0
    target = torch.tensor([[0, IGNORED, 1, 1], [0, 0, IGNORED, 1]])
    weights = weigh(NontargetSampleMask(0.5, mode), student.float(), teacher.float(), target)
    assert torch.equal(weights, torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))


def test_counts_are_exact_in_spite_of_float_rounding() -> None:
    student, teacher, _ = random_case(samples=100, classes=3)
    weights = weigh(NontargetSampleMask(0.29), student, teacher, torch.zeros(100, dtype=torch.int64))
    assert (weights == 0).sum() == 29  # 0.29 * 100 is 28.999...96


def test_random_choices_differ_from_call_to_call_and_follow_the_seed() -> None:
    case = random_case(samples=40)

    def three_calls() -> list[Tensor]:
        torch.manual_seed(5)
        mask = NontargetSampleMask(0.5, "random")
        return [weigh(mask, *case) for _ in range(3)]

    first, second, third = three_calls()
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert all(torch.equal(a, b) for a, b in zip(three_calls(), (first, second, third), strict=True))


def test_random_choices_reach_every_position_equally() -> None:
    torch.manual_seed(0)
    mask = NontargetSampleMask(0.3, "random")
    student, teacher, _ = random_case(samples=10)
    target = torch.zeros(10, dtype=torch.int64)
    share = torch.stack([weigh(mask, student.float(), teacher.float(), target) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(share, torch.full((10,), 0.7), rtol=0, atol=0.05)


def test_random_choices_do_not_change_the_global_random_state() -> None:
    mask = NontargetSampleMask(0.5, "random")
    before = torch.get_rng_state()
    weigh(mask, *random_case())
    assert torch.equal(torch.get_rng_state(), before)


def test_random_choices_continue_after_a_checkpoint() -> None:
    case = random_case(samples=40)
    mask = NontargetSampleMask(0.5, "random")
    weigh(mask, *case)
    state = copy.deepcopy(mask.state_dict())
    resumed = NontargetSampleMask(0.5, "random")
    resumed.load_state_dict(state)
    assert torch.equal(weigh(resumed, *case), weigh(mask, *case))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold must lie in \[0, 1\], got {value}"):
        PerceptualSolutionSpaceMask(threshold=value)
    with pytest.raises(ValueError, match=rf"fraction must lie in \[0, 1\], got {value}"):
        NontargetSampleMask(value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="reading must be one of text, printed, drop_wrong, got 'drop'"):
        PerceptualSolutionSpaceMask("drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predictor must be one of teacher, student, got 'both'"):
        PerceptualSolutionSpaceMask(predictor="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on must be one of logits, probabilities, got 'features'"):
        PerceptualSolutionSpaceMask(on="features")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode must be one of true, false, random, got 'True'"):
        NontargetSampleMask(0.5, "True")  # type: ignore[arg-type]


SHARDS = [[5, 2], [3, 4], [7, 0]]


def weights_of_shards(rank: int, world_size: int) -> list[Tensor]:
    """The weights of this process's shard; every process is seeded differently, as without ``seed_everything``."""
    case = random_case(samples=7, spatial=(2, 3))
    torch.manual_seed(3 + rank)
    masks = [NontargetSampleMask(0.4, mode) for mode in MODES]
    return [weigh(mask, *(torch.split(tensor, shards)[rank] for tensor in case)) for shards in SHARDS for mask in masks]


@pytest.mark.ddp
def test_two_processes_choose_the_same_positions_as_one_with_the_whole_batch() -> None:
    case = random_case(samples=7, spatial=(2, 3))
    torch.manual_seed(3)
    masks = [NontargetSampleMask(0.4, mode) for mode in MODES]
    whole = [weigh(mask, *case) for _ in SHARDS for mask in masks]
    first, second = run_in_processes(weights_of_shards, 2)
    for one_process, shard_0, shard_1 in zip(whole, first, second, strict=True):
        assert torch.equal(torch.cat([shard_0, shard_1]), one_process)

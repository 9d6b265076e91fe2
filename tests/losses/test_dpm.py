from __future__ import annotations

import math
from itertools import product
from typing import Any, get_args

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from distill.losses import bin_centers, decode_depth, depth_probability_map, dpm, dpm_loss
from distill.losses.dpm import BinValue, Direction, Normalization, expected_depth
from tests.losses.cases import assert_near, gradient
from tests.losses.plain_dpm import plain_divergence, plain_map

SIGMAS = (0.001, 0.1, 0.5, 0.8, 1.2, 30.0)
maps = pytest.mark.parametrize(
    "options",
    [{"bin_value": value, "normalization": how} for value in get_args(BinValue) for how in get_args(Normalization)],
    ids=lambda options: "-".join(options.values()),
)
directions = pytest.mark.parametrize("direction", get_args(Direction))


def depths(samples: int = 2) -> Tensor:
    """Float64 metres ``(samples, 1, 4, 6)``, some at, near and beyond the ends of the range."""
    generator = torch.Generator().manual_seed(0)
    depth = 80 * torch.rand(samples, 1, 4, 6, generator=generator, dtype=torch.float64)
    depth[0, 0, 0] = torch.tensor([1e-9, 1e-3, 1.2e-3, 79.99, 80.0, 300.0])
    return depth


def random_logits(depth: Tensor, bins: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    samples, _, *size = depth.shape
    return scale * torch.randn(samples, bins, *size, generator=generator, dtype=depth.dtype)


def metres(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_centers_are_the_middles_of_the_bins() -> None:
    assert bin_centers(4, 0.0, 8.0).tolist() == [1, 3, 5, 7]
    centers = bin_centers(257, 1e-3, 80.0)
    assert centers[[0, -1]].tolist() == pytest.approx([0.1566, 79.8444], abs=1e-4)


@maps
@pytest.mark.parametrize("bins", [1, 2, 5, 40, 257])
def test_maps_are_those_of_the_equations(options: dict[str, Any], bins: int) -> None:
    for sigma in SIGMAS:
        actual = depth_probability_map(depths(), bins=bins, sigma=sigma, **options)
        assert_near(actual, plain_map(depths(), bins, sigma=sigma, **options))
        assert_near(actual.sum(1), torch.ones(2, 4, 6, dtype=torch.float64), 1e-12)


def test_probabilities_by_hand() -> None:
    # bins 0-2, 2-4, 4-6, 6-8 and a depth in the middle of the second one: the fourth is left out by the cutoff
    options: dict[str, Any] = {"bins": 4, "min_depth": 0.0, "max_depth": 8.0, "sigma": 1.0, "cutoff": 2e-3}
    near, middle = norm.pdf(2), norm.pdf(0)
    summed = 2 * near + middle
    actual = depth_probability_map(metres(3.0), normalization="sum", **options).flatten()
    assert actual.tolist() == pytest.approx([near / summed, middle / summed, near / summed, 0], abs=1e-12)
    near, middle = norm.cdf(-1) - norm.cdf(-3), norm.cdf(1) - norm.cdf(-1)
    summed = 2 * math.exp(near) + math.exp(middle)
    actual = depth_probability_map(metres(3.0), bin_value="integral", **options).flatten()
    assert actual.tolist() == pytest.approx([math.exp(v) / summed for v in (near, middle, near)] + [0], abs=1e-12)


def test_the_default_map_is_that_of_the_released_code() -> None:
    # 27 bins, the highest 0.0705: printed by the authors' code at this depth and sigma
    actual = depth_probability_map(metres(44.6), sigma=0.5)
    assert (actual > 0).sum() == 27
    assert actual.max() == pytest.approx(0.0705, abs=3e-4)


@maps
def test_a_bin_too_wide_for_the_gaussian_to_reach_its_center_has_all_the_probability(options: dict[str, Any]) -> None:
    actual = depth_probability_map(metres(5.0, 79.0), bins=4, sigma=1e-2, **options)
    assert actual[0, :, 0].T.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


@maps
def test_depths_beyond_the_range_are_at_its_ends_and_no_response_is_0_everywhere_and_nan_is_nan(
    options: dict[str, Any],
) -> None:
    actual = depth_probability_map(
        metres(0.5, 1.0, 20.0, 90.0, math.inf, 0.0, -1.0, math.nan), min_depth=1.0, **options
    )
    below, lowest, _, above, infinite, *absent, unknown = actual[0, :, 0].unbind(1)
    assert torch.equal(below, lowest)
    assert torch.equal(above, infinite)
    assert above.argmax() == 256
    assert all(probabilities.eq(0).all() for probabilities in absent)
    assert unknown.isnan().any()


def test_decoded_depth_is_the_mean_of_the_centers() -> None:
    logits = torch.tensor([0.0, math.log(3), -1000.0]).view(1, 3, 1, 1)
    decoded = decode_depth(logits, min_depth=0.0, max_depth=6.0)
    assert decoded.shape == (1, 1, 1, 1)
    assert decoded.item() == pytest.approx(0.25 * 1 + 0.75 * 3)


@maps
def test_a_map_decodes_to_the_depth_it_was_made_of_at_a_center(options: dict[str, Any]) -> None:
    depth = bin_centers(257, 1e-3, 80.0)[[40, 128, 200]].view(1, 1, 1, 3)
    decoded = decode_depth(depth_probability_map(depth, **options).clamp(min=1e-300).log())
    assert_near(decoded, depth)


def test_autocast_does_not_round_decoded_depth() -> None:
    logits = random_logits(depths().float(), 257)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = decode_depth(logits)
    assert torch.equal(decoded, decode_depth(logits))
    assert decode_depth(logits.half()).dtype == torch.float32


def test_expected_depth_is_the_mean_under_the_softmax() -> None:
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    centers = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    depth = expected_depth(logits, centers)
    assert depth.shape == (2, 1, 3, 4)
    one = logits[1, :, 2, 3].detach().exp()
    torch.testing.assert_close(depth[1, 0, 2, 3], (one * centers).sum() / one.sum())
    assert torch.autograd.gradcheck(lambda z: expected_depth(z, centers), logits)


def test_expected_depth_of_images_with_centres_of_their_own() -> None:
    logits = torch.randn(2, 3, 4, 5)
    centers = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    together = expected_depth(logits, centers)
    for sample in range(2):
        torch.testing.assert_close(together[[sample]], expected_depth(logits[[sample]], centers[sample]))


def test_expected_depth_stays_finite_for_large_logits() -> None:
    logits = torch.tensor([1000.0, 0.0, -1000.0]).view(1, 3, 1, 1).requires_grad_()
    depth = expected_depth(logits, torch.tensor([1.0, 2.0, 3.0]))
    depth.sum().backward()
    assert depth.item() == 1
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@maps
@directions
@pytest.mark.parametrize("bins", [1, 3, 40, 257])
def test_values_and_gradients_are_those_of_the_plain_formula(
    options: dict[str, Any], direction: Direction, bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpm, "PART_NUMEL", 2 * 6 * bins)  # two rows
    depth = depths()
    logits = random_logits(depth, bins)
    for sigma in SIGMAS:

        def actual(logits: Tensor, sigma: float = sigma) -> Tensor:
            return dpm_loss(logits, depth, sigma=sigma, direction=direction, reduction="none", **options)

        def plain(logits: Tensor, sigma: float = sigma) -> Tensor:
            return plain_divergence(logits, depth, direction, sigma=sigma, **options)

        assert_near(actual(logits), plain(logits))
        assert_near(gradient(actual, logits), gradient(plain, logits))


@maps
@directions
def test_gradients_are_those_of_finite_differences(options: dict[str, Any], direction: Direction) -> None:
    depth = depths(1)[:, :, :1, 1:4]
    logits = random_logits(depth, 7, scale=1.0).requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return dpm_loss(logits, depth, sigma=5.0, direction=direction, reduction="none", **options)

    assert torch.autograd.gradcheck(loss, logits)


@maps
@directions
def test_a_student_with_the_teachers_map_differs_by_nothing(options: dict[str, Any], direction: Direction) -> None:
    logits = depth_probability_map(depths(), **options).clamp(min=1e-16).log().requires_grad_()
    loss = dpm_loss(logits, depths(), direction=direction, **options)
    (in_logits,) = torch.autograd.grad(loss, logits)
    assert abs(loss.item()) < 1e-12
    assert in_logits.abs().max() < 1e-12


def test_a_student_that_knows_nothing_is_the_logarithm_of_the_bins_minus_the_teachers_entropy_away() -> None:
    teacher = depth_probability_map(depths(), normalization="sum")
    entropy = -teacher.xlogy(teacher).sum(1)
    loss = dpm_loss(torch.zeros(2, 257, 4, 6).double(), depths(), normalization="sum", reduction="none")
    assert_near(loss, math.log(257) - entropy)


@directions
def test_mass_outside_the_teachers_bins_is_drawn_into_them(direction: Direction) -> None:
    logits = torch.zeros(1, 257, 1, 1, dtype=torch.float64)
    logits[:, 10] = 20.0
    step = -gradient(lambda z: dpm_loss(z, metres(60.0), direction=direction), logits)
    teacher = depth_probability_map(metres(60.0))
    assert step[:, 10] < 0
    assert step[teacher > 0].min() > 0


@directions
def test_positions_without_a_response_are_zero_and_do_not_count(direction: Direction) -> None:
    depth = depths()
    depth[1, 0, :2] = 0
    depth[1, 0, 2, 0] = -1
    counted = (depth > 0).squeeze(1)
    logits = random_logits(depth, 40)
    losses = dpm_loss(logits, depth, direction=direction, reduction="none")
    assert torch.equal(losses != 0, counted)
    assert_near(dpm_loss(logits, depth, direction=direction), losses[counted].mean())
    assert_near(dpm_loss(logits, depth, direction=direction, reduction="sum"), losses.sum())
    in_logits = gradient(lambda z: dpm_loss(z, depth, direction=direction), logits).movedim(1, -1)
    assert in_logits[~counted].eq(0).all()
    assert in_logits[counted].ne(0).any(1).all()


@directions
def test_logits_where_there_is_no_response_do_not_matter(direction: Direction) -> None:
    depth = depths()
    depth[1, 0, :2] = 0
    depth[1, 0, 2, 0] = -1
    logits = random_logits(depth, 40)
    strange = logits.masked_fill(~(depth > 0), math.inf)
    loss, usual = (dpm_loss(values, depth, direction=direction) for values in (strange, logits))
    assert_near(loss, usual)
    in_strange, in_logits = (
        gradient(lambda z: dpm_loss(z, depth, direction=direction), values) for values in (strange, logits)
    )
    assert_near(in_strange, in_logits)


@directions
def test_without_any_response_the_loss_is_zero_with_zero_gradient(direction: Direction) -> None:
    for samples in (0, 2):
        logits = torch.randn(samples, 5, 2, 2, requires_grad=True)
        loss = dpm_loss(logits, torch.zeros(samples, 1, 2, 2), direction=direction)
        (in_logits,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert in_logits.eq(0).all()


@maps
@directions
@pytest.mark.parametrize("bins", [3, 257])
def test_finite_for_logit_gaps_of_1000(options: dict[str, Any], direction: Direction, bins: int) -> None:
    places = [0, bins // 2, bins - 1]
    logits = torch.zeros(1, bins, 6, 3)
    for row, (place, sign) in enumerate(product(places, (1000.0, -1000.0))):
        logits[:, place, row] = sign
    depth = torch.tensor([0.1, 40.0, 79.9]).expand(1, 1, 6, 3)
    results = []
    for scores in (logits, logits.double()):
        scores.requires_grad_()
        losses = dpm_loss(scores, depth.to(scores.dtype), direction=direction, reduction="none", **options)
        results.append((losses, *torch.autograd.grad(losses.sum(), scores)))
    for single, double in zip(*results, strict=True):
        assert single.isfinite().all()
        torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-4)


@directions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(direction: Direction, dtype: torch.dtype) -> None:
    depth = depths().float()
    logits = random_logits(depth, 257).to(dtype).requires_grad_()
    losses = dpm_loss(logits, depth, direction=direction, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(
        losses, dpm_loss(logits.float(), depth, direction=direction, reduction="none"), rtol=0, atol=0
    )
    (in_logits,) = torch.autograd.grad(losses.sum(), logits)
    assert in_logits.dtype == dtype


def test_no_gradient_reaches_the_teacher() -> None:
    depth = depths().requires_grad_()
    assert not depth_probability_map(depth).requires_grad
    assert not dpm_loss(random_logits(depths(), 5), depth).requires_grad


@pytest.mark.gpu
@maps
@directions
def test_a_gpu_computes_what_the_cpu_computes(options: dict[str, Any], direction: Direction) -> None:
    depth = depths(3)
    logits = random_logits(depth, 40)

    def loss(logits: Tensor) -> Tensor:
        return dpm_loss(logits, depth.to(logits.device), direction=direction, reduction="none", **options)

    assert_near(loss(logits.cuda()).cpu(), loss(logits))
    assert_near(gradient(loss, logits.cuda()).cpu(), gradient(loss, logits))


@pytest.mark.parametrize(
    ("shape", "numel", "parts"),
    [
        ((3, 5, 4, 6), 60, [(1, 2)] * 6),  # two rows
        ((3, 5, 4, 6), 7, [(1, 1)] * 12),  # less than a row
        ((3, 5, 4, 6), 250, [(2, 4), (1, 4)]),  # two samples
        ((1, 5, 5, 6), 60, [(1, 2), (1, 2), (1, 1)]),
        ((0, 5, 4, 6), 60, []),
    ],
)
def test_parts_are_some_rows_or_several_samples(
    shape: tuple[int, ...], numel: int, parts: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpm, "PART_NUMEL", numel)
    logits = torch.zeros(shape)
    seen = torch.zeros(shape)
    sizes = []
    for part in dpm._parts(logits):
        seen[part] += 1
        sizes.append((logits[part].shape[0], logits[part].shape[2]))
    assert sizes == parts
    assert seen.eq(1).all()


@directions
def test_any_layout_gives_the_same_and_keeps_its_own(direction: Direction) -> None:
    depth = depths()
    logits = random_logits(depth, 40)
    expected = gradient(lambda z: dpm_loss(z, depth, direction=direction), logits)
    channels_last = logits.to(memory_format=torch.channels_last).requires_grad_()
    loss = dpm_loss(channels_last, depth, direction=direction)
    (in_logits,) = torch.autograd.grad(loss.square(), channels_last)
    assert_near(in_logits, expected, 1e-12)
    assert in_logits.is_contiguous(memory_format=torch.channels_last)
    lower = dpm_loss(logits[:, :, 2:], depth[:, :, 2:], direction=direction, reduction="none")
    assert_near(lower, dpm_loss(logits, depth, direction=direction, reduction="none")[:, 2:], 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"cutoff": 0.0}, "cutoff must be positive, got 0.0"),
        ({"min_depth": 80.0}, "min_depth must be below max_depth, got 80.0 and 80.0"),
        ({"bin_value": "mass"}, "bin_value must be one of density, integral, got 'mass'"),
        ({"normalization": "max"}, "normalization must be one of softmax, sum, got 'max'"),
    ],
)
def test_options_that_make_no_map_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        depth_probability_map(depths(), **options)
    with pytest.raises(ValueError, match=message):
        dpm_loss(torch.zeros(2, 5, 4, 6), depths(), **options)


def test_what_does_not_belong_together_is_refused() -> None:
    logits = torch.zeros(2, 5, 4, 6)
    with pytest.raises(ValueError, match=r"must have shape \(2, 1, 4, 6\) for logits of .*, got \(2, 1, 4, 5\)"):
        dpm_loss(logits, depths()[..., 1:])
    with pytest.raises(ValueError, match=r"must have shape \(N, bins, H, W\), got \(5, 4, 6\)"):
        dpm_loss(logits[0], depths()[0])
    with pytest.raises(ValueError, match=r"must have shape \(N, bins, H, W\), got \(5, 4, 6\)"):
        decode_depth(logits[0])
    with pytest.raises(ValueError, match=r"depth must have shape \(N, 1, H, W\), got \(2, 4, 6\)"):
        depth_probability_map(depths()[:, 0])
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        bin_centers(0, 0.0, 1.0)
    with pytest.raises(ValueError, match="direction must be one of teacher_student, student_teacher, got 'both'"):
        dpm_loss(logits, depths(), direction="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'max'"):
        dpm_loss(logits, depths(), reduction="max")  # type: ignore[arg-type]


@directions
def test_bins_masked_by_minus_infinity_are_bins_without_probability(direction: Direction) -> None:
    depth = depths().clamp(max=40)  # far from the masked bins
    logits, masked = random_logits(depth, 30), torch.arange(30).view(-1, 1, 1) > 25
    spoiled, least = logits.masked_fill(masked, -torch.inf), logits.masked_fill(masked, -1e4)
    assert_near(dpm_loss(spoiled, depth, direction=direction), dpm_loss(least, depth, direction=direction))
    one, other = (gradient(lambda z: dpm_loss(z, depth, direction=direction), values) for values in (spoiled, least))
    assert_near(one, other)

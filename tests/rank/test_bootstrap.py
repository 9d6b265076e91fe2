from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from distill.metrics import CentralMomentDiscrepancy, NontargetJSD, TargetJSD
from distill.rank.bootstrap import PART, Sums, divergences, interval, joined, resampled, sums_of
from tests.losses.cases import IGNORED, Case, random_case

SHAPES = [(), (3, 2)]


def by_metrics(case: Case) -> list[float]:
    """NCJSD, TCJSD and CMD of the positions with a label, by the metrics of an epoch."""
    jsds = [metric(ignore_index=IGNORED) for metric in (NontargetJSD, TargetJSD)]
    for jsd in jsds:
        jsd.update(*case)
    cmd, counted = CentralMomentDiscrepancy(), case.target.flatten() != IGNORED
    rows = [logits.movedim(1, -1).flatten(0, -2)[counted].softmax(1) for logits in (case.teacher, case.student)]
    cmd.update(*rows)
    return [float(metric.compute()) for metric in (*jsds, cmd)]


@pytest.mark.parametrize("spatial", SHAPES)
def test_the_divergences_are_those_of_the_metrics_however_the_samples_come(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=9, classes=5, spatial=spatial)
    parts = joined([sums_of(*Case(*(tensor[rows] for tensor in case))) for rows in (slice(0, 4), slice(4, 9))])
    (found,) = divergences(parts, np.ones((1, 9)))
    assert found.tolist() == pytest.approx(by_metrics(case), abs=1e-12)


@pytest.mark.parametrize("spatial", SHAPES)
def test_a_weight_counts_a_sample_so_often(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=4, classes=5, spatial=spatial)
    rows = torch.tensor([0, 0, 0, 2, 3, 3])
    (found,) = divergences(sums_of(*case), np.array([[3.0, 0, 1, 2]]))
    assert found.tolist() == pytest.approx(by_metrics(Case(*(tensor[rows] for tensor in case))), abs=1e-12)


def test_resamples_follow_their_seed_and_are_paired_over_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (sums_of(*random_case(seed, samples=8)) for seed in (0, 1))
    both = Sums(*(np.concatenate([a, b]) if a.ndim == 1 else a for a, b in zip(first, second, strict=True)))
    assert len(both.counted) == 16
    whole = resampled(first, 50, 3)
    assert np.array_equal(whole, resampled(first, 50, 3))
    assert not np.array_equal(whole, resampled(first, 50, 4))
    assert np.array_equal(resampled(first._replace(ncjsd=2 * first.ncjsd), 50, 3)[:, 0], 2 * whole[:, 0])
    monkeypatch.setattr("distill.rank.bootstrap.PART", 8 * 7)  # seven resamples at a time
    assert PART > 56
    np.testing.assert_allclose(resampled(first, 50, 3), whole, rtol=1e-12)


def test_the_interval_of_a_mean_is_scipys() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=200)
    zeros = np.zeros((200, 5, 3))
    sums = Sums(np.ones(200), values, values, zeros, zeros)
    found = interval(values.mean(), resampled(sums, 5000, 0)[:, 0], 0.9)
    expected = bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=5000, rng=np.random.default_rng(1))
    low, high = expected.confidence_interval
    assert found == pytest.approx((low, high), abs=0.15 * (high - low))


def test_an_estimate_in_the_middle_of_its_resamples_has_their_percentiles() -> None:
    replicates = np.arange(1001.0)
    assert interval(500.0, replicates, 0.9) == pytest.approx((50, 950), abs=1e-6)


def test_an_estimate_that_resamples_exceed_has_a_lower_interval() -> None:
    low, high = interval(300.0, np.arange(1001.0), 0.9)
    assert low < 50
    assert 300 < high < 950
    low, high = interval(-5.0, np.arange(1001.0), 0.9)  # below all of them
    assert 0 <= low <= high < 1

"""Means over the positions that count."""

from __future__ import annotations

import math

import pytest
import torch

from distill import Classification, SemanticSegmentation
from distill.training.means import LossSums, add_batch, counted_mean, counted_means, counts_of, gathered_means

IGNORED = 255


def test_ignored_positions_do_not_count_even_if_they_are_not_finite() -> None:
    values = torch.tensor([1.0, math.inf, 4.0])
    batch = {"target": torch.tensor([0, IGNORED, 1])}
    assert counted_mean(values, batch, Classification(2)) == 2.5


def test_all_positions_count_without_labels_and_a_scalar_is_its_own_mean() -> None:
    assert counted_mean(torch.tensor([1.0, 3.0]), {}, Classification(2)) == 2
    assert counted_mean(torch.tensor(7.0), {"target": torch.tensor([IGNORED])}, Classification(2)) == 7


def test_a_value_per_sample_counts_if_a_pixel_of_the_sample_counts() -> None:
    target = torch.tensor([[[0, IGNORED]], [[IGNORED, IGNORED]]])
    task = SemanticSegmentation(2)
    assert counts_of(torch.zeros(2), target, task).tolist() == [1, 0]
    assert counts_of(torch.zeros(2, 1, 2), target, task).tolist() == [[[1, 0]], [[0, 0]]]


def test_a_term_of_another_shape_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^the loss has the shape \(3,\), but it must be a scalar or hold one "):
        counts_of(torch.zeros(3), torch.zeros(2, dtype=torch.int64), Classification(2))


def test_the_terms_of_a_method_are_named_with_it() -> None:
    batch, task = {"target": torch.zeros(2, dtype=torch.int64)}, Classification(2)
    assert counted_means({"kd": torch.tensor([1.0, 3.0]).half()}, batch, task, "KD") == {"kd": torch.tensor(2.0)}
    with pytest.raises(ValueError, match=r"^the term 'kd' of KD has the shape \(3,\)"):
        counted_means({"kd": torch.zeros(3)}, batch, task, "KD")
    with pytest.raises(TypeError, match=r"^KD\.distillation_step must return a dictionary of terms by name, got"):
        counted_means(torch.zeros(2), batch, task, "KD")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^KD\.distillation_step returns no term"):
        counted_means({}, batch, task, "KD")


def test_all_positions_count_without_a_task() -> None:
    assert counted_mean(torch.tensor([1.0, 3.0]), {"target": torch.tensor([IGNORED, 0])}, None) == 2


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 1, 1, 1), (3, 1)])
def test_the_mean_of_a_term_does_not_depend_on_the_batches_where_samples_lack_a_modality(
    sizes: tuple[int, ...],
) -> None:
    values, mask = torch.tensor([1.0, 3.0, 50.0, 70.0]), torch.tensor([True, True, False, False])
    sums: LossSums = {}
    for part, there in zip(values.split(sizes), mask.split(sizes), strict=True):
        kd = part[there].mean() if there.any() else torch.tensor(0.0)
        add_batch(sums, {"hard": part.mean(), "kd": kd}, {"x": part, "x_present": there}, ["x"])
    means = gathered_means([sums, {"kd": (0.0, 0), "empty": (0.0, 0)}])
    assert means == {"hard": 31, "kd": 2}

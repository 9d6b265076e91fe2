from __future__ import annotations

import pytest
import torch

from distill.losses import fsp_loss, fsp_matrix
from tests.losses.cases import assert_near
from tests.losses.features import features, gradients


def test_the_matrix_is_the_mean_product_of_two_channels() -> None:
    first, second = features(2, 3, 4, 5), features(2, 6, 4, 5, seed=1)
    matrix = fsp_matrix(first, second)
    for n in range(2):
        for i in range(3):
            for j in range(6):
                assert_near(matrix[n, i, j], (first[n, i] * second[n, j]).sum() / 20)


def test_the_matrix_by_hand() -> None:
    first = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    second = torch.tensor([[[3.0, 1.0]]])
    assert fsp_matrix(first, second).tolist() == [[[2.5], [2.0]]]


def test_the_larger_layer_is_average_pooled() -> None:
    first, second = features(2, 3, 4, 4), features(2, 5, 2, 2, seed=1)
    pooled = first.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    assert_near(fsp_matrix(first, second), fsp_matrix(pooled, second))
    assert_near(fsp_matrix(second, first), fsp_matrix(pooled, second).mT)


def test_the_loss_is_the_mean_squared_difference_of_the_matrices() -> None:
    student, teacher = features(3, 2, 4), features(3, 2, 4, seed=1)
    assert_near(fsp_loss(student, teacher, reduction="none"), ((student - teacher) ** 2).sum((1, 2)) / 8)
    assert_near(fsp_loss(student, teacher), ((student - teacher) ** 2).sum() / 24)
    assert_near(gradients(lambda s: fsp_loss(s, teacher), student)[0], 2 * (student - teacher) / 24)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the same numbers of channels, got \(2, 3, 4\) and \(2, 3, 5\)"):
        fsp_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"must be maps \(N, C, \*\) with positions, got \(2, 3\)"):
        fsp_matrix(torch.zeros(2, 3), torch.zeros(2, 3))

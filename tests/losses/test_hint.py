from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill.losses import hint_loss
from tests.losses.cases import assert_near
from tests.losses.features import features


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 2, 3)])
def test_it_is_the_mean_squared_error_of_each_sample(shape: tuple[int, ...]) -> None:
    student, teacher = features(*shape), features(*shape, seed=1)
    expected = torch.stack([((s - t) ** 2).sum() / s.numel() for s, t in zip(student, teacher, strict=True)])
    assert_near(hint_loss(student, teacher, reduction="none"), expected)
    assert_near(hint_loss(student, teacher), F.mse_loss(student, teacher))
    assert_near(hint_loss(student, teacher, reduction="sum"), expected.sum())


def test_computed_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [1.0, -1.0]])
    assert hint_loss(student, teacher, reduction="none").tolist() == [2.0, 1.0]


def test_the_larger_map_is_average_pooled_along_each_axis() -> None:
    student = torch.tensor([[[[1.0, 3.0, 5.0, 7.0]]]])  # 1 x 4, pooled to 1 x 2: 2 and 6
    teacher = torch.tensor([[[[1.0, 5.0], [3.0, 9.0]]]])  # 2 x 2, pooled to 1 x 2: 2 and 7
    assert hint_loss(student, teacher).item() == pytest.approx(0.5)


def test_channels_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same number of channels, .* got \(2, 3, 4\) and \(2, 5, 4\)"):
        hint_loss(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4))

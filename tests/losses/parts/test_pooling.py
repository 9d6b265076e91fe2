"""Features of different sizes and kinds brought to the positions that they share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill.errors import UserError
from distill.losses import at_loss, fsp_matrix, hint_loss, nst_loss
from distill.losses.parts.pooling import pooled_to_fit, to_common_size
from distill.tasks.parts.resizing import resized
from tests.losses.cases import assert_near
from tests.losses.features import features


@pytest.mark.parametrize(("size", "other"), [((6,), (3,)), ((4, 2), (2, 6)), ((2, 4, 2), (2, 2, 4)), ((), ())])
def test_maps_are_pooled_to_the_smaller_size_along_each_axis(size: tuple[int, ...], other: tuple[int, ...]) -> None:
    first, second = to_common_size(features(2, 3, *size), features(2, 5, *other, seed=1))
    expected = tuple(map(min, size, other))
    assert first.shape == (2, 3, *expected)
    assert second.shape == (2, 5, *expected)
    assert_near(first.reshape(2, 3, -1).mean(2), features(2, 3, *size).reshape(2, 3, -1).mean(2))


def test_a_video_is_averaged_over_time_before_an_image() -> None:
    video, image = features(2, 3, 5, 4, 4), features(2, 6, 2, 8, seed=1)
    for first, second in (to_common_size(video, image), reversed(to_common_size(image, video))):
        assert_near(first, F.avg_pool2d(video.mean(2), (2, 1)))
        assert_near(second, F.avg_pool2d(image, (1, 2)))
    assert pooled_to_fit(image, video).shape == (2, 6, 2, 4)


@pytest.mark.parametrize(
    ("size", "other"), [((), (6,)), ((), (2, 3)), ((), (2, 3, 4)), ((6,), (2, 3)), ((6,), (2, 3, 4)), ((6,), (1,) * 4)]
)
def test_features_without_positions_in_common_become_their_means(size: tuple[int, ...], other: tuple[int, ...]) -> None:
    first, second = features(2, 3, *size), features(2, 5, *other, seed=1)
    for one, brought in zip((first, second), to_common_size(first, second), strict=True):
        assert_near(brought, one.reshape(*one.shape[:2], -1).mean(2))
    with pytest.raises(UserError, match=r"a vector has none|only maps with as many spatial dims, or with 3"):
        fsp_matrix(first, second)


def test_what_is_no_feature_of_the_same_samples_is_refused() -> None:
    for pair in ((torch.zeros(2, 3), torch.zeros(3, 3)), (torch.zeros(2), torch.zeros(2, 3))):
        with pytest.raises(ValueError, match=r"features must have the same number of samples, \(N, C, \*\), got \(2"):
            to_common_size(*pair)
    with pytest.raises(ValueError, match=r"up to 3 spatial dims, got \(1, 1, 2, 2, 2, 2\)"):
        to_common_size(torch.zeros(1, 1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, 1))


@pytest.mark.parametrize(("size", "other"), [((1, 1), (4, 4)), ((1, 4), (4, 1)), ((4, 1, 1), (4, 4))])
def test_a_loss_on_positions_refuses_a_single_one(size: tuple[int, ...], other: tuple[int, ...]) -> None:
    first, second = features(2, 3, *size), features(2, 5, *other)
    for loss in (at_loss, nst_loss):
        with pytest.raises(UserError, match=r"got \(2, 3, .*\) and \(2, 5, .*\): they share one position only"):
            loss(first, second)
    assert hint_loss(first, second[:, :3]).isfinite()


@pytest.mark.parametrize("size", [(3,), (3, 2), (3, 2, 4)])
def test_maps_are_interpolated_along_each_of_their_dims(size: tuple[int, ...]) -> None:
    positions = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    ramp = sum(10**dim * values for dim, values in enumerate(positions))[None, None]
    doubled = resized(ramp, tuple(2 * n for n in size))
    assert resized(ramp, size) is ramp
    assert_near(doubled.flatten()[0], ramp.flatten()[0])  # the border is repeated
    inner = (slice(None), slice(None), *(slice(1, -1) for _ in size))
    steps = [doubled[inner].diff(dim=dim + 2) for dim in range(len(size))]
    for dim, step in enumerate(steps):
        assert_near(step, torch.full_like(step, 10**dim / 2))  # linear between the centres of the cells
    with pytest.raises(UserError, match="only 1 to 3 spatial dims can, to as many"):
        resized(ramp, (*size, 2))

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill import SemanticSegmentation
from tests.tasks.test_classification import IGNORED, cross_entropy


def maps(size: tuple[int, int] = (4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, 4, 6), generator=generator)
    target[0, 0] = IGNORED
    return torch.randn(2, 3, *size, generator=generator), target


def test_segmentation_loss_is_the_weighted_cross_entropy_of_every_pixel_and_0_where_ignored() -> None:
    logits, target = maps()
    weights = [1.0, 0.0, 2.5]
    loss = SemanticSegmentation(3, class_weights=weights).loss(logits, target)
    for n, row, column in [(0, 0, 0), (0, 2, 3), (1, 3, 5), (1, 0, 1)]:
        label = int(target[n, row, column])
        expected = 0.0 if label == IGNORED else weights[label] * cross_entropy(logits[n, :, row, column], label, 0)
        assert loss[n, row, column].item() == pytest.approx(float(expected), abs=1e-6)


def test_smaller_logits_are_resized_bilinearly_to_the_target() -> None:
    task = SemanticSegmentation(3)
    logits, target = maps((2, 3))
    resized = task.at_targets(logits, target)
    assert resized.shape == (2, 3, 4, 6)
    # half-pixel centres: the pixel (1, 1) lies a quarter of the way from (0, 0) to (1, 1)
    corner = logits[:, :, :2, :2]
    weights = torch.tensor([0.75, 0.25])
    torch.testing.assert_close(resized[:, :, 1, 1], torch.einsum("ncij,i,j->nc", corner, weights, weights))
    assert torch.equal(task.loss(logits, target), task.loss(resized, target))
    whole, _ = maps()
    assert task.at_targets(whole, target) is whole


LENGTHS = [((4,), (8,)), ((2, 3), (4, 6)), ((2, 2, 1), (4, 2, 3))]


@pytest.mark.parametrize(("small", "size"), LENGTHS)
def test_points_maps_and_volumes_are_enlarged_linearly(small: tuple[int, ...], size: tuple[int, ...]) -> None:
    task = SemanticSegmentation(3)
    # a plane along the first dim: linear interpolation with half-pixel centres keeps it, up to the borders
    at = torch.arange(small[0], dtype=torch.float32).view(-1, *[1] * (len(small) - 1)).expand(small)
    target = torch.zeros(2, *size, dtype=torch.int64)
    larger = task.at_targets(at.expand(2, 3, *small), target)
    expected = ((torch.arange(size[0]) + 0.5) * small[0] / size[0] - 0.5).clamp(0, small[0] - 1)
    torch.testing.assert_close(larger, expected.view(-1, *[1] * (len(size) - 1)).expand(2, 3, *size))


@pytest.mark.parametrize(("size", "large"), LENGTHS)
def test_larger_logits_are_averaged_down_to_the_target(size: tuple[int, ...], large: tuple[int, ...]) -> None:
    task = SemanticSegmentation(3)
    logits = torch.randn(2, 3, *large, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, *size, dtype=torch.int64)
    expected = logits
    for dim, (new, old) in enumerate(zip(size, large, strict=True), 2):
        expected = expected.unflatten(dim, (new, old // new)).mean(dim + 1)
    torch.testing.assert_close(task.at_targets(logits, target), expected)
    task.check(task.at_targets(logits, target), target, model="teacher", data="Data")


@pytest.mark.parametrize("size", [(5,), (2, 3), (2, 3, 4), (1, 2, 1, 2)])
def test_segmentation_of_any_number_of_dims_is_that_of_its_positions(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *size, generator=generator)
    target = torch.randint(3, (2, *size), generator=generator)
    target.view(2, -1)[0, 0] = IGNORED
    task = SemanticSegmentation(3, class_weights=[1.0, 2.0, 0.5])
    task.check(logits, target, model="net", data="Data")
    points = logits.flatten(2).transpose(1, 2).flatten(0, 1)  # (N positions, C)
    loss = task.loss(logits, target)
    assert loss.shape == task.counts(target).shape == target.shape
    expected = task.cross_entropy(points, target.flatten())
    torch.testing.assert_close(loss.flatten(), expected)
    assert task.probabilities(logits).sum(1).allclose(torch.ones(2, *size))
    scores, of_points = task.metrics(), task.metrics()
    scores.update(logits, target)
    of_points.update(points, target.flatten())
    assert scores.compute() == of_points.compute()


def test_segmentation_counts_labelled_pixels_and_names_its_scores() -> None:
    task = SemanticSegmentation(3, ignore_index=-1, class_names=["road", "car", "sky"])
    assert task.counts(torch.tensor([[[0, -1], [2, 1]]])).tolist() == [[[1.0, 0.0], [1.0, 1.0]]]
    metrics = task.metrics()
    metrics.update(torch.eye(3)[None, :, :, None], torch.tensor([[[0], [1], [-1]]]))
    scores = metrics.compute()
    assert scores["mIoU"] == 1
    assert {"mFsc", "fwFsc", "fwIoU", "accuracy", "iou_road", "iou_car", "iou_sky"} < set(scores)
    assert task.monitor == "val/mIoU"


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        ((2, 4, 4, 6), (2, 4, 6), r"net returns .*\(2, 4, 4, 6\), but SemanticSegmentation\(num_classes=3\) takes"),
        ((2, 3), (2, 4, 6), r"takes logits of shape \(N, 3, \*\) with one or more spatial dims"),
        ((2, 3, 4, 6), (2,), r"Data: target must hold one class index per position, int64 of shape \(2, \*\), got"),
        ((2, 3, 8, 6), (2, 4), r"net returns logits of the spatial size \(8, 6\), and the target has \(4,\)"),
    ],
)
def test_maps_that_do_not_fit_the_task_are_one_sentence(
    logits: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticSegmentation(3).check(
            torch.zeros(logits), torch.zeros(target, dtype=torch.int64), model="net", data="Data"
        )


def test_a_label_outside_the_classes_of_a_map_is_named() -> None:
    with pytest.raises(ValueError, match="Data: target holds label 7, but the task has the classes 0 to 2"):
        SemanticSegmentation(3).check(torch.zeros(1, 3, 1, 2), torch.tensor([[[7, 255]]]), model="net", data="Data")


def test_class_weights_must_be_one_a_class_and_not_negative() -> None:
    for weights in ([1.0, 2.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0], [1.0, 1.0, float("inf")]):
        with pytest.raises(ValueError, match="class_weights must be 3 numbers of 0 or more"):
            SemanticSegmentation(3, class_weights=weights)


def test_class_weights_follow_the_type_of_the_logits() -> None:
    logits, target = maps()
    task = SemanticSegmentation(3, class_weights=[1.0, 2.0, 3.0])
    assert task.loss(logits.bfloat16(), target).dtype == torch.bfloat16
    assert task.bfloat16().loss(logits, target).dtype == torch.float32

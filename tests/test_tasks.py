from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill import Classification, DepthEstimation, SemanticSegmentation

IGNORED = 255


def random_logits(samples: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    target = torch.randint(classes, (samples,), generator=generator)
    target[2] = IGNORED
    return logits, target


def cross_entropy(logits: Tensor, target: int, smoothing: float) -> Tensor:
    """``-sum_i q_i log p_i`` with ``q = (1 - smoothing) onehot(target) + smoothing / C``, in float64."""
    log_p = (logits.double().exp() / logits.double().exp().sum()).log()
    q = torch.full_like(log_p, smoothing / len(log_p))
    q[target] += 1 - smoothing
    return -(q * log_p).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_loss_is_the_cross_entropy_with_the_smoothed_label_and_0_where_ignored(smoothing: float) -> None:
    logits, target = random_logits()
    loss = Classification(4, label_smoothing=smoothing).loss(logits, target)
    expected = [
        torch.zeros((), dtype=torch.float64) if label == IGNORED else cross_entropy(row, label, smoothing)
        for row, label in zip(logits, target.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert loss[2] == 0


def test_loss_of_a_fair_coin_is_one_bit() -> None:
    loss = Classification(2).loss(torch.zeros(1, 2), torch.tensor([1]))
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_ignored_samples_count_0_and_all_others_1() -> None:
    task = Classification(4, ignore_index=-100)
    counts = task.counts(torch.tensor([0, -100, 3, -100]))
    assert counts.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert task.loss(torch.ones(4, 4), torch.tensor([0, -100, 3, -100]))[[1, 3]].eq(0).all()


def test_accuracy_is_the_share_of_labelled_samples_whose_highest_logit_is_the_label() -> None:
    metrics = Classification(3).metrics()
    metrics.update(torch.eye(3), torch.tensor([0, 2, IGNORED]))  # right, wrong, ignored
    metrics.update(torch.eye(3), torch.tensor([0, 1, 0]))  # right, right, wrong
    assert metrics.compute()["accuracy"].item() == pytest.approx(3 / 5)


def test_top5_counts_a_label_among_the_five_highest_logits() -> None:
    logits = torch.arange(7.0).expand(4, 7)  # the five highest are 2 to 6
    metrics = Classification(7).metrics()
    metrics.update(logits, torch.tensor([6, 2, 1, IGNORED]))
    scores = metrics.compute()
    assert scores["top5"].item() == pytest.approx(2 / 3)
    assert scores["accuracy"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(("classes", "names"), [(2, {"accuracy"}), (5, {"accuracy"}), (6, {"accuracy", "top5"})])
def test_top5_is_there_only_where_it_can_be_missed(classes: int, names: set[str]) -> None:
    assert set(Classification(classes).metrics()) == names


def test_the_monitored_metric_is_one_that_is_logged_and_the_more_the_better() -> None:
    task = Classification(4)
    assert task.monitor in {f"val/{name}" for name in task.metrics()}
    assert task.mode == "max"


def test_each_call_gives_fresh_metrics() -> None:
    task = Classification(3)
    task.metrics().update(torch.eye(3), torch.tensor([1, 1, 1]))
    metrics = task.metrics()
    metrics.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert metrics.compute()["accuracy"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"num_classes": 4, "label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\], got 1.5"),
        ({"num_classes": 4, "label_smoothing": float("nan")}, r"label_smoothing must lie in \[0, 1\], got nan"),
        ({"num_classes": 4, "ignore_index": 3}, "ignore_index 3 is one of the 4 classes: use another, as -100"),
        ({"num_classes": 300}, "ignore_index 255 is one of the 300 classes"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(**arguments)


def check(prediction: Tensor, target: Tensor) -> None:
    Classification(4).check(prediction, target, model="student Net", data="Digits")


def test_fitting_predictions_and_labels_pass() -> None:
    check(torch.zeros(3, 4), torch.tensor([0, 3, IGNORED]))
    check(torch.zeros(1, 4), torch.tensor([IGNORED]))


@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 4, 1)])
def test_predictions_that_are_not_one_logit_a_class_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"student Net returns .* shape \(3.*takes logits of shape \(N, 4\)"):
        check(torch.zeros(shape), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("target", "got"),
    [
        (torch.tensor([0, 1]), r"torch.int64 of shape \(2,\)"),
        (torch.tensor([[0], [1], [2]]), r"torch.int64 of shape \(3, 1\)"),
        (torch.tensor([0.0, 1.0, 2.0]), r"torch.float32 of shape \(3,\)"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), r"torch.int32 of shape \(3,\)"),
        (torch.tensor([True, False, True]), r"torch.bool of shape \(3,\)"),
    ],
)
def test_targets_that_are_not_one_class_index_a_sample_are_refused(target: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=rf"Digits: target must hold one class index .* shape \(3,\), got {got}"):
        check(torch.zeros(3, 4), target)


@pytest.mark.parametrize("label", [-1, 4, 254])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    message = rf"Digits: target holds label {label}, but the task has the classes 0 to 3 \(and 255 for ignored"
    with pytest.raises(ValueError, match=message):
        check(torch.zeros(3, 4), torch.tensor([0, label, IGNORED]))


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
    expected = task.cross_entropy(points, target.flatten(), weight=task.class_weights)
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


def depth_maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (1 + 8 * torch.rand(3, 1, 5, 6, generator=generator) for _ in range(2))
    target[0, 0, 2] = 0  # no ground truth
    target[1, 0, 3, 0] = 12.0  # beyond the range
    target[2, 0, 2:] = 0  # nothing below the ignored rows
    return prediction, target


def test_depth_costs_the_scale_invariant_error_of_each_image_below_the_ignored_rows() -> None:
    prediction, target = depth_maps()
    loss = DepthEstimation(max_depth=10.0, ignore_top_rows=2).loss(prediction, target)
    for n in range(2):
        counted = (target[n, 0] > 0) & (target[n, 0] < 10)
        counted[:2] = False
        g = (prediction[n, 0].double().log() - target[n, 0].double().log())[counted]
        expected = (g.square().mean() - 0.85 * g.mean().square()).sqrt()
        assert loss[n].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss[2] == 0


def test_depths_in_the_range_and_below_the_ignored_rows_count() -> None:
    _, target = depth_maps()
    counts = DepthEstimation(max_depth=10.0, ignore_top_rows=2).counts(target)
    expected = ((target > 0) & (target < 10))[:, 0].float()
    expected[:, :2] = 0
    assert torch.equal(counts, expected)


def test_a_smaller_depth_map_is_enlarged_to_the_target() -> None:
    task = DepthEstimation(max_depth=10.0)
    target = torch.full((1, 1, 8, 12), 5.0)
    assert task.at_targets(torch.full((1, 1, 4, 6), 3.0), target).eq(torch.full((1, 1, 8, 12), 3.0)).all()
    same = torch.rand(1, 1, 8, 12)
    assert task.at_targets(same, target) is same


def test_the_monitored_score_of_depth_is_logged_and_the_less_the_better() -> None:
    task = DepthEstimation(max_depth=10.0)
    metrics = task.metrics()
    metrics.update(torch.full((1, 1, 2, 2), 4.0), torch.full((1, 1, 2, 2), 5.0))
    scores = metrics.compute()
    assert scores["abs_rel"].item() == pytest.approx(0.2)
    assert scores["rmse"].item() == pytest.approx(1.0)
    assert (task.monitor, task.mode) == ("val/abs_rel", "min")


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ((2, 5, 4, 6), torch.ones(2, 1, 4, 6), r"net returns .*\(2, 5, 4, 6\), but DepthEstimation\(\) takes depth"),
        (
            (2, 1, 4, 6),
            torch.ones(2, 4, 6),
            r"Data: target must hold one depth in metres per pixel, floats of shape",
        ),
        ((2, 1, 4, 6), torch.ones(2, 1, 4, 6).long(), r"floats of shape \(2, 1, H, W\), got torch.int64"),
        ((2, 1, 8, 6), torch.ones(2, 1, 4, 6), r"net returns depth of \(8, 6\) pixels, more than the target's"),
        ((2, 1, 4, 6), -torch.ones(2, 1, 4, 6), r"metres, and 0 for no ground truth, got negative or NaN"),
        ((2, 1, 3, 6), torch.ones(2, 1, 3, 6), r"ignore_top_rows=3 leaves none of the 3 rows"),
    ],
)
def test_depth_that_does_not_fit_the_task_is_one_sentence(
    prediction: tuple[int, ...], target: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DepthEstimation(ignore_top_rows=3).check(torch.ones(prediction), target, model="net", data="Data")


def test_a_prediction_that_is_no_number_is_named() -> None:
    prediction = torch.ones(1, 1, 4, 6)
    prediction[0, 0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="teacher Net returns depth that is NaN or infinite"):
        DepthEstimation().check(prediction, torch.ones(1, 1, 4, 6), model="teacher Net", data="Data")


def test_a_range_or_crop_that_there_is_not_is_refused() -> None:
    for arguments in ({"min_depth": 5.0, "max_depth": 2.0}, {"crop": "middle"}, {"ignore_top_rows": -1}):
        with pytest.raises(ValueError, match=r"\d|garg"):
            DepthEstimation(**arguments)

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torch import Tensor

from distill.errors import UserError
from distill.metrics import SegmentationScores
from tests.processes import run_in_processes

IGNORED = 255


def pixels(images: int = 4, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, 6, 7, generator=generator)
    target = torch.randint(classes, (images, 6, 7), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORED
    return logits, target


def scores_of(logits: Tensor, target: Tensor) -> dict[str, float]:
    scores = SegmentationScores(logits.shape[1])
    for image, labels in zip(logits, target, strict=True):
        scores.update(image[None], labels[None])
    return {name: value.item() for name, value in scores.compute().items()}


def test_scores_are_those_of_scikit_learn_over_the_labelled_pixels_of_all_images() -> None:
    logits, target = pixels()
    counted = target != IGNORED
    labels, predicted = target[counted].numpy(), logits.argmax(1)[counted].numpy()
    expected = {
        "mFsc": f1_score(labels, predicted, average="macro"),
        "fwFsc": f1_score(labels, predicted, average="weighted"),
        "mIoU": jaccard_score(labels, predicted, average="macro"),
        "fwIoU": jaccard_score(labels, predicted, average="weighted"),
        "accuracy": accuracy_score(labels, predicted),
        **{f"iou_{i}": iou for i, iou in enumerate(jaccard_score(labels, predicted, average=None))},
    }
    assert scores_of(logits, target) == pytest.approx(expected, abs=1e-12)


def test_a_class_that_is_nowhere_has_no_score_and_one_that_is_only_predicted_has_0() -> None:
    scores = SegmentationScores(4, class_names=["road", "car", "sky", "person"])
    scores.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 0]]))  # sky is predicted only, person nowhere
    values = {name: value.item() for name, value in scores.compute().items()}
    assert values["iou_person"] != values["iou_person"]
    assert values["iou_sky"] == 0
    assert values["mIoU"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert values["fwIoU"] == pytest.approx(0.75 * 2 / 3 + 0.25)


def test_without_a_labelled_pixel_there_is_no_score() -> None:
    scores = SegmentationScores(3)
    scores.update(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), IGNORED))
    assert all(value.isnan() for value in scores.compute().values())


@pytest.mark.parametrize("undefined", [float("nan"), -float("inf")])
def test_undefined_logits_of_a_labelled_pixel_make_all_scores_nan(undefined: float) -> None:
    logits, target = pixels()
    logits[1, :, 2, 3] = undefined
    target[1, 2, 3] = IGNORED
    assert scores_of(logits, target)["mIoU"] > 0
    target[1, 2, 3] = 0
    assert all(value != value for value in scores_of(logits, target).values())
    logits[1, 0, 2, 3] = float("inf") if undefined < 0 else float("nan")
    assert (scores_of(logits, target)["mIoU"] > 0) == (undefined < 0)  # one logit of inf is the highest


def test_predictions_of_other_classes_or_shapes_are_one_sentence() -> None:
    logits, target = pixels()
    with pytest.raises(UserError, match="there are 5 logits a pixel for 4 classes"):
        SegmentationScores(4).update(logits, target)
    with pytest.raises(UserError, match=r"logits must have shape \(N, 5, \*\) for targets"):
        SegmentationScores(5).update(logits, target[:, 1:])
    with pytest.raises(UserError, match="predicted classes must have the shape of the target"):
        SegmentationScores(5).update(logits.argmax(1), target[1:])


@pytest.mark.parametrize("names", [["road"], ["road", "road", "car"]])
def test_names_must_be_as_many_as_classes_and_differ(names: list[str]) -> None:
    with pytest.raises(ValueError, match="class_names must be 3 different names, got road"):
        SegmentationScores(3, class_names=names)


def compute_of_share(rank: int, world_size: int) -> dict[str, Tensor]:
    logits, target = pixels()
    scores = SegmentationScores(5)
    rows = slice(0, 3) if rank == 0 else slice(3, 4)
    scores.update(logits[rows], target[rows])
    return scores.compute()


@pytest.mark.ddp
def test_two_processes_compute_what_one_does() -> None:
    expected = scores_of(*pixels())
    for scores in run_in_processes(compute_of_share, 2):
        assert {name: value.item() for name, value in scores.items()} == expected

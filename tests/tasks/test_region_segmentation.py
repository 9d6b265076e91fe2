from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill import RegionSegmentation
from distill.errors import UserError
from distill.losses import dice_loss


def volume() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 2, 2, 3, generator=generator)
    target = torch.randint(4, (2, 2, 2, 3), generator=generator)
    target[1, 0] = 255
    return logits, target


def test_loss_is_cross_entropy_of_a_voxel_and_the_dice_loss_of_its_volume() -> None:
    logits, target = volume()
    loss = RegionSegmentation(dice_weight=0.5).loss(logits, target)
    entropy = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, reduction="none")
    dice = dice_loss(logits, target, reduction="none")
    counted = target != 255
    torch.testing.assert_close(loss[counted], (entropy + 0.5 * dice[:, None, None, None])[counted])
    assert not loss[~counted].any()


def test_scores_are_those_of_classes_and_of_regions_under_the_names_of_brats() -> None:
    logits, target = volume()
    task = RegionSegmentation(class_names=["background", "NCR", "ED", "ET"])
    metrics = task.metrics().clone(prefix="val/")
    metrics.update(logits, target)
    scores = metrics.compute()
    assert {"val/dice", "val/dice_WT", "val/dice_TC", "val/dice_ET", "val/iou_NCR", "val/mIoU"} <= set(scores)
    assert (task.monitor, task.mode) == ("val/dice", "max")
    enhancing = [
        2 * int(((p == 3) & (t == 3)).sum()) / int(((p == 3) & (t != 255)).sum() + (t == 3).sum())
        for p, t in zip(logits.argmax(1), target, strict=True)
    ]
    assert scores["val/dice_ET"].item() == pytest.approx(sum(enhancing) / 2)


def test_a_region_of_a_class_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="WT has class 3, but the task has the classes 0 to 2"):
        RegionSegmentation(3)


@pytest.mark.parametrize("regions", [{}, [1, 2], {"a": []}, {"a": [1, 1]}, {"a": 1}, {"a": ["1"]}, {"a": [-1]}])
def test_regions_that_are_none_are_refused_when_the_task_is_made(regions: Any) -> None:
    with pytest.raises(UserError, match=r"^regions(: a must be one or more different classes, got| must name the cl)"):
        RegionSegmentation(3, regions)

"""Metrics of several processes are those of one that saw everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.metrics import (
    CentralMomentDiscrepancy,
    ClassificationScores,
    DepthScores,
    MultiLabelScores,
    NontargetJSD,
    RegressionScores,
    TargetJSD,
)
from tests.losses.cases import assert_near, random_case
from tests.processes import run_in_processes

SHARDS = [[5, 2], [7, 0]]


def compute_all(student: Tensor, teacher: Tensor, target: Tensor) -> list[Tensor]:
    """The metrics of this process's rows; they are not updated where it has none."""
    cmd, target_jsd, nontarget_jsd = CentralMomentDiscrepancy(), TargetJSD(), NontargetJSD()
    depth_scores = [DepthScores(average="image"), DepthScores(average="pixel")]
    classes = ClassificationScores(student.shape[1])
    labels = [MultiLabelScores(student.shape[1]), MultiLabelScores(student.shape[1], thresholds=20)]
    regression = RegressionScores(student.shape[1])
    if len(student):
        classes.update(student, target)
        for of_labels in labels:
            of_labels.update(student, teacher > 0)
        regression.update(student, teacher)
        cmd.update(student, teacher)
        target_jsd.update(student, teacher, target)
        nontarget_jsd.update(student, teacher, target)
        for scores in depth_scores:  # a logit below 0 is no depth, so that samples have unequal numbers of them
            scores.update(student[:, None, None], teacher[:, None, None])
    values = [metric.compute() for metric in (cmd, target_jsd, nontarget_jsd)]
    return values + [
        value for scores in [*depth_scores, classes, *labels, regression] for value in scores.compute().values()
    ]


def compute_of_shards(rank: int, world_size: int) -> list[list[Tensor]]:
    of_shards = [
        compute_all(*(torch.split(tensor, shards)[rank] for tensor in random_case(samples=7))) for shards in SHARDS
    ]
    disagreeing = CentralMomentDiscrepancy()
    disagreeing.update(torch.zeros(3, 2 + rank), torch.zeros(3, 2 + rank))
    with pytest.raises(ValueError, match=r"the same number of features in every process, got \[2, 3\]"):
        disagreeing.compute()
    return of_shards


@pytest.mark.ddp
def test_two_processes_compute_what_one_does_however_rows_are_spread() -> None:
    expected = compute_all(*random_case(samples=7))
    for of_shards in run_in_processes(compute_of_shards, 2):
        for computed in of_shards:
            for value, of_one_process in zip(computed, expected, strict=True):
                assert_near(value, of_one_process, 1e-13)

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill import MultiLabelClassification
from distill.training.means import counted_mean, counts_of

UNKNOWN = -1


def labelled(*spatial: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 3, *spatial, generator=generator)
    target = torch.randint(2, (4, 3, *spatial), generator=generator)
    target[0, 1], target[2] = UNKNOWN, UNKNOWN
    return logits, target


@pytest.mark.parametrize("spatial", [(), (5,), (2, 3)])
def test_the_hard_loss_is_the_mean_binary_cross_entropy_of_the_known_labels(spatial: tuple[int, ...]) -> None:
    task = MultiLabelClassification(3, pos_weight=[1.0, 0.5, 4.0])
    logits, target = labelled(*spatial)
    task.check(logits, target, model="net", data="Data")
    values, known = task.loss(logits, target), target != UNKNOWN
    weight = torch.tensor([1.0, 0.5, 4.0]).view(-1, *[1] * len(spatial))
    expected = F.binary_cross_entropy_with_logits(
        logits.double(), target.clamp(min=0).double(), pos_weight=weight.double(), reduction="none"
    )
    assert values[~known].eq(0).all()
    torch.testing.assert_close(values[known].double(), expected[known], rtol=1e-5, atol=1e-6)
    assert torch.equal(task.counts(target), known.float())
    torch.testing.assert_close(
        counted_mean(values, {"target": target}, task).double(), expected[known].mean(), rtol=1e-5, atol=1e-6
    )


def test_a_term_per_sample_or_position_counts_where_a_label_is_known() -> None:
    task = MultiLabelClassification(3)
    _, target = labelled(2, 2)
    target[3, :, 0, 0] = UNKNOWN
    assert counts_of(torch.zeros(4), target, task).tolist() == [1, 1, 0, 1]
    assert counts_of(torch.zeros(4, 2, 2), target, task)[3].tolist() == [[0, 1], [1, 1]]


def test_labels_may_be_probabilities_booleans_or_whole_numbers() -> None:
    task = MultiLabelClassification(3)
    logits, target = labelled()
    target = target.clamp(min=0)
    expected = task.loss(logits, target)
    for labels in (target.bool(), target.float(), target.double(), target.to(torch.uint8)):
        task.check(logits, labels, model="net", data="Data")
        torch.testing.assert_close(task.loss(logits, labels), expected)
    soft = 0.25 * torch.ones(4, 3)
    p = logits.double().sigmoid()
    torch.testing.assert_close(
        task.loss(logits, soft).double(), -(0.25 * p.log() + 0.75 * (1 - p).log()), rtol=1e-5, atol=1e-6
    )


def test_one_logit_tells_two_classes_apart_and_needs_no_channel_in_the_target() -> None:
    task = MultiLabelClassification(1)
    logits, target = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 0, UNKNOWN])
    task.check(logits, target, model="net", data="Data")
    loss = task.loss(logits, target)
    assert loss.flatten().tolist() == pytest.approx([math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), 0])
    assert task.counts(target).flatten().tolist() == [1, 1, 0]
    metrics = task.metrics()
    metrics.update(logits, target)
    assert metrics.compute()["mAP"] == metrics.compute()["accuracy"] == 1
    torch.testing.assert_close(task.probabilities(logits), 1 / (1 + (-logits).exp()))


def test_extreme_logits_and_masked_classes_have_finite_losses_and_slopes() -> None:
    logits = torch.tensor([[1000.0, -1000.0, -math.inf]], requires_grad=True)
    loss = MultiLabelClassification(3).loss(logits, torch.tensor([[0, 1, 0]]))
    assert loss.tolist() == [[1000, 1000, 0]]
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert slope.tolist() == [[1, -1, 0]]


def test_a_prediction_of_nan_for_an_unknown_label_has_no_slope() -> None:
    logits = torch.tensor([[torch.nan, 1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(MultiLabelClassification(2).loss(logits, torch.tensor([[-1, 1]])).sum(), logits)
    assert slope[0, 0] == 0
    assert slope[0, 1].isfinite()


def test_the_average_precision_of_few_named_classes_is_told_apart() -> None:
    def names(**arguments: Any) -> set[str]:
        metrics = MultiLabelClassification(2, **arguments).metrics()
        metrics.update(torch.zeros(1, 2), torch.ones(1, 2))
        return {name for name in metrics.compute() if name.startswith("ap_")}

    assert names() == names(class_names=["a", "b"], per_class=False) == set()
    assert names(class_names=["a", "b"]) == {"ap_a", "ap_b"}
    assert names(per_class=True) == {"ap_0", "ap_1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 2, "ignore_index": 1}, "ignore_index 1 is a label: use another, as -1"),
        ({"num_classes": 2, "pos_weight": [1.0]}, r"pos_weight must be 2 numbers of 0 or more, got \[1.0\]"),
        ({"num_classes": 2, "class_names": ["a", "a"]}, "class_names must be 2 different names, got a, a"),
        ({"num_classes": 2, "thresholds": 1}, "thresholds must be at least 2, got 1"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabelClassification(**arguments)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 2), r"net returns .*\(2, 3\), but MultiLabelClassification\(num_classes=2"),
        (
            torch.zeros(2, 2),
            torch.zeros(2),
            r"Data: target must have the shape of the prediction, \(2, 2\), got \(2,\)",
        ),
        (torch.zeros(2, 2, 4), torch.zeros(2, 2), r"shape of the prediction, \(2, 2, 4\), got \(2, 2\)"),
        (torch.zeros(1, 2), torch.tensor([[1, 2]]), r"Data: target holds the label 2, but labels are 0 or 1, a prob"),
        (torch.zeros(1, 2), torch.tensor([[0.5, -0.5]]), r"the label -0.5, but .* or -1 where they are unknown"),
    ],
)
def test_predictions_and_labels_that_do_not_fit_are_one_sentence(logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabelClassification(2).check(logits, target, model="net", data="Data")


def test_a_wrong_label_is_found_with_its_sample() -> None:
    with pytest.raises(ValueError, match=r"data: target holds the label 7, .*; the sample has the index 41"):
        MultiLabelClassification(2).check_labels(
            torch.tensor([[0, 1], [7, 0]]), data="data", index=torch.tensor([40, 41])
        )

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill import Classification

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


@pytest.mark.parametrize(("classes", "top5"), [(2, False), (5, False), (6, True)])
def test_top5_is_there_only_where_it_can_be_missed(classes: int, top5: bool) -> None:
    assert ("top5" in Classification(classes).metrics()) == top5


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

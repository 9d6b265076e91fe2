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


def soft_labels() -> tuple[Tensor, Tensor]:
    """Logits, and distributions: two that are no label, one whose class is certain, and mixtures."""
    logits, _ = random_logits()
    share = torch.rand(7, 4, generator=torch.Generator().manual_seed(1))
    share = share / share.sum(1, keepdim=True)
    share[0], share[1], share[2] = torch.nan, 0, torch.tensor([0.0, 1.0, 0.0, 0.0])
    return logits, share


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_soft_label_costs_its_cross_entropy_and_no_label_costs_0(smoothing: float) -> None:
    logits, share = soft_labels()
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    task = Classification(4, smoothing, class_weights=weights.tolist())
    task.check(logits, share, model="net", data="Data")
    q = (1 - smoothing) * share.double() + smoothing / 4
    expected = -(weights * q * logits.double().softmax(1).log()).sum(1)
    loss = task.loss(logits, share)
    torch.testing.assert_close(loss[2:].double(), expected[2:], rtol=1e-5, atol=1e-6)
    assert loss[:2].eq(0).all()
    assert task.counts(share).tolist() == [0, 0, 1, 1, 1, 1, 1]
    torch.testing.assert_close(loss[2:3], task.loss(logits[2:3], torch.tensor([1])))


def test_a_soft_label_has_finite_slopes_at_masked_classes_and_at_samples_without_label() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [torch.nan, 0.0, 0.0]], requires_grad=True)
    loss = Classification(3).loss(logits, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert slope.isfinite().all()
    assert slope[1].eq(0).all()


def test_soft_labels_are_scored_by_their_highest_share() -> None:
    metrics = Classification(3).metrics()
    metrics.update(torch.eye(3), torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.0, 0.0, 0.0]]))
    assert metrics.compute()["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("row", "got"), [([0.5, 0.6], r"\[0.5, 0.6"), ([-0.5, 1.5], r"\[-0.5, 1.5"), ([torch.nan, 1.0], r"\[nan, 1.0")]
)
def test_rows_that_are_no_distribution_are_refused_with_their_sample(row: list[float], got: str) -> None:
    target = torch.tensor([[0.25, 0.75], row])
    with pytest.raises(ValueError, match=rf"data: each row of soft labels must .* sum to 1.* got {got}.* index 41"):
        Classification(2).check_labels(target, data="data", index=torch.tensor([40, 41]))


def test_the_loss_of_a_sample_is_multiplied_by_the_weight_of_its_class() -> None:
    logits, target = random_logits()
    weights = [1.0, 0.0, 2.5, 3.0]
    loss = Classification(4, class_weights=weights).loss(logits, target)
    plain = Classification(4).loss(logits, target)
    factors = [0.0 if label == IGNORED else weights[label] for label in target.tolist()]
    torch.testing.assert_close(loss, plain * torch.tensor(factors))
    with pytest.raises(ValueError, match="class_weights must be 4 numbers of 0 or more"):
        Classification(4, class_weights=[1.0])


def scores_by_class(task: Classification) -> list[str]:
    metrics = task.metrics()
    metrics.update(torch.eye(task.num_classes), torch.arange(task.num_classes))
    return [name for name in metrics.compute() if name.startswith("accuracy_")]


def test_each_class_has_an_accuracy_if_there_are_few_with_names_or_if_asked_for() -> None:
    names = [f"n{i}" for i in range(21)]
    assert scores_by_class(Classification(2)) == scores_by_class(Classification(21, class_names=names)) == []
    assert scores_by_class(Classification(2, class_names=["cat", "dog"])) == ["accuracy_cat", "accuracy_dog"]
    assert scores_by_class(Classification(2, per_class=True)) == ["accuracy_0", "accuracy_1"]
    assert scores_by_class(Classification(2, class_names=["cat", "dog"], per_class=False)) == []
    assert len(scores_by_class(Classification(21, class_names=names, per_class=True))) == 21
    with pytest.raises(ValueError, match="class_names must be 3 different names, got a, b"):
        Classification(3, class_names=["a", "b"])

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from distill.metrics import ClassificationScores

NAMES = ["a", "b", "c", "d"]


def test_the_scores_are_those_of_scikit_learn_over_the_labelled_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    target[::6] = 255
    scores = ClassificationScores(4, class_names=NAMES)
    for rows in torch.arange(50).split(8):
        scores.update(logits[rows], target[rows])
    computed = {name: value.item() for name, value in scores.compute().items()}
    y, x = target[target != 255], logits.argmax(1)[target != 255]
    assert 3 in x  # no sample has this class: its recall is undefined, its F1 is 0
    recalls = recall_score(y, x, average=None, labels=[0, 1, 2])
    assert [computed[f"accuracy_{name}"] for name in "abc"] == pytest.approx(list(recalls))
    assert computed["accuracy_d"] != computed["accuracy_d"]
    assert computed["macro_accuracy"] == pytest.approx(recalls.mean())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert computed["macro_accuracy"] == pytest.approx(balanced_accuracy_score(y, x))
    assert computed["macro_f1"] == pytest.approx(f1_score(y, x, average="macro"))


def test_a_soft_label_is_its_class_of_the_highest_share() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    soft = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 0.0, 0.0], [torch.nan] * 3])
    scores, expected = ClassificationScores(3), ClassificationScores(3)
    scores.update(logits, soft)
    expected.update(logits, torch.tensor([0, 2, 255, 255]))
    assert scores.compute() == expected.compute()

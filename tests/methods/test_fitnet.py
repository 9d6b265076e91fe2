from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.losses import hint_loss
from distill.methods import FitNet
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.parts.stages import weights_after_each_epoch
from tests.methods.steps import terms_of
from tests.toys import pair_arguments

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}
MIDDLE: dict[str, Any] = {"teacher_layers": ["norm"], "student_layers": ["norm"]}


@pytest.mark.parametrize("joint", [False, True])
def test_the_term_is_the_weighted_error_of_all_pairs_after_the_regressors(joint: bool) -> None:
    student, teacher = features(0, (3, 2, 4, 4), (3, 5)), features(1, (3, 6, 2, 4), (3, 3))
    method = FitNet(**LAYERS, joint=joint).double()
    (term,) = terms_of(method, random_case(), teacher, student).values()
    first, second = method.regressors
    vector, target = student["b"][..., None, None], teacher["b"][..., None, None]
    expected = hint_loss(first(student["a"], 6), teacher["a"], reduction="none")
    expected = expected + hint_loss(second(vector, 3), target, reduction="none")
    assert_near(term, 100 * expected)
    method.weight = 1.0
    assert_near(terms_of(method, random_case(), teacher, student)["hint"], term / 100)


def test_the_first_stage_moves_what_the_hint_reaches_and_the_second_the_student_alone(tmp_path: Path) -> None:
    module = FitNet(**pair_arguments(), **MIDDLE, stage_one_epochs=1, weight=1.0)
    start, first, second = weights_after_each_epoch(module, tmp_path)
    for name in ("network.first.weight", "network.norm.weight"):
        assert not torch.equal(start[name], first[name]), name
        assert not torch.equal(first[name], second[name]), name
    for name in ("network.head.weight", "network.head.bias"):
        assert torch.equal(start[name], first[name]), name
        assert not torch.equal(first[name], second[name]), name
    regressor = [name for name in start if name.startswith("regressors.")]
    assert len(regressor) == 3
    for name in regressor:
        assert not torch.equal(start[name], first[name]), name
        assert torch.equal(first[name], second[name]), name


def test_jointly_everything_moves_from_the_first_epoch_to_the_last(tmp_path: Path) -> None:
    module = FitNet(**pair_arguments(), **MIDDLE, joint=True, weight=1.0)
    start, first, second = weights_after_each_epoch(module, tmp_path)
    # a bias before a normalisation has no gradient but for rounding
    for name in (name for name, _ in module.named_parameters() if name != "network.first.bias"):
        assert not torch.equal(start[name], first[name]), name
        assert not torch.equal(first[name], second[name]), name


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="FitNet has no layers to compare: name teacher_layers and student_layers"):
        FitNet()
    with pytest.raises(ValueError, match="FitNet compares layers pair by pair, but there are 2 teacher_layers and 1 "):
        FitNet(teacher_layers=["a", "b"], student_layers=["a"])
    with pytest.raises(ValueError, match="FitNet has hard_weight=0, but its second stage is the hard loss alone"):
        FitNet(**LAYERS, hard_weight=0.0)
    assert FitNet(**LAYERS, hard_weight=0.0, joint=True).joint

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill.losses import cwd_loss
from distill.methods import CWD
from tests.losses.cases import assert_near, random_case
from tests.methods.steps import terms_of


def test_without_layers_the_channels_are_the_logits_of_the_classes() -> None:
    case = random_case(samples=3, spatial=(4, 5))
    terms = terms_of(CWD(), case)
    assert_near(terms["cwd"], 3 * cwd_loss(case.student, case.teacher, temperature=4.0, reduction="none"))


def test_with_layers_they_are_features_brought_to_the_teachers_shape() -> None:
    teacher = {"x": torch.randn(3, 6, 4, 8).double(), "y": torch.randn(3, 2, 2, 2).double()}
    student = {"x": torch.randn(3, 5, 2, 4).double(), "y": torch.randn(3, 2, 2, 2).double()}
    method = CWD(teacher_layers=["x", "y"], student_layers=["x", "y"]).double()
    terms = terms_of(method, random_case(samples=3), teacher, student)
    expected = torch.zeros(3, dtype=torch.float64)
    for adaptor, name in zip(method.adaptors, "xy", strict=True):
        adapted = F.interpolate(
            adaptor(student[name], teacher[name].shape[1]), teacher[name].shape[2:], mode="bilinear"
        )
        expected += cwd_loss(adapted, teacher[name], temperature=4.0, reduction="none")
    assert_near(terms["cwd"], 50 * expected)
    assert method.adaptors[0].weight.shape == (6, 5, 1, 1)


def test_the_weight_is_chosen_and_layers_are_pairs() -> None:
    case = random_case(samples=3, spatial=(4, 5))
    assert_near(terms_of(CWD(weight=6.0), case)["cwd"], 2 * terms_of(CWD(), case)["cwd"])
    with pytest.raises(ValueError, match="CWD compares layers pair by pair, but there are 0 teacher_layers and 1 stud"):
        CWD(student_layers=["x"])

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import dcm_loss, sem_loss
from distill.methods import DimensionalStructure
from tests.losses.cases import assert_near, random_case
from tests.losses.features import features
from tests.methods.steps import terms_of

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b", "c"], "student_layers": ["a", "b", "c"]}
TEACHER = {"a": features(5, 6, 4, 4, seed=1), "b": features(5, 7, seed=2), "c": features(5, 6, 2, 2, seed=3)}
STUDENT = {"a": features(5, 3, 2, 2, seed=4), "b": features(5, 8, seed=5), "c": features(5, 4, 3, 3, seed=6)}


def made(**options: Any) -> DimensionalStructure:
    torch.manual_seed(0)
    return DimensionalStructure(**LAYERS | {"dimension": 8} | options).double()


def terms(method: DimensionalStructure) -> dict[str, Tensor]:
    return terms_of(method, random_case(samples=5), TEACHER, STUDENT)


def projected(method: DimensionalStructure) -> tuple[Tensor, Tensor]:
    weights = method.state_dict()
    sides = []
    for side, feature in (("student", STUDENT["c"]), ("teacher", TEACHER["c"])):
        first, second = (f"{side}_projector.{layer}" for layer in (0, 2))
        hidden = (feature.mean((2, 3)) @ weights[f"{first}.weight"].T + weights[f"{first}.bias"]).clamp(min=0)
        sides.append(hidden @ weights[f"{second}.weight"].T + weights[f"{second}.bias"])
    assert sides[0].shape == sides[1].shape == (5, 8)
    return sides[0], sides[1]


@pytest.mark.parametrize("center", [True, False])
def test_the_last_pair_of_layers_is_enhanced_by_projectors(center: bool) -> None:
    method = made(gamma=0.5, lambda_=0.02, center=center)
    found = terms(method)
    expected = sem_loss(*projected(method), lambda_=0.02, center=center)
    assert_near(found["sem_1"] + found["sem_2"], 0.5 * expected)


def test_the_pairs_before_it_are_calibrated_padded_to_one_shape() -> None:
    found = terms(made(gamma=0.5, sigma=0.9))
    pooled = F.avg_pool2d(TEACHER["a"], 2)
    padded = torch.cat([STUDENT["a"], torch.zeros(5, 3, 2, 2).double()], 1)
    wide = torch.cat([TEACHER["b"], torch.zeros(5, 1).double()], 1)
    expected = dcm_loss(padded, pooled, sigma=0.9) + dcm_loss(STUDENT["b"], wide, sigma=0.9)
    assert_near(found["dcm_1"] + found["dcm_2"], 0.5 * expected)


def test_the_cross_term_can_align_true_pairs() -> None:
    found = terms(made(gamma=1.0, cross="align"))
    expected = torch.zeros((), dtype=torch.float64)
    for of_student, of_teacher in [
        (torch.cat([STUDENT["a"], torch.zeros(5, 3, 2, 2)], 1), F.avg_pool2d(TEACHER["a"], 2)),
        (STUDENT["b"], torch.cat([TEACHER["b"], torch.zeros(5, 1)], 1)),
    ]:
        of_student, of_teacher = of_student.flatten(1), of_teacher.flatten(1)
        of_student, of_teacher = (
            of_student / of_student.norm(dim=1, keepdim=True),
            of_teacher / of_teacher.norm(dim=1, keepdim=True),
        )
        expected += sum(((a - b) ** 2).sum() for a, b in zip(of_student, of_teacher, strict=True)) / 5
    assert_near(found["dcm_2"], expected)


@pytest.mark.parametrize("left_out", ["sem_1", "sem_2", "dcm_1", "dcm_2"])
def test_each_term_can_be_left_out_without_a_change_to_the_others(left_out: str) -> None:
    chosen = [name for name in ("sem_1", "sem_2", "dcm_1", "dcm_2") if name != left_out]
    everything, some = terms(made()), terms(made(terms=chosen))
    assert list(some) == chosen
    for name in chosen:
        assert_near(some[name], everything[name])


def test_without_enhancement_there_are_no_projectors_and_without_calibration_one_pair_is_enough() -> None:
    assert list(made(terms=["dcm_2"]).parameters()) == []
    one = DimensionalStructure(teacher_layers=["c"], student_layers=["c"], terms=["sem_1"], dimension=8).double()
    assert list(terms(one)) == ["sem_1"]


@pytest.mark.parametrize("trained", [False, True])
def test_the_teachers_projector_stays_at_its_random_start_unless_asked_to_learn(trained: bool) -> None:
    method = made(train_teacher_projector=trained)
    sum(terms(method).values()).backward()  # type: ignore[union-attr]
    for parameter in method.student_projector.parameters():
        assert parameter.grad is not None
    for parameter in method.teacher_projector.parameters():
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None) == trained


def test_defaults_are_those_of_the_docstring() -> None:
    method = DimensionalStructure(**LAYERS)
    assert (method.lambda_, method.center, method.cross) == (0.005, True, "printed")
    assert method.sigma == pytest.approx(math.sqrt(0.5))
    assert method.hard_weight == 1.0


def test_terms_that_there_are_not_and_layers_that_are_lacking_are_refused() -> None:
    with pytest.raises(ValueError, match=r"terms must be some of sem_1, sem_2, dcm_1, dcm_2, got \['sem_3'\]"):
        DimensionalStructure(**LAYERS, terms=["sem_3"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"terms must be some of sem_1, sem_2, dcm_1, dcm_2, got \[\]"):
        DimensionalStructure(**LAYERS, terms=[])
    with pytest.raises(ValueError, match=r"has one pair of layers, which is the output's: name intermediate ones"):
        DimensionalStructure(teacher_layers=["c"], student_layers=["c"])
    with pytest.raises(ValueError, match="DimensionalStructure has no layers to compare"):
        DimensionalStructure()

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.base import DistillationModule
from distill.losses import cc_loss, pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from distill.methods import CC, PKT, RKD, SP
from tests.losses.cases import assert_near, random_case
from tests.losses.features import features
from tests.methods.steps import terms_of

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}
TEACHER = {"a": features(5, 6, 4, 4, seed=1), "b": features(5, 7, seed=2)}
STUDENT = {"a": features(5, 3, 2, 2, seed=3), "b": features(5, 4, seed=4)}


def terms(method: DistillationModule) -> dict[str, Tensor]:
    return terms_of(method.double(), random_case(samples=5), TEACHER, STUDENT)


def test_rkd_is_25_times_the_distances_and_50_times_the_angles_of_all_pairs_of_layers() -> None:
    found = terms(RKD(**LAYERS))
    assert_near(found["distance"], 25 * sum(rkd_distance_loss(STUDENT[x], TEACHER[x]) for x in "ab"))  # type: ignore[arg-type]
    assert_near(found["angle"], 50 * sum(rkd_angle_loss(STUDENT[x], TEACHER[x]) for x in "ab"))  # type: ignore[arg-type]


def test_rkd_leaves_out_what_weighs_nothing() -> None:
    assert list(terms(RKD(**LAYERS, distance_weight=0.0))) == ["angle"]
    assert list(terms(RKD(**LAYERS, angle_weight=0.0))) == ["distance"]
    with pytest.raises(ValueError, match="RKD has nothing to compare: distance_weight and angle_weight are both 0"):
        RKD(**LAYERS, distance_weight=0.0, angle_weight=0.0)


def test_sp_and_pkt_have_their_papers_weights() -> None:
    assert_near(terms(SP(**LAYERS))["sp"], 3000 * sum(sp_loss(STUDENT[x], TEACHER[x]) for x in "ab"))  # type: ignore[arg-type]
    assert_near(terms(PKT(**LAYERS))["pkt"], 30000 * sum(pkt_loss(STUDENT[x], TEACHER[x]) for x in "ab"))  # type: ignore[arg-type]


def test_cc_compares_trained_embeddings_of_maps_averaged_over_positions() -> None:
    method = CC(**LAYERS, dimension=8, gamma=0.3, order=3)
    found = terms(method)["cc"]
    expected = torch.zeros((), dtype=torch.float64)
    weights = method.state_dict()
    for index, (of_student, of_teacher) in enumerate(
        [(STUDENT["a"].mean((2, 3)), TEACHER["a"].mean((2, 3))), (STUDENT["b"], TEACHER["b"])]
    ):
        embedded = [
            x @ weights[f"{side}_embeddings.{index}.weight"].T + weights[f"{side}_embeddings.{index}.bias"]
            for side, x in (("student", of_student), ("teacher", of_teacher))
        ]
        assert embedded[0].shape == embedded[1].shape == (5, 8)
        expected += cc_loss(*embedded, gamma=0.3, order=3)
    assert_near(found, 0.02 * expected)
    found.backward()
    assert len(list(method.parameters())) == 8
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("method", [CC, PKT, RKD, SP])
def test_relations_need_pairs_of_layers(method: type[DistillationModule]) -> None:
    with pytest.raises(ValueError, match=f"{method.__name__} has no layers to compare: name teacher_layers and stud"):
        method()
    with pytest.raises(ValueError, match="compares layers pair by pair, but there are 1 teacher_layers and 2 student"):
        method(teacher_layers=["a"], student_layers=["a", "b"])

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.losses import fsp_loss, fsp_matrix
from distill.methods import FSP
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.parts.stages import weights_after_each_epoch
from tests.methods.steps import terms_of
from tests.toys import ON_MAPS, DenseNet, pair_arguments

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b", "b", "c"], "student_layers": ["a", "b", "b", "c"]}


def test_the_term_is_the_sum_over_the_flows_between_consecutive_pairs() -> None:
    of_student = features(0, (3, 2, 4, 4), (3, 5, 2, 2), (3, 4, 2, 2))
    of_teacher = features(1, (3, 2, 8, 8), (3, 5, 4, 4), (3, 6, 4, 4))
    method = FSP(**LAYERS, weight=2.0).double()
    (term,) = terms_of(method, random_case(), of_teacher, of_student).values()
    ((name, kernel),) = method.state_dict().items()  # only the last layers have different channels
    assert name == "convolutions.3.weight"
    assert kernel.shape == (6, 4, 1, 1)
    last = torch.einsum("nchw,dc->ndhw", of_student["c"], kernel[:, :, 0, 0])
    expected = torch.zeros(3, dtype=torch.float64)
    for student, teacher in (((of_student["a"], of_student["b"]), "ab"), ((of_student["b"], last), "bc")):
        expected_matrix = fsp_matrix(of_teacher[teacher[0]], of_teacher[teacher[1]])
        expected += fsp_loss(fsp_matrix(*student), expected_matrix, reduction="none")
    assert_near(term, 2 * expected)
    assert FSP(**LAYERS).weight == 10


def test_the_first_stage_moves_what_the_flow_reaches_and_the_second_the_student_alone(tmp_path: Path) -> None:
    arguments = pair_arguments(ON_MAPS, student=DenseNet(4, width=5))
    layers: dict[str, Any] = {"teacher_layers": ["first", "norm"], "student_layers": ["first", "norm"]}
    module = FSP(**arguments, **layers, stage_one_epochs=1)
    start, first, second = weights_after_each_epoch(module, tmp_path, ON_MAPS)
    for name in ("network.first.weight", "network.norm.weight", "network.head.weight"):
        assert torch.equal(start[name], first[name]) == ("head" in name), name
        assert not torch.equal(first[name], second[name]), name
    for name in ("convolutions.0.weight", "convolutions.1.weight"):
        assert not torch.equal(start[name], first[name]), name
        assert torch.equal(first[name], second[name]), name


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="FSP has no layers to compare: name teacher_layers and student_layers"):
        FSP()
    with pytest.raises(ValueError, match="FSP compares what lies between two layers, but there are 3 student_layers"):
        FSP(teacher_layers=["a", "b", "c"], student_layers=["a", "b", "c"])
    with pytest.raises(ValueError, match="FSP has hard_weight=0, but its second stage is the hard loss alone"):
        FSP(**LAYERS, hard_weight=0.0)

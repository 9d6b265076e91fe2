from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import cka, recalibrate
from distill.methods import ARFD
from tests.losses.cases import assert_near, random_case
from tests.methods.steps import terms_of

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}


def features(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(shapes[0]) + sum(shapes[0]))
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in zip("ab", shapes, strict=True)
    }


def test_the_term_is_equation_20_over_all_pairs() -> None:
    teacher = features((2, 6, 4, 8), (2, 5, 2, 2))
    student = features((2, 3, 8, 4), (2, 7, 2, 2))
    method = ARFD(**LAYERS, weight=0.25).double()
    (term,) = terms_of(method, random_case(samples=2), teacher, student).values()

    expected = torch.zeros(2, dtype=torch.float64)
    weights = method.state_dict()
    for index, name in enumerate("ab"):
        pair = []
        for feature, side in ((student[name], "student"), (teacher[name], "teacher")):
            alignment = f"{side}_alignments.{index}"
            height, width = (4, 4) if name == "a" else (2, 2)
            blocks = feature.shape[2] // height, feature.shape[3] // width
            pooled = F.avg_pool2d(feature, blocks)  # the smaller height, the smaller width
            convolved = F.conv2d(pooled, weights[f"{alignment}.weight"], weights[f"{alignment}.bias"], padding=1)
            mean, variance = convolved.mean((1, 2, 3), keepdim=True), convolved.var((1, 2, 3), False, keepdim=True)
            aligned = ((convolved - mean) / (variance + 1e-5).sqrt()).relu()
            assert aligned.shape == (2, teacher[name].shape[1], height, width)
            pair.append(recalibrate(aligned).flatten(2))
        expected += 1 - cka(*pair)
    assert_near(term, 0.25 * expected)


def test_kernel_and_measure_are_chosen() -> None:
    teacher, student = features((2, 6, 4, 4), (2, 5, 2, 2)), features((2, 3, 4, 4), (2, 7, 2, 2))
    values = []
    for kernel, measure in [("laplace", "cka"), ("gaussian", "cka"), ("laplace", "cosine"), ("none", "pearson")]:
        torch.manual_seed(0)
        method = ARFD(**LAYERS, kernel=kernel, measure=measure).double()  # type: ignore[arg-type]
        values.append(terms_of(method, random_case(samples=2), teacher, student)["arfd"].sum().item())
    assert len(set(values)) == 4


def test_both_sides_alignments_learn() -> None:
    method = ARFD(**LAYERS).double()
    term = terms_of(
        method, random_case(samples=2), features((2, 6, 4, 8), (2, 5, 2, 2)), features((2, 3, 4, 4), (2, 7, 3, 3))
    )
    term["arfd"].sum().backward()
    assert len(list(method.parameters())) == 8
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_layers_must_be_named_and_be_pairs() -> None:
    with pytest.raises(ValueError, match="ARFD has no layers to compare: name teacher_layers and student_layers"):
        ARFD()
    with pytest.raises(ValueError, match="compares layers pair by pair, but there are 2 teacher_layers and 1 "):
        ARFD(teacher_layers=["a", "b"], student_layers=["a"])


def test_one_layer_of_the_teacher_may_teach_two_of_the_student() -> None:
    teacher, student = features((2, 6, 4, 8), (2, 5, 2, 2)), features((2, 3, 4, 4), (2, 7, 3, 3))
    method = ARFD(teacher_layers=["a", "a"], student_layers=["a", "b"]).double()
    assert terms_of(method, random_case(samples=2), teacher, student)["arfd"].shape == (2,)
    assert method.student_alignments[1].weight.shape == (6, 7, 3, 3)

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import semckd_loss
from distill.methods import SemCKD
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.steps import terms_of

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b", "c"], "student_layers": ["a", "b"]}
STUDENT, TEACHER = ((4, 2, 4, 4), (4, 5)), ((4, 6, 2, 4), (4, 3), (4, 4, 3, 3))


def test_the_term_is_the_attended_error_of_all_pairs_of_layers() -> None:
    of_student, of_teacher = features(0, *STUDENT), features(1, *TEACHER)
    method = SemCKD(**LAYERS, embedding_dim=7, weight=3.0).double()
    (term,) = terms_of(method, random_case(samples=4), of_teacher, of_student).values()

    def embedded(module: nn.Module, feature: Tensor) -> Tensor:
        pooled = feature if feature.ndim == 2 else feature.mean((2, 3))
        first, _, second = (part for part in module.children())
        vector = second(first(pooled).clamp(min=0))
        assert vector.shape == (4, 7)
        unit: Tensor = vector / vector.norm(dim=1, keepdim=True)
        return unit

    as_maps = [of_teacher[name].reshape(*of_teacher[name].shape, *[1] * (4 - of_teacher[name].ndim)) for name in "abc"]
    projected, energies = [], torch.zeros(4, 2, 3, dtype=torch.float64)
    for a, name in enumerate("ab"):
        layer = of_student[name].reshape(*of_student[name].shape, *[1] * (4 - of_student[name].ndim))
        projections = method.projections.get_submodule(str(a)).children()
        sizes = [[min(pair) for pair in zip(layer.shape[2:], other.shape[2:], strict=True)] for other in as_maps]
        pooled = [F.adaptive_avg_pool2d(layer, (height, width)) for height, width in sizes]
        projected.append(
            [project(one, other.shape[1]) for project, one, other in zip(projections, pooled, as_maps, strict=True)]
        )
        for b, other in enumerate("abc"):
            query, key = embedded(method.queries[a], of_student[name]), embedded(method.keys[b], of_teacher[other])
            energies[:, a, b] = (query * key).sum(1)
    attention = energies.exp() / energies.exp().sum(2, keepdim=True)
    assert_near(term, 3 * semckd_loss(projected, as_maps, attention, reduction="none"))


def test_the_weight_is_400_and_everything_learns() -> None:
    method = SemCKD(**LAYERS).double()
    of_student, of_teacher = features(0, *STUDENT), features(1, *TEACHER)
    (term,) = terms_of(method, random_case(samples=4), of_teacher, of_student).values()
    method.weight = 1.0
    assert_near(terms_of(method, random_case(samples=4), of_teacher, of_student)["semckd"], term / 400)
    term.sum().backward()
    parameters = dict(method.named_parameters())
    assert len(parameters) == 4 * (2 + 3) + 3 * 2 * 3
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or "keys" in name, name


def test_a_batch_of_another_size_is_taken() -> None:
    method = SemCKD(**LAYERS).double()
    for samples in (4, 1, 3):
        of_student, of_teacher = (
            features(0, *[(samples, *shape[1:]) for shape in shapes]) for shapes in (STUDENT, TEACHER)
        )
        term = terms_of(method, random_case(samples=samples), of_teacher, of_student)["semckd"]
        assert term.shape == (samples,)
        assert torch.isfinite(term).all()


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="SemCKD compares all layers with all: name one or more teacher_layers and st"):
        SemCKD(teacher_layers=["a"])
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, got 0"):
        SemCKD(**LAYERS, embedding_dim=0)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import factor_loss
from distill.methods import FT
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.parts.stages import weights_after_each_epoch
from tests.methods.steps import terms_of
from tests.toys import pair_arguments

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}
STUDENT, TEACHER = ((3, 2, 4, 4), (3, 5)), ((3, 6, 2, 4), (3, 3))


def convolved(weights: dict[str, Tensor], part: str, feature: Tensor, slopes: tuple[float, ...]) -> Tensor:
    for layer, slope in enumerate(slopes):
        kernel, bias = (weights[f"{part}.layers.{layer}.{name}"] for name in ("weight", "bias"))
        feature = F.conv2d(feature, kernel, bias, padding=1)
        feature = torch.where(feature > 0, feature, slope * feature)
    return feature


def as_maps(named: dict[str, Tensor]) -> list[Tensor]:
    return [feature.reshape(*feature.shape, *[1] * (4 - feature.ndim)) for feature in named.values()]


@pytest.mark.parametrize("second_stage", [False, True])
def test_stage_one_reconstructs_and_stage_two_compares_factors(second_stage: bool) -> None:
    of_student, of_teacher = features(0, *STUDENT), features(1, *TEACHER)
    method = FT(**LAYERS).double()
    terms = terms_of(method, random_case(), of_teacher, of_student)
    weights = method.state_dict()
    if second_stage:
        method.stage_one_epochs = 0
        terms = terms_of(method, random_case(), of_teacher, of_student)
    reconstruction, difference = torch.zeros(2, 3, dtype=torch.float64)
    for index, (student, teacher) in enumerate(zip(as_maps(of_student), as_maps(of_teacher), strict=True)):
        factor = convolved(weights, f"encoders.{index}", teacher, (0.1, 0.1, 0.1))
        assert factor.shape[1] == (3, 2)[index]  # half of 6 and of 3 channels, halves to the even number
        decoded = convolved(weights, f"decoders.{index}", factor, (0.1, 0.1, 1.0))
        translated = convolved(weights, f"translators.{index}", student, (0.1, 0.1, 0.1))
        translated = F.adaptive_avg_pool2d(translated, (factor.shape[2], factor.shape[3]))
        reconstruction += (decoded - teacher).square().mean((1, 2, 3))
        difference += factor_loss(translated, factor, reduction="none")
    expected = {"ft": 500 * difference} if second_stage else {"reconstruction": reconstruction}
    assert {name for name, term in terms.items() if term.any()} == expected.keys()
    for name, value in expected.items():
        assert_near(terms[name], value)


def test_the_paraphraser_learns_first_and_then_stands_still(tmp_path: Path) -> None:
    layers: dict[str, Any] = {"teacher_layers": ["norm"], "student_layers": ["norm"]}
    module = FT(**pair_arguments(), **layers, stage_one_epochs=1, weight=1.0)
    start, first, second = weights_after_each_epoch(module, tmp_path)
    for part in ("encoders", "decoders"):
        for name in (name for name in start if name.startswith(part)):
            assert not torch.equal(start[name], first[name]), name
            assert torch.equal(first[name], second[name]), name
    parameters = [name for name, _ in module.named_parameters()]
    for name in (name for name in parameters if name.startswith(("network", "translators"))):
        assert torch.equal(start[name], first[name]), name
    for name in ("network.first.weight", "network.head.weight", "translators.0.layers.0.weight"):
        assert not torch.equal(first[name], second[name]), name


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="FT has no layers to compare: name teacher_layers and student_layers"):
        FT()
    with pytest.raises(ValueError, match=r"rate must be positive, got -0\.5"):
        FT(**LAYERS, rate=-0.5)

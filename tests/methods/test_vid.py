from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distill.methods import VID
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.steps import terms_of
from tests.toys import ToyData, pair_arguments, quiet_trainer

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}


def test_the_term_is_minus_the_log_likelihood_of_the_teacher() -> None:
    of_student, of_teacher = features(0, (3, 2, 4, 4), (3, 5)), features(1, (3, 6, 2, 4), (3, 3))
    method = VID(**LAYERS, weight=0.5).double()
    terms_of(method, random_case(), of_teacher, of_student)
    weights = method.state_dict()
    for index in range(2):
        weights[f"variances.{index}.scale"] += torch.arange(len(weights[f"variances.{index}.scale"]))
    (term,) = terms_of(method, random_case(), of_teacher, of_student).values()

    expected = torch.zeros(3, dtype=torch.float64)
    for index, name in enumerate("ab"):
        mean = F.avg_pool2d(of_student["a"], (2, 1)) if name == "a" else of_student["b"][..., None, None]
        target = of_teacher[name].reshape(3, -1, *mean.shape[2:])
        for layer in range(3):
            kernel, bias = (weights[f"regressors.{index}.convolutions.{layer}.{part}"] for part in ("weight", "bias"))
            mean = torch.einsum("nchw,dc->ndhw", mean, kernel[:, :, 0, 0]) + bias[:, None, None]
            mean = mean.clamp(min=0) if layer < 2 else mean
        variance = (1 + weights[f"variances.{index}.scale"].exp()).log()[:, None, None] + 1e-5
        expected += ((mean - target) ** 2 / variance + variance.log()).mean((1, 2, 3)) / 2
    assert_near(term, 0.5 * expected)
    assert VID(**LAYERS).weight == 1


def test_every_channel_starts_with_variance_5() -> None:
    method = VID(**LAYERS).double()
    of_teacher = features(1, (3, 6, 2, 4), (3, 3))
    terms_of(method, random_case(), of_teacher, features(0, (3, 2, 4, 4), (3, 5)))
    for module, name, channels in zip(method.variances, "ab", (6, 3), strict=True):
        assert_near(module(of_teacher[name]), torch.full((channels,), 5.0, dtype=torch.float64))


def test_scales_learn_without_weight_decay(tmp_path: Path) -> None:
    def fit(weight_decay: float) -> VID:
        arguments = pair_arguments(optimizer=partial(torch.optim.SGD, lr=1e-3, weight_decay=weight_decay))
        module = VID(**arguments, teacher_layers=["norm"], student_layers=["norm"], weight=1.0)
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(module, ToyData())
        common, *own = trainer.optimizers[0].param_groups
        (scale,) = module.variances.parameters()
        assert [group["params"] for group in own] == [[scale]]
        assert (common["weight_decay"], own[0]["weight_decay"]) == (weight_decay, 0.0)
        return module

    (scale,) = fit(0.1).variances.parameters()
    assert (scale != scale[0]).any()


def test_layers_must_be_named_and_be_pairs() -> None:
    with pytest.raises(ValueError, match="VID has no layers to compare: name teacher_layers and student_layers"):
        VID()
    with pytest.raises(ValueError, match="VID compares layers pair by pair, but there are 2 teacher_layers and 1 stud"):
        VID(teacher_layers=["a", "b"], student_layers=["a"])

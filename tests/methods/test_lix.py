from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from distill.methods import ARFD, DWLD, LIX, DynamicWeightController
from tests.losses.cases import assert_near, random_case
from tests.methods.steps import terms_of
from tests.toys import make, make_batch, prepared

LAYERS: dict[str, Any] = {"teacher_layers": ["a"], "student_layers": ["a"]}


def test_it_is_dwld_and_arfd_side_by_side() -> None:
    case = random_case(samples=3, spatial=(4, 4))
    theirs, ours = {"a": torch.randn(3, 6, 4, 4).double()}, {"a": torch.randn(3, 2, 4, 4).double()}
    lix = LIX(
        **LAYERS,
        alpha=2.0,
        temperature=3.0,
        form="kl",
        kernel="gaussian",
        measure="pearson",
        logit_weight=0.7,
        feature_weight=0.3,
        controller=DynamicWeightController(layers=2),
    ).double()
    terms = terms_of(lix, case, theirs, ours)
    controller = copy.deepcopy(lix.methods.get_submodule("dwld.controller"))
    assert isinstance(controller, DynamicWeightController)
    dwld = DWLD(alpha=2.0, temperature=3.0, form="kl", weight=0.7, controller=controller)
    arfd = copy.deepcopy(lix.methods["arfd"])
    assert isinstance(arfd, ARFD)
    assert (arfd.kernel, arfd.measure, arfd.weight) == ("gaussian", "pearson", 0.3)
    expected = {f"dwld/{name}": value for name, value in terms_of(dwld, case).items()}
    expected |= {f"arfd/{name}": value for name, value in terms_of(arfd, case, theirs, ours).items()}
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        assert_near(value, expected[name])


def test_the_ratio_of_hard_logit_and_feature_loss_is_2_1_1() -> None:
    lix = LIX(**LAYERS)
    assert lix.hard_weight == 1
    assert [method.weight for method in lix.methods.values()] == [0.5, 0.5]


def test_ignored_pixels_do_not_count_in_the_logit_terms() -> None:
    module = prepared(make("LIX on maps")).eval()
    batch = make_batch(method="LIX on maps")
    batch["target"][:, 1] = 255
    teacher, student = module._see_both(batch)
    other = teacher._replace(prediction=teacher.prediction.clone())
    other.prediction[:, :, 1] = 50.0
    before, after = module._distil(teacher, student, batch), module._distil(other, student, batch)
    assert torch.equal(before["dwld/ncld"], after["dwld/ncld"])
    assert torch.equal(before["dwld/tcld"], after["dwld/tcld"])


def test_layers_must_be_named() -> None:
    with pytest.raises(ValueError, match="ARFD has no layers to compare"):
        LIX()

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill import DistillationModule
from distill.methods import DKD, Combined
from tests.losses.cases import Case, assert_near, by_equation, kl, nontarget, random_case, softmax
from tests.methods.steps import EpochTerms, Fixed, terms_of
from tests.toys import ToyData, pair_arguments, quiet_trainer


def equations(case: Case, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 TCKD and T^2 NCKD at each position; 0 where ignored."""

    def tckd(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        p_s, p_t = softmax(student / temperature)[target], softmax(teacher / temperature)[target]
        return temperature**2 * kl(torch.stack([p_t, 1 - p_t]), torch.stack([p_s, 1 - p_s]))

    def nckd(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        others_s, others_t = (nontarget(logits / temperature, target) for logits in (student, teacher))
        return temperature**2 * kl(softmax(others_t), softmax(others_s))

    return by_equation(case, tckd), by_equation(case, nckd)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_the_terms_are_those_of_equation_7(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=5, spatial=spatial)
    terms = terms_of(DKD(alpha=0.5, beta=3.0, temperature=2.0, warmup_epochs=0), case)
    tckd, nckd = equations(case, 2.0)
    assert list(terms) == ["tckd", "nckd"]
    assert_near(terms["tckd"], 0.5 * tckd)
    assert_near(terms["nckd"], 3.0 * nckd)


def test_the_defaults_are_the_papers_on_cifar_100() -> None:
    case = random_case(samples=5)
    terms = terms_of(DKD(warmup_epochs=1), case)
    tckd, nckd = equations(case, 4.0)
    assert_near(terms["tckd"], tckd)
    assert_near(terms["nckd"], 8 * nckd)
    assert_near(terms_of(DKD(), case)["nckd"], 8 * nckd / 20)  # the first of 20 epochs


def test_a_weighting_multiplies_both_terms() -> None:
    case, weighting = random_case(samples=5), Fixed()
    plain, weighted = terms_of(DKD(), case), terms_of(DKD(weighting=weighting), case)
    for name in ("tckd", "nckd"):
        assert_near(weighted[name], plain[name] * torch.arange(5) / 5)
    assert weighting.asked is not None
    assert all(map(torch.equal, weighting.asked, case))


def alone(**options: Any) -> DistillationModule:
    return DKD(**pair_arguments(), **options)


def inside_combined(**options: Any) -> DistillationModule:
    return Combined(**pair_arguments(), methods={"dkd": DKD(**options)})


def twice_inside_combined(**options: Any) -> DistillationModule:
    return Combined(**pair_arguments(), methods={"inner": Combined(methods={"dkd": DKD(**options)})})


@pytest.mark.parametrize("make", [alone, inside_combined, twice_inside_combined])
@pytest.mark.parametrize(("warmup", "shares"), [(3, [1 / 3, 2 / 3, 1, 1]), (1, [1, 1]), (0, [1, 1])])
def test_terms_grow_to_their_full_weight_over_the_warm_up(
    make: Any, warmup: int, shares: list[float], tmp_path: Path
) -> None:
    case = random_case(samples=5)
    record = EpochTerms(case)
    quiet_trainer(tmp_path, max_epochs=len(shares), callbacks=[record]).fit(make(warmup_epochs=warmup), ToyData())
    full = terms_of(DKD(warmup_epochs=0), case)
    for terms, share in zip(record.terms, shares, strict=True):
        for value, whole in zip(terms.values(), full.values(), strict=True):
            assert_near(value, share * whole)

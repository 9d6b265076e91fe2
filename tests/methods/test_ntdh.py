from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.methods import NTDH
from distill.weighting import NontargetSampleMask
from tests.losses.cases import IGNORED, Case, assert_near, by_equation, kl, nontarget, random_case, softmax
from tests.methods.steps import terms_of


def equation_17(case: Case, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """T^2 TCKL and T^2 NCKL at each position: the two divergences of eq. 17, without the factor of the second."""

    def tckl(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        p_s, p_t = softmax(student / temperature)[target], softmax(teacher / temperature)[target]
        return temperature**2 * (p_t * (p_t / p_s).log() + (1 - p_t) * ((1 - p_t) / (1 - p_s)).log())

    def nckl(student: Tensor, teacher: Tensor, target: int) -> Tensor:
        others_s, others_t = (nontarget(softmax(logits / temperature), target) for logits in (student, teacher))
        return temperature**2 * kl(others_t / others_t.sum(), others_s / others_s.sum())

    return by_equation(case, tckl), by_equation(case, nckl)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_alpha_weighs_tckl_and_beta_weighs_nckl(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=5, spatial=spatial)
    terms = terms_of(NTDH(alpha=3.0, beta=7.0, temperature=2.0), case)
    tckl, nckl = equation_17(case, 2.0)
    assert list(terms) == ["tckl", "nckl"]
    assert_near(terms["tckl"], 3 * tckl)
    assert_near(terms["nckl"], 7 * nckl)


def test_the_two_parts_make_up_the_divergence_of_equation_17() -> None:
    case = random_case(samples=5)
    terms = terms_of(NTDH(), case)
    others = by_equation(case, lambda s, t, y: 1 - softmax(t)[y])
    whole = by_equation(case, lambda s, t, _: kl(softmax(t), softmax(s)))
    assert_near(terms["tckl"] + others * terms["nckl"], whole)


def ncjsd(student: Tensor, teacher: Tensor, target: int) -> Tensor:
    """Equation 6 at one position."""
    p, q = (softmax(nontarget(logits, target)) for logits in (teacher, student))
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


@pytest.mark.parametrize("mode", ["true", "false"])
def test_the_mask_drops_the_samples_of_the_highest_divergence_and_its_control_those_of_the_lowest(mode: Any) -> None:
    case = random_case(samples=11, classes=5)
    divergence = by_equation(case, ncjsd)
    labelled = (case.target != IGNORED).nonzero().flatten()
    order = labelled[divergence[labelled].argsort(descending=mode == "true")]
    dropped = order[: round(0.5 * len(labelled))]
    assert 0 < len(dropped) < len(labelled)

    terms = terms_of(NTDH(alpha=2.0, beta=3.0, sample_mask=NontargetSampleMask(0.5, mode)), case)
    tckl, nckl = equation_17(case)
    tckl[dropped], nckl[dropped] = 0, 0
    assert_near(terms["tckl"], 2 * tckl)
    assert_near(terms["nckl"], 3 * nckl)


def test_a_mask_of_nothing_changes_nothing_and_one_of_all_leaves_nothing() -> None:
    case = random_case(samples=6)
    plain = terms_of(NTDH(), case)
    for name, term in terms_of(NTDH(sample_mask=NontargetSampleMask(0.0)), case).items():
        assert torch.equal(term, plain[name])
    for term in terms_of(NTDH(sample_mask=NontargetSampleMask(1.0)), case).values():
        assert term.eq(0).all()

from __future__ import annotations

from typing import Literal

import pytest
import torch

from distill.losses import dkd_loss, dwld_terms
from distill.methods import DWLD, DynamicWeightController
from tests.losses.cases import assert_near, random_case
from tests.methods.steps import terms_of


@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize("form", ["kl", "bregman"])
def test_the_terms_are_those_of_equation_10_with_the_controllers_weights(
    spatial: tuple[int, ...], form: Literal["kl", "bregman"]
) -> None:
    case = random_case(samples=5, spatial=spatial)
    method = DWLD(alpha=2.0, temperature=3.0, form=form, weight=0.25).double()
    terms = terms_of(method, case)
    beta = method.controller(case.student, case.teacher)
    tcld, ncld = dwld_terms(*case, beta, temperature=3.0, form=form)
    assert list(terms) == ["tcld", "ncld"]
    assert_near(terms["tcld"], 0.25 * 2 * tcld)
    assert_near(terms["ncld"], 0.25 * ncld)


def test_a_range_of_one_value_makes_it_dkd() -> None:
    case = random_case(samples=5, spatial=(2, 3))
    method = DWLD(weight=1.0, controller=DynamicWeightController(beta_min=8, beta_max=8)).double()
    terms = terms_of(method, case)
    dkd = dkd_loss(*case, alpha=1, beta=8, temperature=1, reduction="none")
    assert_near(terms["tcld"] + terms["ncld"], dkd, 1e-9)


def test_the_weight_grows_over_the_epochs_of_the_warm_up() -> None:
    case, controller = random_case(samples=5), DynamicWeightController(beta_min=8, beta_max=8)
    whole = terms_of(DWLD(controller=controller).double(), case)
    first = terms_of(DWLD(controller=controller, warmup_epochs=4).double(), case)
    for name in ("tcld", "ncld"):
        assert_near(4 * first[name], whole[name])


def test_weights_are_equations_6_to_9() -> None:
    case = random_case(samples=2, classes=3, spatial=(4,))
    controller = DynamicWeightController(beta_min=2, beta_max=5).double()
    beta = controller(case.student, case.teacher)
    p = case.student[1, :, 2].softmax(0)
    omega = torch.cat([p, -(p * p.log()).sum()[None]])
    values = omega
    for index in range(3):
        weight, bias = (controller.state_dict()[f"layers.{index}.{name}"] for name in ("weight", "bias"))
        values = weight[..., 0] @ (values.relu() if index else values) + bias
    assert_near(beta[1, :, 2], 3 * torch.sigmoid(values) + 2)


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("confidence", [True, False])
def test_layers_and_inputs_of_the_ablations(layers: int, confidence: bool) -> None:
    case = random_case(classes=6, spatial=(2, 2))
    controller = DynamicWeightController(layers=layers, confidence=confidence).double()
    controller(case.student, case.teacher)
    shapes = [tuple(value.shape) for name, value in controller.named_parameters() if name.endswith("weight")]
    assert shapes == [(6, 7 if confidence else 6, 1), *[(6, 6, 1)] * (layers - 1)]


def test_the_source_is_whose_prediction_is_looked_at() -> None:
    case = random_case(classes=6)
    for source in ("student", "teacher"):
        controller = DynamicWeightController(source=source).double()
        beta = controller(case.student, case.teacher)
        changed = {"student": case.student, "teacher": case.teacher, source: torch.zeros_like(case.student)}
        other = {"student": "teacher", "teacher": "student"}[source]
        ignored = {"student": case.student, "teacher": case.teacher, other: torch.zeros_like(case.student)}
        assert not torch.equal(controller(changed["student"], changed["teacher"]), beta)
        assert torch.equal(controller(ignored["student"], ignored["teacher"]), beta)


def test_the_controller_learns_and_its_input_does_not() -> None:
    case = random_case(samples=5)
    student = case.student.requires_grad_()
    method = DWLD().double()
    (beta := method.controller(student, case.teacher)).sum().backward()
    assert beta.requires_grad
    assert student.grad is None
    method.zero_grad()
    terms_of(method, case)["ncld"].sum().backward()
    assert all(parameter.grad is not None for parameter in method.controller.parameters())


def test_weights_stay_in_their_range_for_extreme_logits_and_dropout_is_off_in_eval_mode() -> None:
    controller = DynamicWeightController(dropout=0.5)
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    controller(logits, logits)
    for parameter in controller.parameters():
        torch.nn.init.constant_(parameter, 100.0)
    beta = controller(logits, logits)
    assert beta.min() >= 1
    assert beta.max() <= 10
    controller.eval()
    assert torch.equal(controller(logits, logits), controller(logits, logits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"source": "both"}, "source must be one of student, teacher, got 'both'"),
        ({"beta_min": 3, "beta_max": 2}, r"0 <= beta_min <= beta_max, got \[3, 2\]"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicWeightController(**arguments)  # type: ignore[arg-type]

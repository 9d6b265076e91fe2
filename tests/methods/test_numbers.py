"""No number of a method is accepted that makes its loss negative, empty or infinite.

The numbers are found in the signatures of all methods, so that a new method and a new argument are included.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import distill.methods
from distill import DistillationModule
from distill.errors import UserError
from distill.feature_mask import FeatureMask
from distill.methods.dwld import DynamicWeightController
from distill.weighting import NontargetSampleMask, PerceptualSolutionSpaceMask
from tests.methods.examples import EXAMPLES
from tests.number_arguments import ANY_FINITE, Argument, of_all
from tests.toys import KINDS, make_batch, pair_arguments

BELOW_0 = ("adversarial", "dcm", "vid")
"""Terms that may be negative as they are printed: a score, and logarithms."""


METHODS = [
    argument
    for argument in of_all(*(getattr(distill.methods, name) for name in distill.methods.__all__))
    if str(argument) != "LIX.weights"  # LIX gives them itself
]
OTHERS = of_all(DynamicWeightController, NontargetSampleMask, PerceptualSolutionSpaceMask, FeatureMask)


def example(owner: type) -> tuple[str, dict[str, Any]]:
    """The name of a toy and the arguments that the class needs on it."""
    if issubclass(owner, DistillationModule):
        kind, arguments = next(iter(EXAMPLES[owner.__name__].toys.items()))
        name = owner.__name__ + KINDS[kind]
        return name, {**pair_arguments(name), **arguments()}
    if owner is FeatureMask:
        return "", pair_arguments()
    return "", {"fraction": 0.5} if owner is NontargetSampleMask else {}


def made(argument: Argument, value: float) -> Any:
    _, arguments = example(argument.owner)
    given: Any = value
    if argument.annotation.startswith("dict"):
        given = {next(iter(arguments["methods"])): value}
    return argument.owner(**{**arguments, argument.name: given})


@pytest.mark.parametrize("argument", METHODS + OTHERS, ids=str)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_a_number_that_makes_no_sense_is_refused_by_its_name(argument: Argument, value: float) -> None:
    if argument.name in ANY_FINITE and value == -1:
        return
    with pytest.raises(UserError, match=rf"\b{argument.name}\b.*got.*{value}|\b{argument.name}\b.*{value}"):
        made(argument, value)


@pytest.mark.parametrize("argument", METHODS, ids=str)
def test_0_is_refused_by_its_name_or_a_weight_whose_loss_is_finite_and_not_empty(argument: Argument) -> None:
    module = made_or_refused(argument, 0)
    if module is None:
        return
    assert re.search(
        rf"^        {argument.name}: .*?(weight|\b0\b)", documentation(argument.owner), re.MULTILINE | re.DOTALL
    )
    name, _ = example(argument.owner)
    torch.manual_seed(0)
    loss, terms, _ = module.training_losses(make_batch(8, method=name))
    assert loss.isfinite()
    assert loss.requires_grad
    assert loss != 0
    assert all(value >= 0 for term, value in terms.items() if not term.startswith(BELOW_0))


@pytest.mark.parametrize("name", distill.methods.__all__)
def test_a_loss_without_any_weight_is_refused(name: str) -> None:
    owner = getattr(distill.methods, name)
    weights = [
        argument.name
        for argument in METHODS
        if argument.owner is owner
        and re.search(rf"^        {argument.name}: [^\n]*weight of", documentation(owner), re.MULTILINE)
    ]
    assert "hard_weight" in weights
    _, arguments = example(owner)
    zeros = {weight: 0.0 if weight != "weights" else dict.fromkeys(arguments["methods"], 0.0) for weight in weights}
    with pytest.raises(UserError, match="0"):
        owner(**{**arguments, **zeros})


def made_or_refused(argument: Argument, value: float) -> DistillationModule | None:
    """The method with this number, or None if a sentence refuses it by its name."""
    try:
        method: DistillationModule = made(argument, value)
    except UserError as error:
        if argument.name not in str(error):
            raise
        return None
    return method


def documentation(owner: type) -> str:
    return "".join(base.__doc__ or "" for base in owner.__mro__)

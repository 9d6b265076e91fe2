"""No number of a task, metric, callback or data module is accepted that makes no sense; methods have their own test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import callbacks
import datamodules
import distill.metrics
from distill import Classification, DepthEstimation, RegionSegmentation, SemanticSegmentation
from distill.errors import UserError
from tests.number_arguments import ANY_FINITE, Argument, of_all

NEEDED: dict[str, Any] = {"num_classes": 3, "data": datamodules.GaussianPair()}
"""Required arguments; the others are folders and files."""


def classes_of(module: Any) -> list[type]:
    return [owner for name in module.__all__ if isinstance(owner := getattr(module, name), type)]


SKIPPED = {"Camera", "Frame", "Splits", "TensorPairs", "FrameDataModule", "PairedDataModule"}
"""What users do not name in a configuration: data, and base classes whose arguments the others have."""

ARGUMENTS = of_all(
    Classification,
    SemanticSegmentation,
    RegionSegmentation,
    DepthEstimation,
    *classes_of(distill.metrics),
    *classes_of(callbacks),
    *(owner for owner in classes_of(datamodules) if owner.__name__ not in SKIPPED),
)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
@pytest.mark.parametrize("argument", ARGUMENTS, ids=str)
def test_a_number_that_makes_no_sense_is_refused_by_its_name(argument: Argument, value: float) -> None:
    if argument.name in ANY_FINITE and value == -1:
        return
    with pytest.raises((UserError, TypeError)) as error:
        make(argument, value)
    if "got multiple values" in str(error.value):  # a base class's argument that the class gives itself
        return
    assert argument.name in str(error.value)
    assert "\n" not in str(error.value)


def make(argument: Argument, value: float) -> Any:
    given: Any = value
    if "tuple[" in argument.annotation:
        given = (value, value)
    elif "Sequence[" in argument.annotation:
        given = [value] * 3
    needed = {name: NEEDED.get(name, Path("nowhere")) for name in argument.required}
    return argument.owner(**{**needed, argument.name: given})

"""The checks of arguments: what passes, what is refused, and in which words."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest

from distill.checks import (
    check_at_least,
    check_finite,
    check_option,
    check_positive,
    check_share,
    check_weights,
    check_within,
)

NUMBER_CHECKS: dict[str, Callable[..., None]] = {
    "at least": partial(check_at_least, 1),
    "positive": check_positive,
    "share": check_share,
    "within": partial(check_within, 0, 180),
    "finite": check_finite,
}


def test_an_option_passes() -> None:
    check_option("salience", "solo", ("permute", "zero", "solo"))
    check_option("reading", None, [None, "minimum"])


def test_another_value_than_the_options_is_named_with_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"^salience must be one of permute, zero, solo, got 'x'$"):
        check_option("salience", "x", ("permute", "zero", "solo"))


def test_options_may_be_given_as_an_iterator() -> None:
    with pytest.raises(ValueError, match=r"^dims must be one of 1, 2, got 3$"):
        check_option("dims", 3, iter((1, 2)))


@pytest.mark.parametrize(
    ("check", "value"),
    [("at least", 1), ("at least", 2.5), ("positive", 1e-9), ("share", 0), ("share", 1), ("within", 180)],
)
def test_a_number_in_its_range_passes(check: str, value: float) -> None:
    NUMBER_CHECKS[check](repeats=value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        ("at least", 0, "repeats must be at least 1, got 0"),
        ("positive", 0, "repeats must be positive, got 0"),
        ("positive", -0.5, "repeats must be positive, got -0.5"),
        ("share", 1.5, r"repeats must lie in \[0, 1\], got 1.5"),
        ("share", -0.1, r"repeats must lie in \[0, 1\], got -0.1"),
        ("share", math.inf, r"repeats must lie in \[0, 1\], got inf"),
        ("within", 181, r"repeats must lie in \[0, 180\], got 181"),
        ("at least", math.inf, "repeats must be finite, got inf"),
        ("positive", math.inf, "repeats must be finite, got inf"),
        ("finite", -math.inf, "repeats must be finite, got -inf"),
    ],
)
def test_a_number_outside_its_range_is_refused_in_one_sentence(check: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        NUMBER_CHECKS[check](repeats=value)


@pytest.mark.parametrize("check", NUMBER_CHECKS.values(), ids=NUMBER_CHECKS.keys())
def test_every_check_of_numbers_refuses_nan(check: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match=r"^repeats must .*, got nan$"):
        check(repeats=math.nan)


@pytest.mark.parametrize("check", NUMBER_CHECKS.values(), ids=NUMBER_CHECKS.keys())
def test_every_check_of_numbers_passes_none_over(check: Callable[..., None]) -> None:
    check(repeats=None)


@pytest.mark.parametrize("check", NUMBER_CHECKS.values(), ids=NUMBER_CHECKS.keys())
def test_every_check_of_numbers_refuses_what_is_no_number(check: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match=r"^repeats must .*, got '3'$"):
        check(repeats="3")


def test_weights_may_be_0_but_not_all_beside_a_hard_loss_without_weight() -> None:
    check_weights(1, alpha=0, beta=0)
    check_weights(0, alpha=0, beta=2)
    check_weights(0, alpha=0, beta=None)
    with pytest.raises(ValueError, match=r"^beta must be at least 0, got -1$"):
        check_weights(1, alpha=0, beta=-1)
    with pytest.raises(ValueError, match=r"^hard_weight and alpha and beta must not all be 0: the loss"):
        check_weights(0, alpha=0, beta=0)


def test_the_first_wrong_number_of_several_is_named() -> None:
    with pytest.raises(ValueError, match=r"^samples must be at least 1, got 0$"):
        check_at_least(1, repeats=3, samples=0, epochs=-1)

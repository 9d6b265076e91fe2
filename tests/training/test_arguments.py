"""Arguments of the base classes: needed ones are asked for, plain ones are kept in checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distill.methods import KD
from distill.training.arguments import described, is_plain, required
from tests.toys import pair_arguments


def test_a_required_argument_is_returned_and_the_error_for_a_missing_one_says_where_to_give_it() -> None:
    assert required(0, "weight", object()) == 0
    with pytest.raises(ValueError, match=r"^KD has no optimizer: give it under model\.init_args\.optimizer$"):
        required(None, "optimizer", KD())


def test_messages_name_a_network_by_its_argument_and_class() -> None:
    assert described(nn.Linear(1, 1), "student") == "student Linear"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, True),
        (["x_a", 1, {"beta": (2.0, False)}], True),
        (nn.Linear(1, 1), False),
        ([torch.ones(1)], False),
        ({1: "by number"}, False),
        (print, False),
    ],
)
def test_plain_values_are_those_that_a_checkpoint_holds_without_code(value: Any, plain: bool) -> None:
    assert is_plain(value) == plain


class Renaming(KD):
    def __init__(self, *args: Any, warmth: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, temperature=warmth, **kwargs)


def test_the_arguments_of_the_outermost_class_are_kept_and_no_modules() -> None:
    kept = dict(Renaming(**pair_arguments(), warmth=3.0).hparams)
    assert kept["warmth"] == 3.0
    assert kept["teacher_inputs"] == ["x_a", "x_b"]
    assert not {"temperature", "teacher", "student", "task", "optimizer"} & kept.keys()

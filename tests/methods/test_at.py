from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.losses import at_loss
from distill.methods import AT
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.steps import terms_of
from tests.toys import ToyData, pair_arguments, quiet_trainer

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["b", "a"]}


def test_the_term_is_the_weighted_sum_over_the_pairs() -> None:
    student, teacher = features(0, (3, 2, 4, 4), (3, 5, 2, 2)), features(1, (3, 6, 2, 2), (3, 3, 4, 4))
    (term,) = terms_of(AT(**LAYERS), random_case(), teacher, student).values()
    parts = [at_loss(student[o], teacher[t], reduction="none") for o, t in (("b", "a"), ("a", "b"))]
    assert_near(term, 1000 * (parts[0] + parts[1]))
    assert_near(terms_of(AT(**LAYERS, weight=2.0), random_case(), teacher, student)["at"], term / 500)


def test_attention_on_other_places_is_seen_whatever_the_channels() -> None:
    left, right = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    left[..., 0], right[..., 1] = -3.0, 0.5
    method = AT(teacher_layers=["a"], student_layers=["a"], weight=1.0)
    # maps of length 1, (1, 0) and (0, 1): both positions differ by 1
    assert_near(terms_of(method, random_case(samples=1), {"a": left}, {"a": right})["at"], torch.tensor([1.0]))
    assert_near(terms_of(method, random_case(samples=1), {"a": left}, {"a": 2 * left})["at"], torch.tensor([0.0]))


def test_layers_must_be_named_be_pairs_and_have_positions(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="AT has no layers to compare: name teacher_layers and student_layers"):
        AT()
    with pytest.raises(ValueError, match="AT compares layers pair by pair, but there are 2 teacher_layers and 1 stud"):
        AT(teacher_layers=["a", "b"], student_layers=["a"])
    vectors = AT(**pair_arguments(), teacher_layers=["first"], student_layers=["first"])
    with pytest.raises(ValueError, match=r"features must be maps .* with positions, got \(2, 6\)"):
        quiet_trainer(tmp_path).fit(vectors, ToyData())

from __future__ import annotations

from typing import Any

import pytest

from distill.losses import nst_loss
from distill.methods import NST
from tests.losses.cases import assert_near, random_case
from tests.methods.features import features
from tests.methods.steps import terms_of


def test_the_term_is_the_weighted_sum_over_the_pairs() -> None:
    student, teacher = features(0, (3, 2, 4, 4), (3, 5, 2, 2)), features(1, (3, 6, 2, 2), (3, 3, 4, 4))
    layers: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["b", "a"]}
    (term,) = terms_of(NST(**layers), random_case(), teacher, student).values()
    parts = [nst_loss(student[o], teacher[t], reduction="none") for o, t in (("b", "a"), ("a", "b"))]
    assert_near(term, 50 * (parts[0] + parts[1]))
    assert_near(terms_of(NST(**layers, weight=1.0), random_case(), teacher, student)["nst"], term / 50)


def test_the_order_and_scale_of_channels_do_not_matter() -> None:
    (student,) = features(0, (3, 4, 3, 3)).values()
    method = NST(teacher_layers=["a"], student_layers=["a"])
    term = terms_of(method, random_case(), {"a": 2 * student.flip(1)}, {"a": student})["nst"]
    assert_near(term, 0 * term)


def test_layers_must_be_named_and_be_pairs() -> None:
    with pytest.raises(ValueError, match="NST has no layers to compare: name teacher_layers and student_layers"):
        NST()
    with pytest.raises(ValueError, match="NST compares layers pair by pair, but there are 0 teacher_layers and 1 stud"):
        NST(student_layers=["a"])

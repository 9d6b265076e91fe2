from __future__ import annotations

import distill.methods
from tests.methods.examples import EXAMPLES


def test_every_method_has_one_example_and_every_example_is_of_a_method() -> None:
    assert sorted(EXAMPLES) == sorted(distill.methods.__all__)

from __future__ import annotations

import torch

from distill.checkpoint import looks_untrained
from distill.models import StoredTeacher


def test_the_response_comes_back_as_it_is() -> None:
    response = torch.rand(2, 1, 4, 5)
    assert StoredTeacher()(response) is response


def test_nobody_misses_its_weights() -> None:
    assert not looks_untrained(StoredTeacher())
    assert not StoredTeacher().state_dict()

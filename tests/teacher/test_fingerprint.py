"""Two networks have one fingerprint where they compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from distill.teacher.fingerprint import network_fingerprint, sample_checksums


class Scaled(nn.Module):
    """A layer with a buffer that no checkpoint holds, plain settings, and something that is no setting."""

    def __init__(self, mean: float = 0.5, strides: Any = (1, 2), weight: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.constant_(self.linear.weight, weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.steps = strides
        self.by_layer = dict(enumerate(strides))
        self.unknown = object()


def test_objects_with_the_same_content_have_the_same_fingerprint() -> None:
    assert network_fingerprint(Scaled()) == network_fingerprint(Scaled())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"weight": 1.0}, {"weight": 2.0}),
        ({"mean": 0.5}, {"mean": 0.4}),
        ({"strides": (1, 2)}, {"strides": (1, 3)}),
        ({"strides": [1, 2]}, {"strides": [1, 3]}),
        ({"strides": {"first": 1}}, {"strides": {"first": 2}}),
    ],
    ids=str,
)
def test_weights_buffers_outside_of_checkpoints_and_settings_change_the_fingerprint(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert network_fingerprint(Scaled(**one)) != network_fingerprint(Scaled(**other))


def test_rows_of_a_dictionary_have_checksums_over_all_its_parts() -> None:
    ids, mask = torch.tensor([[1, 2], [3, 4], [1, 2]]), torch.tensor([[1], [1], [1]])
    sums = sample_checksums([{"ids": ids, "mask": mask}])
    assert len(sums) == 3
    assert sums[0] == sums[2] != sums[1]
    assert (sums == sample_checksums([{"mask": mask, "ids": ids}])).all()
    assert sample_checksums([{"ids": ids, "mask": 1 - mask}])[0] != sums[0]

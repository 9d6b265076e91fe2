"""Weightings hear where in a fit they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill import Batch, Classification
from distill.methods import DKD, KD, Combined
from distill.weighting.base import SampleWeighting
from tests.toys import ToyData, pair_arguments, quiet_trainer


class Diary(SampleWeighting):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return torch.ones(len(student))

    def begin_fit(self, method: Any) -> None:
        self.entries.append(("fit", self.ignore_index))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.entries.append((epoch, epochs))


def test_every_weighting_gets_its_hooks_called_in_a_combination_too(tmp_path: Path) -> None:
    diaries = Diary(), Diary()
    arguments = pair_arguments(task=Classification(4, ignore_index=-1))
    methods: Any = {"kd": KD(weighting=diaries[0]), "dkd": DKD(weighting=diaries[1])}
    quiet_trainer(tmp_path, max_epochs=3).fit(Combined(**arguments, methods=methods), ToyData())
    for diary in diaries:
        assert diary.entries[0] == ("fit", -1)
        assert list(dict.fromkeys(diary.entries[1:])) == [(0, 3), (1, 3), (2, 3)]

"""Weightings hear where in a fit they are."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill import Batch, Classification
from distill.methods import DKD, KD, NTDH, PSSM, Combined
from distill.weighting import NontargetSampleMask, PerceptualSolutionSpaceMask
from distill.weighting.base import SampleWeighting
from distill.weighting.schedule import WeightingSchedule
from tests.processes import run_in_processes
from tests.toys import ToyData, make_batch, pair_arguments, quiet_trainer


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


def test_a_fit_logs_the_share_of_the_counted_samples_whose_weight_each_weighting_lowers(tmp_path: Path) -> None:
    batch = make_batch(10)
    teacher = nn.Linear(6, 4)
    predicted = teacher(batch["x_a"]).argmax(1)
    batch["target"] = torch.where(torch.arange(10) < 6, predicted, (predicted + 1) % 4)
    batch["target"][0] = 255
    arguments = pair_arguments(teacher=teacher.eval(), teacher_inputs=["x_a"])
    pssm = PSSM(reading="drop_wrong")
    ntdh = NTDH(sample_mask=NontargetSampleMask(0.25, average="kept"))
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* has no effect")
        trainer.fit(Combined(**arguments, methods={"a": pssm, "b": ntdh}), ToyData(batch, batch_size=10))
    assert float(trainer.callback_metrics["weighting/a/mask_share"]) == pytest.approx(4 / 9)
    assert float(trainer.callback_metrics["weighting/b/sample_mask_share"]) == pytest.approx(2 / 9)  # round(9 / 4)
    assert not pssm.mask._forward_hooks


def test_a_weighting_without_effect_is_said_once_and_one_that_should_have_none_is_not(tmp_path: Path) -> None:
    batch = make_batch(8)
    teacher = nn.Linear(6, 4)
    batch["target"] = teacher(batch["x_a"]).argmax(1)  # the teacher is right on all samples
    arguments = pair_arguments(teacher=teacher.eval(), teacher_inputs=["x_a"])
    methods = {
        "pssm": PSSM(),
        "none": NTDH(sample_mask=NontargetSampleMask(0.0)),
        "few": NTDH(sample_mask=NontargetSampleMask(0.1)),
    }
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Combined(**arguments, methods=methods), ToyData(batch, batch_size=4))
    said = [str(warning.message) for warning in caught if "has no effect" in str(warning.message)]
    assert said == [
        (
            "pssm/mask (PerceptualSolutionSpaceMask) gave all 8 positions of epoch 0 the weight 1, so it has no "
            "effect, mostly because the teacher predicts the labels of all training samples right"
        ),
        (
            "few/sample_mask (NontargetSampleMask) gave all 8 positions of epoch 0 the weight 1, so it has no effect, "
            "mostly because a share of 0.1 of the positions of a batch is rounded to none"
        ),
    ]
    assert trainer.callback_metrics["weighting/pssm/mask_share"] == 0


class Masked(nn.Module):
    """A mask that drops samples on which the teacher is wrong, and what it logs; no fit is needed."""

    ignore_index = 255
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.mask = PerceptualSolutionSpaceMask("drop_wrong")
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: float, **_: Any) -> None:
        self.logged[name] = value


class Epoch:
    current_epoch = 0
    max_epochs = 1


def begun(module: Any, state: dict[str, Any] | None = None) -> WeightingSchedule:
    schedule: Any = WeightingSchedule()
    schedule.setup(Epoch(), module, "fit")
    if state:
        schedule.load_state_dict(state)
    schedule.on_train_start(Epoch(), module)
    return schedule  # type: ignore[no-any-return]


def weigh(module: Masked, right: list[bool]) -> None:
    logits = torch.eye(3)[:2].repeat(len(right), 1)[: len(right)]
    target = torch.where(torch.tensor(right), logits.argmax(1), 2)
    module.mask(logits, logits, {"target": target})


def share_of(rank: int, size: int) -> float:
    module: Any = Masked()
    schedule: Any = begun(module)
    weigh(module, [[False, True, True], [False]][rank])
    state = schedule.state_dict()
    # a fit that resumes here forgets what a process has not seen
    module.mask._forward_hooks.clear()
    schedule = begun(module, state)
    weigh(module, [[True], [False, True]][rank])
    module.eval()
    weigh(module, [False])
    schedule.on_train_epoch_end(Epoch(), module)
    (share,) = module.logged.values()
    return float(share)


@pytest.mark.ddp
def test_processes_log_the_share_of_all_their_samples_also_if_they_resume_within_the_epoch() -> None:
    assert run_in_processes(share_of, 2) == [pytest.approx(3 / 7)] * 2

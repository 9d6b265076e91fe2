"""What is tried before a fit starts, and that it leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill import Supervised
from distill.training.first_batch import explained, small_batches
from distill.training.one_sample import OneSampleCheck
from tests.toys import Net, Samples, ToyData, make, make_batch, pair_arguments, quiet_trainer


def test_the_small_batch_has_two_samples_in_the_loaders_format() -> None:
    loader = DataLoader(Samples(make_batch(5)), batch_size=4)
    assert torch.equal(next(small_batches(loader, "fit"))["x_a"], make_batch(5)["x_a"][:2])
    assert (
        len(next(small_batches(iter([make_batch(3)]), "fit"))["x_a"]) == 3
    )  # a loader of another kind gives what it gives
    with pytest.raises(ValueError, match="the data set to test on is empty"):
        next(small_batches(iter([]), "test"))


def test_a_network_that_cannot_take_its_inputs_is_named_with_their_shapes() -> None:
    batch = make_batch(2)
    with (
        pytest.raises(ValueError, match=r"^the student Net cannot take x_b \(2, 4\): mat1 and mat2 shapes"),
        explained(Net(9), "student", ["x_b"], batch),
    ):
        Net(9)(batch["x_b"])


class Traced(Supervised):
    """Notes modes and random numbers beside the check of the first batch."""

    def setup(self, stage: str) -> None:
        assert isinstance(self.network, Net)
        self.network.norm.eval()
        before = torch.get_rng_state()
        super().setup(stage)
        assert torch.equal(torch.get_rng_state(), before)
        assert self.network.training
        assert not self.network.norm.training


def test_modes_random_numbers_and_running_statistics_stay_as_they_were(tmp_path: Path) -> None:
    arguments = pair_arguments()
    module = Traced(arguments["student"], arguments["task"], ["x_b"], arguments["optimizer"])
    trainer = quiet_trainer(tmp_path, max_epochs=0)
    trainer.fit(module, ToyData())
    assert int(module.network.norm.num_batches_tracked) == 0  # type: ignore[union-attr, arg-type]


def test_lazy_layers_know_their_sizes_before_the_optimiser_is_made(tmp_path: Path) -> None:
    module = make("hint and relations")
    quiet_trainer(tmp_path, max_epochs=0).fit(module, ToyData())
    assert not any(isinstance(weight, nn.UninitializedParameter) for weight in module.parameters())


class Counting(nn.Module):
    """Puts a new tensor in its buffer's place, as some layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        logits: Tensor = self.head(x)
        return logits


def test_one_sample_is_tried_if_the_last_batch_has_one_and_the_network_stays_unchanged(tmp_path: Path) -> None:
    arguments = pair_arguments()
    counts: list[float] = []

    class Watched(OneSampleCheck):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            before = pl_module.network.count
            super().on_train_start(trainer, pl_module)
            counts.extend([float(before), float(pl_module.network.count)])

    module = Supervised(Counting(), arguments["task"], ["x_b"], arguments["optimizer"])
    module.collaborators[-1] = Watched()
    quiet_trainer(tmp_path, max_epochs=1).fit(module, ToyData(make_batch(9)))
    assert counts[0] == counts[1]


def test_a_teacher_of_other_classes_leads_to_teacher_classes(tmp_path: Path) -> None:
    module = make("KD", teacher=nn.Linear(6, 20), teacher_inputs=["x_a"])
    with pytest.raises(ValueError, match=r"; if the teacher knows other classes, give teacher_classes: the student's"):
        quiet_trainer(tmp_path).fit(module, ToyData())

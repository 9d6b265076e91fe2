"""The order of a data loader, which a stop in the middle of an epoch does not change."""

from __future__ import annotations

import signal
import subprocess
from itertools import islice
from typing import Any

import pytest
import torch

from datamodules import NoisyPair, PairedDataModule, SklearnPair
from datamodules.serving.loading import Loader, ResumableLoader

KINDS: dict[str, dict[str, Any]] = {
    "shuffled": {"kind": SklearnPair, "batch_size": 7},
    "in steps": {"kind": SklearnPair, "batch_size": 7, "steps_per_epoch": 40},
    "drawn": {"kind": NoisyPair, "batch_size": 20},
    "readable": {"kind": NoisyPair, "batch_size": 20, "on_error": "skip"},
}


def ready(case: str, **settings: Any) -> PairedDataModule:
    arguments = KINDS[case] | settings
    module: PairedDataModule = arguments.pop("kind")(**arguments)
    module.setup()
    return module


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.parametrize(("case", "num_workers"), [*((case, 0) for case in KINDS), ("shuffled", 2), ("readable", 2)])
def test_an_epoch_goes_on_behind_the_delivered_batches_and_the_next_follows(case: str, num_workers: int) -> None:
    data: Any = ready(case)
    torch.manual_seed(3)
    loader = data.train_dataloader()
    expected = [indices(loader) for _ in range(3)]
    assert expected[1] != expected[2]

    data = ready(case, num_workers=num_workers)
    torch.manual_seed(3)
    loader = data.train_dataloader()
    assert indices(loader) == expected[0]
    batches = iter(loader)
    assert indices(islice(batches, 2)) == expected[1][:2]
    state, present = loader.state_dict(), torch.get_rng_state()

    torch.manual_seed(8)
    loader = data.train_dataloader()
    torch.set_rng_state(present)
    loader.load_state_dict(state)
    batches = iter(loader)
    assert indices(islice(batches, 1)) == expected[1][2:3]
    assert loader.state_dict()["delivered"] == 3
    assert indices(batches) == expected[1][3:]
    assert indices(loader) == expected[2]


def test_the_state_at_the_end_of_an_epoch_begins_a_new_one() -> None:
    loader: Any = ready("shuffled").train_dataloader()
    torch.manual_seed(3)
    first, second = indices(loader), indices(loader)
    torch.manual_seed(3)
    assert indices(loader) == first
    loader.load_state_dict(loader.state_dict())
    assert indices(loader) == second


def test_no_skipped_sample_is_loaded() -> None:
    class Loaded(list[int]):
        def __getitem__(self, position: Any) -> Any:
            asked.append(position)
            return {"index": torch.tensor(position)}

    asked: list[int] = []
    loader: Any = ResumableLoader(Loaded(range(6)), batch_size=2)  # type: ignore[arg-type]
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    assert len(list(loader)) == 2
    assert asked == [0, 1, 2, 3, 4, 5]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="workers cannot tell who sends a signal")
def test_workers_outlive_the_signals_of_a_cluster_and_end_when_their_process_asks_them_to() -> None:
    loader: Any = Loader(range(40), batch_size=1, num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    batches = iter(loader)
    next(batches)
    (worker,) = loader._iterator._workers
    for number in ("USR1", "TERM"):
        subprocess.run(["bash", "-c", f"kill -{number} {worker.pid}"], check=True)  # not from the worker's parent
    assert len(list(batches)) == 39
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0

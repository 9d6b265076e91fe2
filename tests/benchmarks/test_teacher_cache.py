"""What an epoch costs whose teacher's responses are read from disk, beside one of the student alone: ``-m slow``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from datamodules import PairedDataModule, Splits, TensorPairs
from distill import Classification, Supervised
from distill.methods import AT, KD
from distill.models import ResNet8x4, ResNet32x4
from distill.teacher.cache import TeacherCache
from tests.toys import quiet_trainer

LAYERS = ["stage1", "stage2", "stage3"]
ROUNDS = 2


class Pictures(PairedDataModule):
    """128 pictures of 32 x 32 pixels."""

    num_classes = 100
    modalities = ("image",)

    def make_splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(128, 3, 32, 32, generator=generator)
        pairs = TensorPairs({"image": images, "target": torch.arange(128) % 100})
        return Splits(pairs, pairs, pairs)


class EpochTimes(Callback):
    """CPU seconds of each training epoch, and of what the cache does in it; one thread, whatever else runs."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.reading: list[float] = []
        self.started = self.read = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started, self.read = time.process_time(), 0.0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(time.process_time() - self.started)
        self.reading.append(self.read)

    @contextmanager
    def listening(self) -> Iterator[None]:
        inner = TeacherCache.output

        def timed(*args: Any) -> Any:
            started = time.process_time()
            output = inner(*args)
            self.read += time.process_time() - started
            return output

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(TeacherCache, "output", timed)
            yield


def fit(folder: Path, method: str, cache: Path | None = None, epochs: int = 3) -> tuple[EpochTimes, Any]:
    torch.manual_seed(0)
    common: dict[str, Any] = {"task": Classification(100), "optimizer": partial(torch.optim.SGD, lr=0.01)}
    pair: dict[str, Any] = {"teacher": ResNet32x4(100).eval(), "student": ResNet8x4(100), "cache_teacher": cache}
    pair |= {"teacher_inputs": ["image"], "student_inputs": ["image"]}
    layers: dict[str, Any] = {"teacher_layers": LAYERS, "student_layers": LAYERS}
    module: Supervised
    if method == "student alone":
        module = Supervised(ResNet8x4(100), inputs=["image"], **common)
    else:
        module = KD(**pair, **common) if method == "KD" else AT(**pair, **common, **layers)
    times = EpochTimes()
    torch.manual_seed(1)
    with times.listening():
        trainer = quiet_trainer(folder, max_epochs=epochs, limit_val_batches=0, callbacks=[times])
        trainer.fit(module, Pictures(batch_size=64))
    return times, module.state_dict()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_epoch_with_stored_responses_costs_what_the_student_alone_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns: dict[str, list[list[float]]] = {}
    equal = {}
    for number in range(ROUNDS):
        alone, _ = fit(tmp_path, "student alone")
        columns.setdefault("student alone", []).append(alone.epochs)
        for method in ("KD", "AT"):
            asked, expected = fit(tmp_path, method)
            stored, weights = fit(tmp_path, method, tmp_path / f"{method} {number}")
            columns.setdefault(method, []).append(asked.epochs)
            columns.setdefault(f"{method}, stored", []).append(stored.epochs)
            columns.setdefault(f"{method}, the cache alone", []).append(stored.reading)
            equal[method] = all(torch.equal(weights[name], value) for name, value in expected.items())
    table = Table("", "epoch 1", "epoch 2", "epoch 3", "epoch 2 to the student alone", title="CPU seconds, one thread")
    reference = median(epoch for epochs in columns["student alone"] for epoch in epochs)
    for name, rounds in columns.items():
        epochs = [median(values) for values in zip(*rounds, strict=True)]
        table.add_row(name, *(f"{seconds:.2f}" for seconds in epochs), f"{epochs[1] / reference:.3f}")
    with capsys.disabled():
        Console(width=100).print("", table, f"same weights as without the cache, bit for bit: {equal}")
    second = median(epochs[1] for epochs in columns["KD, stored"])
    assert second <= 1.1 * reference

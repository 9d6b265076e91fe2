from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import PredictionWriter
from tests.callbacks.pairs import Replay, Samples, batches_of, imitation, trainer


class Predicting(Replay):
    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        return {"prediction": batch["student"]}


def shuffled(samples: Samples) -> DataLoader[Any]:
    order = torch.randperm(len(samples)).tolist()
    return DataLoader(samples, batch_size=4, sampler=order)


def test_the_table_has_one_line_a_sample_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    module, samples = imitation().eval(), Samples(11)
    trainer(tmp_path, PredictionWriter()).predict(module, shuffled(samples))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    probability = module(samples.modalities["x_b"]).softmax(1)
    assert table.columns.tolist() == ["index", "target", "prediction", "confidence"]
    assert table["index"].tolist() == list(range(11))
    assert table["target"].tolist() == samples.target.tolist()
    assert table["prediction"].tolist() == probability.argmax(1).tolist()
    assert table["confidence"].tolist() == pytest.approx(probability.amax(1).tolist(), abs=1e-6)


def test_the_table_does_not_need_lightning_to_keep_predictions(tmp_path: Path) -> None:
    run = trainer(tmp_path, PredictionWriter())
    assert run.predict(imitation(), shuffled(Samples(5)), return_predictions=False) is None
    assert len(pd.read_csv(tmp_path / "run" / "predictions.csv")) == 5


def test_a_second_run_replaces_the_table(tmp_path: Path) -> None:
    run = trainer(tmp_path, PredictionWriter())
    for count in (7, 5):
        run.predict(imitation(), shuffled(Samples(count)))
        assert pd.read_csv(tmp_path / "run" / "predictions.csv")["index"].tolist() == list(range(count))


def test_without_index_and_target_the_lines_stay_in_the_order_of_the_loader(tmp_path: Path) -> None:
    logits = torch.randn(7, 3)
    data = batches_of(student=logits, target=torch.zeros(7))
    trainer(tmp_path, PredictionWriter()).predict(Predicting(), data)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.columns.tolist() == ["prediction", "confidence"]
    assert table["prediction"].tolist() == logits.argmax(1).tolist()


def test_maps_without_classes_are_not_written_and_told_once(tmp_path: Path) -> None:
    data = batches_of(student=torch.randn(7, 1, 2, 2), target=torch.zeros(7))
    with pytest.warns(UserWarning, match=r"writes nothing: predictions of the shape \(3, 1, 2, 2\)") as caught:
        trainer(tmp_path, PredictionWriter()).predict(Predicting(), data)
    assert len([warning for warning in caught if "PredictionWriter" in str(warning.message)]) == 1
    assert not list((tmp_path / "run").rglob("predictions*"))


def test_a_trial_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path, PredictionWriter(), fast_dev_run=True, logger=None).predict(imitation(), shuffled(Samples(5)))
    assert not list(tmp_path.rglob("*.csv"))

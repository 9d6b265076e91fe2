from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import PredictionWriter
from callbacks.parts.prediction_table import PredictionTable
from distill import Classification, MultiLabelClassification, Regression, Task
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
    data: DataLoader[Any] = DataLoader([{"student": values} for values in logits], 3)  # type: ignore[arg-type]
    trainer(tmp_path, PredictionWriter()).predict(Predicting(), data)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert table.columns.tolist() == ["prediction", "confidence"]
    assert table["prediction"].tolist() == logits.argmax(1).tolist()


class Telling(Predicting):
    """Has a task, and returns the target."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        return {"prediction": batch["student"], "target": batch["target"]}


def table_of(folder: Path, task: Task, student: torch.Tensor, target: torch.Tensor, **options: Any) -> pd.DataFrame:
    samples = [
        {"student": values, "target": label, "name": f"clip_{n}"}
        for n, (values, label) in enumerate(zip(student, target, strict=True))
    ]
    data: DataLoader[Any] = DataLoader(samples, batch_size=3)  # type: ignore[arg-type]
    trainer(folder, PredictionWriter(**options)).predict(Telling(task), data)
    return pd.read_csv(folder / "run" / "predictions.csv")


def test_samples_and_classes_are_named_and_all_probabilities_are_written_on_request(tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    task = Classification(2, class_names=("cat", "dog"))
    table = table_of(tmp_path, task, logits, torch.tensor([0, 0, 255]), probabilities=True)
    assert table["name"].tolist() == ["clip_0", "clip_1", "clip_2"]
    assert table["target"].tolist() == [0, 0, 255]
    assert table["target_name"].fillna("").tolist() == ["cat", "cat", ""]
    assert table["class_name"].tolist() == ["cat", "dog", "cat"]
    odds = logits[:, 1].double().exp() / logits.double().exp().sum(1)
    assert table["probability_dog"].tolist() == pytest.approx(odds.tolist())
    assert list(table) == [
        *("name", "target", "target_name", "prediction", "class_name", "confidence"),
        *("probability_cat", "probability_dog"),
    ]


def test_several_labels_and_several_values_have_a_column_each(tmp_path: Path) -> None:
    logits, labels = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    labelled = table_of(tmp_path / "labels", MultiLabelClassification(2, class_names=("rain", "fog")), logits, labels)
    assert list(labelled) == ["name", "target_rain", "target_fog", "probability_rain", "probability_fog"]
    assert labelled["probability_fog"].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    measured = table_of(tmp_path / "values", Regression(2, output_names=("age", "weight")), logits, labels)
    assert list(measured) == ["name", "target_age", "target_weight", "prediction_age", "prediction_weight"]
    assert measured["prediction_weight"].tolist() == [2, 0]
    one = table_of(tmp_path / "value", Regression(1), logits[:, :1], labels[:, 0])
    assert one[["target", "prediction"]].to_numpy().tolist() == [[0, 0], [1, -1]]


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


def named(names: list[str], *shape: int) -> DataLoader[Any]:
    samples = [{"student": torch.zeros(shape), "target": n, "name": name} for n, name in enumerate(names)]
    return DataLoader(samples, batch_size=2)  # type: ignore[arg-type]


def test_two_samples_of_one_name_are_refused_in_a_table_that_has_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two samples have the name 'img', so one would replace the other's"):
        trainer(tmp_path, PredictionWriter()).predict(Predicting(), named(["img"] * 4, 3))


def test_a_table_takes_names_that_no_file_could_have_and_the_target_of_the_batch(tmp_path: Path) -> None:
    names = ["/data/a.png", "../b.png"]
    trainer(tmp_path, PredictionWriter()).predict(Predicting(), named(names, 3))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert table["name"].tolist() == names
    assert table["target"].tolist() == [0, 1]


def test_rows_are_dropped_only_if_another_process_has_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = PredictionTable()
    table.add({"index": [2, 0, 0], "prediction": [1, 2, 3]})
    other = [pd.DataFrame({"index": [1, 2], "prediction": [4, 5]})]

    def gather(into: list[Any], own: Any) -> None:
        into[:] = [own, other]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    table.write(tmp_path / "table.csv", 2)
    assert pd.read_csv(tmp_path / "table.csv").to_numpy().tolist() == [[0, 2], [0, 3], [1, 4], [2, 1]]


class Tags(Task):
    """A user's task with several labels a sample."""

    exclusive = False

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return prediction.mean(1)

    def probabilities(self, prediction: torch.Tensor) -> torch.Tensor:
        return prediction.sigmoid()


class Direct(Tags):
    """A user's task with one class a sample."""

    exclusive = True


def test_a_task_of_the_user_says_whether_its_classes_exclude_each_other(tmp_path: Path) -> None:
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    table = table_of(tmp_path / "several", Tags(), logits, labels)
    assert list(table) == ["name", "target_0", "target_1", "probability_0", "probability_1"]
    table = table_of(tmp_path / "one", Direct(), logits, labels)
    assert list(table) == ["name", "target", "prediction", "confidence"]

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import ConfusionMatrix
from callbacks.parts.confusion_figures import confusion_figure
from callbacks.parts.evaluation import Split
from callbacks.parts.step import read_step
from distill import Classification, MultiLabelClassification, Regression, Task
from tests.callbacks.pairs import Replay, batches_of, trainer

NAMES = ["cat", "dog", "cow"]


class Named(LightningDataModule):
    """Batches of classes with names, to train, validate and test on; one or more loaders."""

    def __init__(self, *loaders: DataLoader[Any]) -> None:
        super().__init__()
        self.loaders = loaders
        self.class_names = NAMES

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loaders[0]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return list(self.loaders)

    test_dataloader = val_dataloader


class Two(Replay):
    """Steps of a module that may get several loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.validation_step(batch, batch_idx)


def samples(*spatial: int, seed: int = 0, count: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (count, *spatial), generator=generator)
    target.view(-1)[1] = 255
    student, teacher = torch.randn(2, count, 3, *spatial, generator=generator)
    return {"student": student, "teacher": teacher, "target": target}


def counts(of: dict[str, Tensor], network: str) -> Any:
    labelled = of["target"] != 255
    return confusion_matrix(of["target"][labelled], of[network].argmax(1)[labelled], labels=[0, 1, 2])


def table(path: Path, network: str) -> Any:
    rows = pd.read_csv(path)
    rows = rows[rows["network"] == network]
    assert rows["true class"].tolist() == rows.columns[2:].tolist()
    return rows.iloc[:, 2:].to_numpy()


def test_teacher_and_student_are_counted_over_all_batches_and_written_with_the_names_of_the_classes(
    tmp_path: Path,
) -> None:
    first, second = samples(), samples(seed=1, count=5)
    data = Named(batches_of(**first), batches_of(**second))
    run = trainer(tmp_path, ConfusionMatrix())
    run.test(Two(), data, verbose=False)
    folder = tmp_path / "run"
    for name, of in (("confusion_test", first), ("confusion_test_1", second)):
        for network in ("teacher", "student"):
            assert (table(folder / f"{name}.csv", network) == counts(of, network)).all()
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.width > picture.height > 300
    assert pd.read_csv(folder / "confusion_test.csv")["true class"].tolist() == 2 * NAMES


def test_a_fit_draws_its_last_validation_and_a_validation_of_its_own_has_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("callbacks.confusion_matrix.publish", lambda figure, name, *_: drawn.append(name))
    of = samples(2, 2)  # pixels
    run = trainer(tmp_path, ConfusionMatrix(), max_epochs=2)
    run.fit(Replay(), Named(batches_of(**of)))
    assert (table(tmp_path / "run" / "confusion_val.csv", "student") == counts(of, "student")).all()
    written = (tmp_path / "run" / "confusion_val.csv").read_bytes()
    run.validate(Replay(), Named(batches_of(**samples(2, 2, seed=3))), verbose=False)
    assert (tmp_path / "run" / "confusion_val.csv").read_bytes() == written
    assert drawn == ["confusion_val", "confusion_validate"]


def test_soft_labels_count_by_their_highest_share_and_undefined_predictions_nowhere() -> None:
    step = {
        "prediction": torch.tensor([[2.0, 0.0], [0.0, 2.0], [torch.nan, 1.0]]),
        "target": torch.tensor([[0.4, 0.6], [0.3, 0.7], [1.0, 0.0]]),
    }
    assert counted(step).tolist() == [[0, 0], [1, 1]]


def counted(step: dict[str, Any]) -> Any:
    """What a callback counts in a step of a module without a teacher."""
    callback, split = ConfusionMatrix(), Split("val")
    callback.start(split)
    read = read_step(step, {})
    assert read is not None
    callback.add(split, None, None, read)  # type: ignore[arg-type]
    return callback._counts[split]["network"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": torch.zeros(2, 1)},
            r"draws nothing: the target must hold one class .* torch.float32 of shape",
        ),
        (
            {"target": torch.zeros(2, 3).long()},
            r"index for each position, but it is torch.int64 of shape \(2, 3\)",
        ),
        ({"prediction": torch.zeros(2, 1)}, r"shape \(2, 1\) are not the logits of two or more classes"),
        ({"prediction": torch.zeros(2, 2001)}, "there are 2001 classes, more than 2000"),
        ({"target": None}, "the batches have no target"),
    ],
)
def test_what_holds_no_classes_is_said_once_and_not_drawn(changes: dict[str, Any], message: str) -> None:
    step = {"prediction": torch.zeros(2, 3), "target": torch.zeros(2).long()} | changes
    with pytest.warns(UserWarning, match=message), pytest.raises(KeyError):
        counted(step)


class Tasked(Replay):
    def __init__(self, task: Task | None) -> None:
        super().__init__()
        if task is not None:
            self.task = task


@pytest.mark.parametrize(
    ("task", "target", "classes"),
    [
        (Classification(2), [[0.4, 0.7]], [1]),  # the task says so, whatever the sum
        (MultiLabelClassification(2), [[0.0, 1.0]], None),
        (Regression(2), [[0.0, 1.0]], None),
        (None, [[0.4, 0.6]], [1]),
        (None, [[0.0, 0.0], [1.0, 0.0]], [255, 0]),  # the first has no label
        (None, [[1.0, 1.0]], None),
        (None, [[2.0, -1.0]], None),
    ],
)
def test_targets_of_floats_are_soft_labels_only_where_the_task_or_their_sums_say_so(
    task: Task | None, target: list[list[float]], classes: list[int] | None
) -> None:
    given = torch.tensor(target)
    step = read_step({"prediction": torch.zeros(len(target), 2), "target": given}, {}, Tasked(task))
    assert step is not None
    assert step.target is not None
    assert step.target.tolist() == (given.tolist() if classes is None else classes)


def test_a_teacher_with_other_classes_is_left_out_with_one_warning(tmp_path: Path) -> None:
    of = samples()
    of["teacher"] = of["teacher"][:, :2]
    with pytest.warns(UserWarning, match="counts the student alone: its predictions have the shape") as caught:
        trainer(tmp_path, ConfusionMatrix()).test(Two(), batches_of(**of), verbose=False)
    assert len([warning for warning in caught if "ConfusionMatrix" in str(warning.message)]) == 1
    assert set(pd.read_csv(tmp_path / "run" / "confusion_test.csv")["network"]) == {"student"}


def test_an_attribute_of_the_data_that_could_name_loaders_is_not_read_for_one_loader(tmp_path: Path) -> None:
    data = Named(batches_of(**samples()))
    for name in ("test_names", "test_loader_names"):
        setattr(data, name, ["file a", "file b"])
    trainer(tmp_path, ConfusionMatrix()).test(Two(), data, verbose=False)
    assert (tmp_path / "run" / "confusion_test.csv").is_file()


def test_targets_that_are_no_class_are_left_out_and_told() -> None:
    step = {"prediction": torch.eye(2).repeat(3, 1), "target": torch.tensor([0, 1, -100, -1, 2, 255])}
    with pytest.warns(UserWarning, match="leaves out targets that are none of the 2 classes, such as -100: return"):
        assert counted(step).tolist() == [[1, 0], [0, 1]]


def test_several_labels_have_no_single_true_class(tmp_path: Path) -> None:
    of = samples() | {"target": torch.ones(8, 3)}
    with pytest.warns(UserWarning, match="draws nothing: MultiLabelClassification has no single true class"):
        trainer(tmp_path, ConfusionMatrix()).test(Tasked(MultiLabelClassification(3)), batches_of(**of), verbose=False)


def matrix(classes: int) -> Any:
    return np.eye(classes, dtype=np.int64) * 90 + 10


@pytest.mark.parametrize(("classes", "texts", "ticks"), [(2, 4, 2), (12, 144, 12), (13, 0, 13), (61, 0, 0)])
def test_few_classes_have_numbers_and_more_have_names(classes: int, texts: int, ticks: int) -> None:
    names = [f"name {index}" for index in range(classes)]
    axes = confusion_figure({"student": matrix(classes)}, names).axes[0]
    assert len(axes.texts) == texts
    assert [label.get_text() for label in axes.get_yticklabels() if "name" in label.get_text()] == names[:ticks]


def test_a_class_without_samples_has_no_shares_and_does_not_count_in_the_mean() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]])
    axes = confusion_figure({"student": counts}).axes[0]
    shares: Any = axes.images[0].get_array()
    assert np.ma.getmaskarray(shares)[1].all()
    assert shares[0].tolist() == [0.75, 0.25, 0]
    assert axes.get_title() == "student\naccuracy 87.5%, mean over classes 87.5%"
    assert [text.get_text() for text in axes.texts] == ["75 %\n3", "25 %\n1", "100 %\n4"]

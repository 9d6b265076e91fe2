"""Classes and labels of the data beside the task's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill import Classification, MultiLabelClassification, SemanticSegmentation, Task
from distill.training.labels import check_labels_on_cpu, check_num_classes, class_names, name_classes
from distill.training.scores import StageScores
from tests.toys import make


class Data:
    num_classes = 7
    class_names = ["road", "car"]


def trainer(data: Any, predicting: bool = False) -> Any:
    return SimpleNamespace(datamodule=data, predicting=predicting)


def test_class_names_are_those_of_the_data_module_if_there_is_one_with_names() -> None:
    assert class_names(trainer(Data())) == ("road", "car")
    assert class_names(trainer(None)) == class_names(None) == ()


def scored(task: Task, names: list[str]) -> set[str]:
    """The names of the scores of a validation on data with these names of classes."""
    scores = StageScores(task, "val")
    name_classes(trainer(SimpleNamespace(class_names=names)), task, scores, None)
    logits = torch.eye(2).view(2, 2, *[1] * isinstance(task, SemanticSegmentation))
    scores.update(logits, {"target": TWO[type(task)]}, task)
    return set(scores.take())


TWO = {
    Classification: torch.tensor([0, 1]),
    MultiLabelClassification: torch.eye(2),
    SemanticSegmentation: torch.tensor([[0], [1]]),
}


@pytest.mark.parametrize(("make_task", "name"), list(zip(TWO, ["accuracy", "ap", "iou"], strict=True)))
def test_the_classes_have_the_names_of_the_data_unless_the_task_has_names(make_task: Any, name: str) -> None:
    assert {f"val/{name}_road", f"val/{name}_car"} < scored(make_task(2), ["road", "car"])
    assert {f"val/{name}_a", f"val/{name}_b"} < scored(make_task(2, class_names=["a", "b"]), ["road", "car"])
    assert not any("road" in score for score in scored(make_task(2), ["road", "road"]))  # these are no names of two


def test_another_number_of_classes_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^Data has 7 classes, but the task is Classification\(num_classes=5\)$"):
        check_num_classes(trainer(Data()), Classification(5))
    check_num_classes(trainer(Data()), Classification(7))
    check_num_classes(trainer(None), Classification(5))


def test_a_wrong_label_is_named_but_not_where_labels_are_not_needed() -> None:
    batch = {"target": torch.tensor([0, 9]), "index": torch.tensor([3, 8])}
    with pytest.raises(ValueError, match=r"target holds label 9, .* the sample has the index 8"):
        check_labels_on_cpu(batch, Classification(5), None)
    check_labels_on_cpu(batch, Classification(5), trainer(None, predicting=True))
    check_labels_on_cpu(batch, None, None)
    check_labels_on_cpu({}, Classification(5), None)


def test_a_module_is_exported_from_an_example_input_which_is_no_batch(tmp_path: Path) -> None:
    make("KD").eval().to_onnx(tmp_path / "student.onnx", torch.randn(2, 4), dynamo=True)
    assert (tmp_path / "student.onnx").is_file()


def test_names_from_data_follow_the_data_and_own_names_in_another_order_are_refused() -> None:
    task = Classification(2)
    for names in (["cat", "dog"], ["dog", "cat"]):
        name_classes(trainer(SimpleNamespace(class_names=names)), task)
        assert task.class_names == tuple(names)
    name_classes(trainer(None), task)
    assert task.class_names == ("dog", "cat")
    own = Classification(2, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"^the task names the classes of the data in another order: cat, dog inst"):
        name_classes(trainer(SimpleNamespace(class_names=["dog", "cat"])), own)

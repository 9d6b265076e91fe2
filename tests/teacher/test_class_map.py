"""A teacher with other classes than its student, or another order of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill import Classification, MultiLabelClassification, Regression, SemanticSegmentation, Task
from distill.methods import DKD, KD
from distill.teacher.class_map import ClassMap
from distill.training.labels import name_classes
from tests.losses.cases import assert_near
from tests.toys import CLASSES, Net, make, make_batch, pair_arguments

NAMES = ("cat", "dog", "cow")


class Own(Task):
    """Has classes, and does not say how many."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def probabilities(self, prediction: Tensor) -> Tensor:
        return prediction.softmax(1)


def logits(*spatial: int) -> Tensor:
    return 3 * torch.randn(2, 5, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("spatial", [(), (4,), (2, 3), (2, 3, 2)])
def test_each_class_has_the_sum_of_the_probabilities_of_its_classes_of_the_teacher(spatial: tuple[int, ...]) -> None:
    task = SemanticSegmentation(3, class_names=NAMES)
    mapped = ClassMap(["cow", 0, "cat", 1, 0])(logits(*spatial), task)
    p = logits(*spatial).softmax(1)
    assert_near(task.probabilities(mapped), torch.stack([p[:, 1] + p[:, 2] + p[:, 4], p[:, 3], p[:, 0]], 1))


def test_the_probabilities_without_a_class_are_those_given_that_it_is_another() -> None:
    p = logits().softmax(1)
    mapped = ClassMap([None, 2, 0, None, 1])(logits(), Classification(3))
    assert_near(mapped.softmax(1), p[:, [2, 4, 1]] / p[:, [2, 4, 1]].sum(1, keepdim=True))
    assert torch.equal(mapped, logits()[:, [2, 4, 1]])  # logits of several labels keep their probabilities


def test_masked_classes_stay_masked() -> None:
    values = torch.tensor([[0.0, -torch.inf, -torch.inf, 1.0]])
    assert ClassMap([0, 1, 1, 2])(values, Classification(3)).tolist() == [[0, -torch.inf, 1]]


@pytest.mark.parametrize(
    ("classes", "task", "message"),
    [
        ([0, 1, 2], Classification(3), r"teacher_classes has 3 entries, but .* the shape \(2, 5\)$"),
        ([0, 1, 2, 3, 0], Classification(3), "has the entry 3, but the student's classes are 0 to 2"),
        ([0, 1, "pig", 2, 0], Classification(3, class_names=NAMES), "names 'pig', but .* classes are cat, dog, cow"),
        ([0, 1, "pig", 2, 0], Classification(3), "names 'pig', but the student's classes are without names: give"),
        ([0, None, 0, 2, 0], Classification(3, class_names=NAMES), r"no class .* to the student's class 1 \(dog\): ev"),
        (
            [0, 0, 1, 2, None],
            MultiLabelClassification(3),
            "leads several classes of the teacher to one, but",
        ),
        ([0, 1, 2, None, None], Regression(3), "needs a task with classes, and Regression has none"),
        ([0, 1, 2, None, None], Own(), "needs the number of classes: give Own an attribute num_classes"),
    ],
)
def test_a_list_that_does_not_fit_is_one_sentence(classes: list[Any], task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^teacher_classes .*{message.removeprefix('teacher_classes ')}"):
        ClassMap(classes)(logits(), task)


@pytest.mark.parametrize("classes", [[], 3, [0.5], [True]])
def test_what_is_no_list_of_classes_is_refused(classes: Any) -> None:
    with pytest.raises(ValueError, match=r"^teacher_classes must list an index, a name or null for each class"):
        KD(teacher_classes=classes)


class Reordered(nn.Module):
    """A teacher whose classes are those of another in another order, with a further one between them."""

    def __init__(self, network: nn.Module, order: list[int]) -> None:
        super().__init__()
        self.network = network
        self.order = order

    def forward(self, *inputs: Tensor) -> Tensor:
        values: Tensor = self.network(*inputs)[:, self.order]
        return torch.cat([values[:, :2], 5 + values[:, :1], values[:, 2:]], 1)


ORDER = [2, 0, 3, 1]
TO_STUDENT: list[int | str | None] = [2, 0, None, 3, 1]


@pytest.mark.parametrize("method", [KD, DKD])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_methods_and_callbacks_see_the_teacher_in_the_students_classes(method: type[KD | DKD]) -> None:
    arguments = pair_arguments(student=Net(4).eval())
    plain = method(**arguments)
    reordered = Reordered(arguments["teacher"], ORDER).eval()
    mapped = method(**arguments | {"teacher": reordered}, teacher_classes=TO_STUDENT)
    mapped.check_batch(make_batch())
    expected, found = (module.training_step(make_batch(), 0) for module in (plain, mapped))
    assert torch.equal(found["loss"], expected["loss"])
    assert torch.equal(found["teacher_prediction"], expected["teacher_prediction"])
    unmapped = method(**arguments | {"teacher": reordered})
    with pytest.raises(ValueError, match=r"teacher Reordered returns a prediction of shape \(6, 5\)"):
        unmapped.check_batch(make_batch())


def test_stored_responses_are_those_of_the_network_and_are_mapped_when_they_are_read() -> None:
    module = make("KD", teacher_classes=[1, 0, 3, 2])
    raw = module.run_teacher(make_batch())
    module.teacher_cache = SimpleNamespace(output=lambda batch, run_teacher: raw)  # type: ignore[assignment]
    assert torch.equal(module.forward_teacher(make_batch()).prediction, raw.prediction[:, [1, 0, 3, 2]])


def test_the_names_may_be_those_of_the_data() -> None:
    task = Classification(CLASSES)
    module = make("KD", task=task, teacher_classes=["d", "c", "b", "a"])
    data: Any = SimpleNamespace(datamodule=SimpleNamespace(class_names=["a", "b", "c", "d"]))
    name_classes(data, task)
    raw = module.run_teacher(make_batch()).prediction
    assert torch.equal(module.forward_teacher(make_batch()).prediction, raw.flip(1))

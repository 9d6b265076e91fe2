"""A task of the user's own, as ``docs/tasks.md`` has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from distill import DistillationModule, Task
from distill.methods import SP
from distill.training.means import counted_mean
from tests.methods.examples import TWO_PAIRS
from tests.toys import Net, ToyData, make_batch, pair_arguments, quiet_trainer

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text()


@pytest.fixture(scope="module")
def heading() -> Task:
    """The task of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.split("class ", 1)[1].splitlines()) <= 20
    names: dict[str, Any] = {"__name__": "heading"}
    exec(code, names)
    task: Task = names["Heading"]()
    return task


def angles(count: int) -> dict[str, Tensor]:
    return make_batch(count) | {"target": torch.linspace(-3, 3, count)}


def method(task: Task) -> DistillationModule:
    networks = {"teacher": Net(10, classes=2).eval(), "student": Net(4, classes=2)}
    return SP(**pair_arguments(task=task) | networks, **TWO_PAIRS)


def test_the_task_of_the_page_trains_and_is_scored(heading: Task, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    module = method(heading)
    trainer.fit(module, ToyData(angles(10)))
    logged = trainer.callback_metrics
    batch = angles(10)
    with torch.no_grad():
        x, y = module.eval()(batch["x_b"]).double().unbind(1)
    off = (torch.atan2(y, x) - batch["target"] + torch.pi) % (2 * torch.pi) - torch.pi
    assert logged["val/degrees"].item() == pytest.approx(off.abs().mean().item() * 180 / torch.pi, rel=1e-4)
    assert logged["val/hard"].item() == pytest.approx((1 - off.cos()).mean().item(), rel=1e-4)


def test_a_prediction_without_a_loss_is_one_sentence_before_the_fit(heading: Task) -> None:
    module = method(heading)
    with pytest.raises(ValueError, match=r"^Heading has no loss for the prediction of the teacher Net, "):
        module.check_batch(angles(6) | {"target": torch.zeros(6, 3)})


class Least(Task):
    """Nothing but a loss."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction[:, 0] - target).square()


def test_a_loss_is_enough(tmp_path: Path) -> None:
    task = Least()
    assert (task.monitor, task.mode, task.class_names) == ("val/hard", "min", ())
    assert task.probabilities(torch.zeros(2, 2)) is None
    assert task.counts(torch.zeros(3)).tolist() == [1, 1, 1]
    assert task.counts(torch.tensor([[0, 255]])).tolist() == [[1, 0]]
    (scores,) = quiet_trainer(tmp_path).test(method(task), ToyData(angles(10)), verbose=False)
    assert set(scores) == {"test/hard"}


@pytest.mark.parametrize("reduce", ["", "to samples"])
def test_a_loss_of_several_floats_needs_no_counts(reduce: str) -> None:
    class Square(Task):
        def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
            squares = (prediction - target).square()
            return squares.mean(1) if reduce else squares

    batch = angles(6) | {"target": torch.linspace(-3, 3, 12).reshape(6, 2)}
    task = Square()
    method(task).check_batch(batch)
    prediction = torch.zeros(6, 2)
    loss = task.loss(prediction, batch["target"])
    assert counted_mean(loss, batch, task).item() == pytest.approx(batch["target"].square().mean().item())


def test_a_loss_of_another_shape_than_the_counts_is_one_sentence() -> None:
    class Wrong(Least):
        def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
            return prediction

        def metrics(self) -> MetricCollection:
            return MetricCollection({})

    with pytest.raises(ValueError, match=r"^the loss of Wrong has the shape \(6, 2\) and its counts have \(6,\)"):
        method(Wrong()).check_batch(angles(6))

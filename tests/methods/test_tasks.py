"""Every method on tasks with other targets than one class index: it trains a step, or says what to take instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distill import Batch, Classification, MultiLabelClassification, Regression, SemanticSegmentation, Task
from distill.errors import UserError
from distill.losses import binary_kd_loss, kd_loss
from distill.methods import DKD, KD, Combined, ResKD
from distill.weighting import PerceptualSolutionSpaceMask
from tests.losses.cases import assert_near
from tests.methods.examples import EXAMPLES
from tests.toys import CLASSES, KINDS, Net, make, make_batch, pair_arguments

ON_CLASSES = {"DKD", "DWLD", "LIX", "NTDH", "PSSM", "TwoDPASS"}
"""Methods that compare the class of a sample with the other classes."""


class Other(NamedTuple):
    """A task, its targets, and the methods that refuse it; depth methods do so anyway."""

    task: Callable[[], Task]
    target: Callable[[Tensor], Tensor]
    refuse: set[str]
    instead: str
    maps: bool = True


def some_missing(values: Tensor) -> Tensor:
    values = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    values[0, 1], values[2] = torch.nan, torch.nan
    return values


def some_unknown(values: Tensor) -> Tensor:
    labels = torch.randint(2, values.shape, generator=torch.Generator().manual_seed(0))
    labels[0, 1], labels[2] = -1, -1
    return labels


def some_soft(values: Tensor) -> Tensor:
    shares = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    shares[2] = 0
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-9)


TASKS = {
    "regression": Other(lambda: Regression(CLASSES), some_missing, {*ON_CLASSES, "KD"}, "ResKD"),
    "several labels": Other(lambda: MultiLabelClassification(CLASSES), some_unknown, ON_CLASSES, "KD"),
    "soft labels": Other(lambda: Classification(CLASSES), some_soft, ON_CLASSES, "KD", maps=False),
}


def on_task(name: str, method: str) -> Batch:
    """The toys' batch with the targets of a task."""
    batch = make_batch(method=method)
    shape = len(batch["x_a"]), CLASSES, *batch["x_a"].shape[2:]
    return batch | {"target": TASKS[name].target(torch.zeros(shape))}


CASES = [
    (task, method + KINDS[kind])
    for task, other in TASKS.items()
    for method, example in EXAMPLES.items()
    if (kind := "vectors" if "vectors" in example.toys else "maps") in example.toys
    if (other.maps or kind == "vectors") and method != "Combined"
]


@pytest.mark.parametrize(("task", "method"), CASES)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_method_trains_a_step_or_says_which_method_takes_the_task(task: str, method: str) -> None:
    other, batch = TASKS[task], on_task(task, method)
    module = make(method, task=other.task())
    if method.split()[0] in other.refuse:
        with pytest.raises(UserError, match=rf"^[^.\n]*\b{other.instead}\b[^.\n]*$"):
            module.eval().check_batch(batch)
        return
    module.eval().check_batch(batch)
    loss = module.train().training_step(batch, 0)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert any(p.grad is not None and p.grad.any() for p in module.parameters())


def outputs(module: KD | ResKD | Combined, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Both predictions and the terms of a batch."""
    teacher, student = module.eval().forward_both(batch)
    return teacher.prediction, student.prediction, module.distillation_terms(teacher, student, batch)


@pytest.mark.parametrize("method", ["", " on maps"])
def test_kd_of_several_labels_is_the_mean_divergence_of_the_known_labels(method: str) -> None:
    batch = on_task("several labels", method)
    task = MultiLabelClassification(CLASSES)
    teacher, student, terms = outputs(make(f"KD{method}", task=task, temperature=2.0, weight=0.5), batch)
    known = batch["target"] != -1
    values = binary_kd_loss(student, teacher, temperature=2.0, over_labels="none", reduction="none")
    assert_near(terms["kd"], 0.5 * values[known].mean(), 1e-6)


def test_kd_of_several_labels_works_as_a_part_and_without_labels() -> None:
    batch = on_task("several labels", "")
    alone = make("KD", task=MultiLabelClassification(CLASSES))
    together = Combined(**pair_arguments(task=MultiLabelClassification(CLASSES)), methods={"kd": KD()})
    assert outputs(together, batch)[2]["kd/kd"] == outputs(alone, batch)[2]["kd"]  # type: ignore[arg-type]
    del batch["target"]
    teacher, student, terms = outputs(alone, batch)  # type: ignore[arg-type]
    assert_near(terms["kd"], 0.9 * binary_kd_loss(student, teacher, temperature=4.0, over_labels="mean"), 1e-6)


def test_kd_ignores_samples_without_a_soft_label() -> None:
    batch = on_task("soft labels", "")
    module = make("KD")
    changed = batch | {"x_a": batch["x_a"].clone()}
    changed["x_a"][2] = 9.0
    assert outputs(module, batch)[2]["kd"] == outputs(module, changed)[2]["kd"]  # type: ignore[arg-type]
    labels = batch["target"].argmax(1)
    labels[2] = 255
    assert_near(outputs(module, batch | {"target": labels})[2]["kd"], outputs(module, batch)[2]["kd"])  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["several labels", "soft labels"])
def test_a_weighting_of_kd_needs_one_class_a_sample(task: str) -> None:
    module = make("KD", task=TASKS[task].task(), weighting=PerceptualSolutionSpaceMask())
    with pytest.raises(UserError, match=r"^KD (needs one class index|compares the class of a sample)"):
        module.check_batch(on_task(task, ""))


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_res_kd_of_regression_is_the_tasks_loss_between_both_values_also_of_missing_numbers(loss: str) -> None:
    batch = on_task("regression", " on maps")
    module = ResKD(**pair_arguments(" on maps", task=Regression(CLASSES, loss=loss)), weight=3.0)  # type: ignore[arg-type]
    teacher, student, terms = outputs(module, batch)
    error = (student - teacher).double()
    assert_near(terms["value"], 3 * (error.square() if loss == "mse" else error.abs()).mean().float(), 1e-6)


def test_res_kd_of_regression_has_no_losses_of_depth() -> None:
    module = ResKD(**pair_arguments(task=Regression(CLASSES)), losses=["si"])
    with pytest.raises(UserError, match=r"^losses are for depth: with Regression, ResKD takes the loss of the task$"):
        module.check_batch(on_task("regression", ""))


def test_one_logit_for_two_classes_is_distilled_like_both_classes() -> None:
    task = MultiLabelClassification(1)
    networks = {"teacher": Net(10, classes=1).eval(), "student": Net(4, classes=1)}
    batch = make_batch() | {"target": torch.tensor([0, 1, 1, 0, -1, 1])}
    teacher, student, terms = outputs(KD(**pair_arguments(task=task) | networks), batch)
    both = [torch.cat([z, torch.zeros_like(z)], 1)[batch["target"] >= 0] for z in (student, teacher)]
    assert_near(terms["kd"], 0.9 * kd_loss(both[0], both[1], temperature=4.0), 1e-6)


class Pointwise(nn.Module):
    """Logits of each point or voxel from all inputs there."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.head = (nn.Conv1d if dims == 1 else nn.Conv3d)(channels, CLASSES, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat(inputs, 1))
        return logits


@pytest.mark.parametrize("size", [(5,), (2, 3, 2)])
@pytest.mark.parametrize("method", [KD, DKD])
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_points_and_volumes_are_distilled(method: type[KD | DKD], size: tuple[int, ...]) -> None:
    networks = {"teacher": Pointwise(10, len(size)).eval(), "student": Pointwise(4, len(size))}
    module = method(**pair_arguments(task=SemanticSegmentation(CLASSES)) | networks)
    target = torch.randint(CLASSES, (2, *size))
    batch = {"x_a": torch.randn(2, 6, *size), "x_b": torch.randn(2, 4, *size), "target": target}
    module.check_batch(batch)
    whole = module.training_step(batch, 0)["loss"]
    assert whole.isfinite()
    # a teacher with larger maps is averaged down to the labels
    finer = batch | {"x_a": batch["x_a"].repeat_interleave(2, -1)}
    module.frozen_teacher.network.forward = lambda a, b: Pointwise.forward(  # type: ignore[union-attr, method-assign]
        module.teacher,
        a,
        b.repeat_interleave(2, -1),  # type: ignore[arg-type]
    )
    assert_near(module.training_step(finer, 0)["loss"], whole, 1e-5)

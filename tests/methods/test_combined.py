from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill import Batch, Classification, DistillationModule, NetworkOutput
from distill.methods import DKD, KD, Combined
from distill.methods.combined import OF_THE_WHOLE
from distill.weighting import NontargetSampleMask
from tests.losses.cases import assert_near, random_case
from tests.methods.examples import HintAndRelations
from tests.methods.steps import terms_of
from tests.toys import Net, ToyData, make_batch, pair_arguments, prepared, quiet_trainer


class Layers(DistillationModule):
    """Compares the layers that it names, and remembers what it was given."""

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        self.given = teacher, student
        pairs = zip(teacher.features.values(), student.features.values(), strict=True)
        return {f"layer_{i}": (a - b).square().mean(1) for i, (a, b) in enumerate(pairs)}


def combined(methods: dict[str, DistillationModule], **options: Any) -> Combined:
    return Combined(**pair_arguments(), methods=methods, **options)


def test_terms_are_those_of_the_parts_under_their_names_each_times_its_weight() -> None:
    case = random_case(samples=5)
    parts = {"kd": KD(temperature=2.0), "dkd": DKD(beta=2.0), "plain": KD(weight=0.3)}
    terms = terms_of(Combined(methods=parts, weights={"kd": 0.5, "dkd": 3.0}), case)
    assert list(terms) == ["kd/kd", "dkd/tckd", "dkd/nckd", "plain/kd"]
    for name, weight in {"kd": 0.5, "dkd": 3.0, "plain": 1.0}.items():
        for term, value in terms_of(parts[name], case).items():
            assert_near(terms[f"{name}/{term}"], weight * value)


def test_terms_of_a_combination_in_a_combination_bear_both_names_and_weights() -> None:
    case = random_case(samples=5)
    inner = Combined(methods={"kd": KD()}, weights={"kd": 0.5})
    terms = terms_of(Combined(methods={"inner": inner}, weights={"inner": 4.0}), case)
    assert list(terms) == ["inner/kd/kd"]
    assert_near(terms["inner/kd/kd"], 2.0 * terms_of(KD(), case)["kd"])


def test_terms_are_logged_by_part_beside_one_hard_loss(tmp_path: Path) -> None:
    module = combined({"kd": KD(hard_weight=0.7), "dkd": DKD()}, hard_weight=0.25)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, ToyData(batch_size=10))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    parts = {"train/kd/kd", "train/dkd/tckd", "train/dkd/nckd"}
    assert logged.keys() == parts | {"train/loss", "train/hard"}
    total = 0.25 * logged["train/hard"] + sum(logged[name] for name in parts)
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5)


def test_each_part_sees_the_layers_that_it_names_in_its_order() -> None:
    parts = {
        "a": Layers(teacher_layers=["norm", "first"], student_layers=["first", "norm"]),
        "b": Layers(teacher_layers=["head"], student_layers=["head"]),
    }
    module = combined({**parts, "kd": KD()})
    batch = make_batch()
    teacher, student = module.forward_both(batch)
    module.distillation_step(teacher, student, batch)
    of_teacher, of_student = parts["a"].given
    assert list(of_teacher.features) == ["norm", "first"]
    assert list(of_student.features) == ["first", "norm"]
    assert of_teacher.features["norm"] is teacher.features["norm"]
    assert [list(output.features) for output in parts["b"].given] == [["head"], ["head"]]
    assert parts["b"].given[1].prediction is student.prediction


def test_a_layer_that_several_parts_name_is_hooked_once() -> None:
    parts = {name: Layers(teacher_layers=["first", "norm"], student_layers=["first", "norm"]) for name in "abc"}
    module = combined({**parts})
    assert module.teacher is not None
    assert module.network is not None
    for network in (module.teacher, module.network):
        assert [len(network.get_submodule(layer)._forward_hooks) for layer in ("first", "norm", "head")] == [1, 1, 0]
    batch = make_batch()
    assert len(module.distillation_step(*module.forward_both(batch), batch)) == 6


def hint() -> HintAndRelations:
    return HintAndRelations(teacher_layers=["first"], student_layers=["first"])


def test_parameters_of_the_parts_are_trained_saved_and_loaded(tmp_path: Path) -> None:
    module = prepared(combined({"inner": Combined(methods={"hint": hint()}), "hint": hint()}))
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, ToyData())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    of_parts = [
        f"methods.{part}.{adaptor}.{name}"
        for part in ("inner.methods.hint", "hint")
        for adaptor in ("adaptor", "teacher_adaptor")
        for name in ("weight", "bias")
    ]
    assert set(of_parts) == {name for name in before if name.startswith("methods.")}
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    other = combined({"inner": Combined(methods={"hint": hint()}), "hint": hint()})
    quiet_trainer(tmp_path).validate(other, ToyData(), ckpt_path=tmp_path / "x.ckpt", verbose=False)
    for name in of_parts:
        assert not torch.equal(before[name], module.get_parameter(name)), name
        assert torch.equal(saved[name], module.get_parameter(name)), name
        assert torch.equal(other.get_parameter(name), module.get_parameter(name)), name


def test_all_parts_leave_out_what_the_task_ignores() -> None:
    task = Classification(4, ignore_index=-100)
    inner = Combined(methods={"dkd": DKD(warmup_epochs=0)})
    module = Combined(**pair_arguments(task=task), methods={"inner": inner, "dkd": DKD(warmup_epochs=0)})
    case = random_case(samples=5)._replace(target=torch.tensor([0, -100, 3, 1, 2]))
    for name, term in terms_of(module, case).items():
        assert (term == 0).tolist() == [False, True, False, False, False], name


def test_masks_leave_out_what_the_task_ignores(tmp_path: Path) -> None:
    batch = make_batch(10)
    batch["target"][5] = -100
    masked = KD(weighting=NontargetSampleMask(0.25))
    module = Combined(**pair_arguments(task=Classification(4, ignore_index=-100)), methods={"kd": masked})
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, ToyData(batch))
    assert trainer.global_step == 6


def test_a_checkpoint_knows_the_weights_of_the_parts(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path)
    trainer.fit(combined({"hint": hint(), "kd": KD()}, weights={"hint": 0.25}), ToyData())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    networks = {name: pair_arguments()[name] for name in ("teacher", "student", "task", "optimizer")}
    parts = {"hint": hint(), "kd": KD()}
    module = Combined.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True, methods=parts, **networks)
    assert module.weights == {"hint": 0.25, "kd": 1.0}
    assert module.student_inputs == ("x_b",)


def test_a_weight_for_no_part_is_refused_with_the_parts_there_are() -> None:
    with pytest.raises(ValueError, match=r"weights names 'dk', but the methods are 'kd', 'dkd'"):
        Combined(methods={"kd": KD(), "dkd": DKD()}, weights={"kd": 1.0, "dk": 2.0})


def test_nothing_to_combine_is_refused() -> None:
    with pytest.raises(ValueError, match="Combined has no methods"):
        Combined(methods={})


@pytest.mark.parametrize("own", list(OF_THE_WHOLE))
def test_a_part_with_networks_a_task_or_an_optimiser_of_its_own_is_refused(own: str) -> None:
    given: dict[str, Any] = {
        "teacher": Net(4).eval(),
        "student": Net(4),
        "task": Classification(4),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "lr_scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1),
        "teacher_inputs": ["x_a"],
        "student_inputs": ["x_b"],
        "cache_teacher": "cache",
        "teacher_layout": "tokens",
        "student_layout": {"first": "channels_last"},
        "batch_names": ["x_a", "x_b", "target"],
    }
    with pytest.raises(ValueError, match=f"method 'kd' has its own {own}: give it to Combined alone"):
        combined({"dkd": DKD(), "kd": KD(**{own: given[own]})})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("teacher_checkpoint", "teacher.ckpt"),
        ("student_checkpoint", "student.ckpt"),
        ("teacher_precision", "bf16"),
        ("compile", True),
    ],
)
def test_a_part_cannot_change_the_networks_which_are_those_of_the_whole(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"method 'kd' has its own {option}: give it to Combined alone"):
        combined({"dkd": DKD(), "kd": KD(**{option: value})})
    inner = Combined(methods={"kd": KD()}, **{option: value})
    with pytest.raises(ValueError, match=f"method 'inner' has its own {option}: give it to Combined alone"):
        combined({"inner": inner})


def test_a_part_with_a_weight_of_auxiliary_predictions_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'kd' has its own aux_weight: give it to Combined alone"):
        combined({"dkd": DKD(), "kd": KD(aux_weight=0.3)})

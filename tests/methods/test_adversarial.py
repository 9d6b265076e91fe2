from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import DistillationModule
from distill.losses.adversarial import Form
from distill.methods import AFKD, ALKD, Combined
from distill.methods.parts.discriminator import Discriminator, opposed_losses
from tests.losses.cases import assert_near, random_case
from tests.losses.features import features
from tests.methods.steps import terms_of
from tests.toys import CLASSES, ToyData, make, make_batch, pair_arguments, prepared, quiet_trainer

LAYERS: dict[str, Any] = {"teacher_layers": ["a"], "student_layers": ["a"]}


def slopes(loss: Tensor, module: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("method", ["ALKD", "AFKD", "ALKD on maps", "AFKD on maps"])
def test_neither_loss_touches_the_gradients_of_the_other(method: str) -> None:
    module = prepared(make(method))
    batch = make_batch(method=method)
    terms = module.distillation_terms(*module.forward_both(batch), batch)
    assert list(terms) == ["adversarial", "discriminator"]
    assert module.network is not None
    judges = module.discriminator if isinstance(module, ALKD) else module.get_submodule("discriminators")
    assert isinstance(judges, nn.Module)
    assert slopes(terms["adversarial"], judges) == []
    assert slopes(terms["discriminator"], module.network) == []
    assert len(slopes(terms["discriminator"], judges)) == len(list(judges.parameters()))
    assert slopes(terms["adversarial"], module.network)
    if isinstance(module, AFKD):
        assert slopes(terms["discriminator"], module.adaptors) == []
        assert slopes(terms["adversarial"], module.adaptors)


@pytest.mark.parametrize("form", get_args(Form))
def test_losses_are_those_of_a_discriminator_of_three_layers(form: Form) -> None:
    discriminator = Discriminator(5).double()
    student, teacher = features(3, 4, 2, 2), features(3, 4, 2, 2, seed=1)
    learning, deceiving = opposed_losses(discriminator, student, teacher, form)

    weights = discriminator.state_dict()
    first, second, last = ((weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]) for i in (0, 3, 6))
    scores = []
    for hidden in (student.flatten(2).mT, teacher.flatten(2).mT):  # (N, L, C)
        for weight, bias in (first, second):
            hidden = hidden @ weight.T + bias
            centred = hidden - hidden.mean(2, keepdim=True)
            hidden = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
            hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        scores.append((hidden @ last[0].T + last[1]).squeeze(2))
    of_student, of_teacher = scores
    if form == "hinge":
        expected = (1 + of_student).clamp(min=0) + (1 - of_teacher).clamp(min=0), -of_student
    else:
        expected = (
            -torch.log(1 - of_student.sigmoid()) - torch.log(of_teacher.sigmoid()),
            -torch.log(of_student.sigmoid()),
        )
    assert_near(learning, expected[0])
    assert_near(deceiving, expected[1])


def test_alkd_weighs_the_students_loss_alone_and_has_one_value_a_pixel() -> None:
    case = random_case(samples=3, classes=4, spatial=(2, 5))
    method = ALKD(weight=0.3, hidden=6).double()
    terms = terms_of(method, case)
    learning, deceiving = opposed_losses(method.discriminator, case.student, case.teacher, "non_saturating")
    assert_near(terms["discriminator"], learning.view(3, 2, 5))
    assert_near(terms["adversarial"], 0.3 * deceiving.view(3, 2, 5))
    assert ALKD().weight == AFKD(**LAYERS).weight == 0.1


def test_afkd_compares_features_of_any_size_by_one_value_a_sample() -> None:
    of_teacher, of_student = {"a": features(3, 6, 2, 4)}, {"a": features(3, 5, 4, 4, seed=1)}
    method = AFKD(**LAYERS, hidden=6).double()
    terms = terms_of(method, random_case(samples=3), of_teacher, of_student)
    pooled = F.avg_pool2d(of_student["a"], (2, 1)).flatten(2)
    adapted = method.adaptors[0](pooled)
    assert adapted.shape == (3, 6, 8)
    learning, deceiving = opposed_losses(
        method.discriminators[0], adapted, of_teacher["a"].flatten(2), "non_saturating"
    )
    assert_near(terms["discriminator"], learning.mean(1))
    assert_near(terms["adversarial"], 0.1 * deceiving.mean(1))


class Plain(nn.Module):
    """A network without what looks at a batch as a whole."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.norm, self.head = nn.Linear(in_features, 6), nn.Linear(6, CLASSES)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(torch.cat(inputs, 1)).relu())
        return logits


PLAIN: dict[str, Any] = {"teacher_layers": ["norm"], "student_layers": ["norm"]}


def made(method: str, **options: Any) -> DistillationModule:
    torch.manual_seed(0)
    networks: dict[str, Any] = {"teacher": Plain(10).eval(), "student": Plain(4)}
    kind = ALKD if method == "ALKD" else partial(AFKD, **PLAIN)
    return prepared(kind(**pair_arguments(**networks), hidden=8, **options))


def discriminator_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items() if "discriminator" in name}


both_methods = pytest.mark.parametrize("method", ["ALKD", "AFKD"])


@both_methods
def test_two_accumulated_halves_of_a_batch_take_the_step_of_the_whole(method: str, tmp_path: Path) -> None:
    def fit(batch_size: int, accumulated: int) -> dict[str, Tensor]:
        module = made(method)
        start = discriminator_of(module)
        trainer = quiet_trainer(tmp_path, max_epochs=1, accumulate_grad_batches=accumulated)
        trainer.fit(module, ToyData(batch_size=batch_size))
        assert trainer.global_step == 1
        for name, value in discriminator_of(module).items():
            assert not torch.equal(value, start[name]), name
        return module.state_dict()

    whole = fit(10, 1)
    for name, value in fit(5, 2).items():
        torch.testing.assert_close(value, whole[name], msg=name)


@both_methods
@pytest.mark.parametrize("accumulated", [1, 2])
def test_under_bf16_autocast_weights_end_in_float32_near_those_of_full_precision(
    method: str, accumulated: int, tmp_path: Path
) -> None:
    def fit(precision: Any) -> tuple[Tensor, Tensor]:
        module = made(method, discriminator_lr=0.02)
        start = nn.utils.parameters_to_vector(module.parameters()).detach()
        quiet_trainer(tmp_path, precision=precision, accumulate_grad_batches=accumulated).fit(module, ToyData())
        return start, nn.utils.parameters_to_vector(module.parameters()).detach()

    (start, exact), (_, rounded) = fit("32-true"), fit("bf16-mixed")
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.05 * (exact - start).norm()


@both_methods
@pytest.mark.parametrize("combined", [False, True])
def test_the_schedule_scales_the_discriminators_own_rate_and_nothing_decays_it(
    method: str, combined: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.5),
        "lr_scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4),
    }
    kind, layers = (ALKD, {}) if method == "ALKD" else (AFKD, PLAIN)
    if combined:
        part: Any = kind(**layers, discriminator_lr=0.02)
        module: DistillationModule = Combined(**pair_arguments(**options), methods={"part": part})
    else:
        part = module = kind(**pair_arguments(**options), **layers, discriminator_lr=0.02)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, ToyData())
    student, discriminator = trainer.optimizers[0].param_groups
    judges = part.discriminator if method == "ALKD" else part.discriminators
    assert {id(p) for p in discriminator["params"]} == {id(p) for p in judges.parameters()}
    assert (student["weight_decay"], discriminator["weight_decay"]) == (0.5, 0.0)
    # half of the cosine's descent
    assert (student["lr"], discriminator["lr"]) == pytest.approx((0.05, 0.01))
    assert discriminator["momentum"] == 0.9


def test_a_schedule_that_would_overwrite_the_discriminators_rate_is_refused(tmp_path: Path) -> None:
    def fit(**options: Any) -> None:
        schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=6)
        quiet_trainer(tmp_path).fit(ALKD(**pair_arguments(lr_scheduler=schedule), **options), ToyData())

    fit()
    with pytest.raises(ValueError, match=r"OneCycleLR replaces all learning rates, .* rate 0\.02 of their own"):
        fit(discriminator_lr=0.02)


@pytest.mark.parametrize("form", get_args(Form))
def test_both_stay_finite_at_a_students_learning_rate(form: Form) -> None:
    torch.manual_seed(0)
    discriminator, student = Discriminator(128), nn.Linear(20, 10)
    inputs, teacher = torch.randn(64, 20), 5 * torch.randn(64, 10)
    discriminator(teacher)
    parameters = [*discriminator.parameters(), *student.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(200):
        learning, deceiving = opposed_losses(discriminator, student(inputs), teacher, form)
        optimizer.zero_grad()
        (learning.mean() + 0.1 * deceiving.mean()).backward()
        optimizer.step()
    assert learning.mean() < 10
    assert student(inputs).abs().max() < 1000


def test_features_need_pairs_of_layers() -> None:
    with pytest.raises(ValueError, match="AFKD has no layers to compare: name teacher_layers and student_layers"):
        AFKD()


@pytest.mark.parametrize("method", [ALKD(form="mean"), AFKD(**LAYERS, form="mean")])  # type: ignore[arg-type]
def test_an_unknown_form_is_refused(method: DistillationModule) -> None:
    case = random_case(samples=3)._replace(target=torch.zeros(3))
    with pytest.raises(ValueError, match="form must be one of non_saturating, hinge, got 'mean'"):
        terms_of(method.double(), case, {"a": features(3, 4)}, {"a": features(3, 4)})

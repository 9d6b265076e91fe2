from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from distill import SemanticSegmentation
from distill.methods import ARFD, DWLD, LIX, DynamicWeightController
from distill.models import MFNet
from tests.losses.cases import assert_near, random_case
from tests.memory import peak_memory
from tests.methods.steps import terms_of
from tests.processes import run_in_processes
from tests.toys import make, make_batch, prepared

LAYERS: dict[str, Any] = {"teacher_layers": ["a"], "student_layers": ["a"]}


def test_it_is_dwld_and_arfd_side_by_side() -> None:
    case = random_case(samples=3, spatial=(4, 4))
    teacher, student = {"a": torch.randn(3, 6, 4, 4).double()}, {"a": torch.randn(3, 2, 4, 4).double()}
    lix = LIX(
        **LAYERS,
        alpha=2.0,
        temperature=3.0,
        form="kl",
        kernel="gaussian",
        measure="pearson",
        logit_weight=0.7,
        feature_weight=0.3,
        controller=DynamicWeightController(layers=2),
    ).double()
    terms = terms_of(lix, case, teacher, student)
    controller = copy.deepcopy(lix.methods.get_submodule("dwld.controller"))
    assert isinstance(controller, DynamicWeightController)
    dwld = DWLD(alpha=2.0, temperature=3.0, form="kl", weight=0.7, controller=controller)
    arfd = copy.deepcopy(lix.methods["arfd"])
    assert isinstance(arfd, ARFD)
    assert (arfd.kernel, arfd.measure, arfd.weight) == ("gaussian", "pearson", 0.3)
    expected = {f"dwld/{name}": value for name, value in terms_of(dwld, case).items()}
    expected |= {f"arfd/{name}": value for name, value in terms_of(arfd, case, teacher, student).items()}
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        assert_near(value, expected[name])


def test_the_ratio_of_hard_logit_and_feature_loss_is_2_1_1() -> None:
    lix = LIX(**LAYERS)
    assert lix.hard_weight == 1
    assert [method.weight for method in lix.methods.values()] == [0.5, 0.5]


def test_ignored_pixels_do_not_count_in_the_logit_terms() -> None:
    module = prepared(make("LIX on maps")).eval()
    batch = make_batch(method="LIX on maps")
    batch["target"][:, 1] = 255
    teacher, student = module.forward_both(batch)
    other = teacher._replace(prediction=teacher.prediction.clone())
    other.prediction[:, :, 1] = 50.0
    before, after = module.distillation_terms(teacher, student, batch), module.distillation_terms(other, student, batch)
    assert torch.equal(before["dwld/ncld"], after["dwld/ncld"])
    assert torch.equal(before["dwld/tcld"], after["dwld/tcld"])


def test_layers_must_be_named() -> None:
    with pytest.raises(ValueError, match="ARFD has no layers to compare"):
        LIX()


def memory_of_a_step(rank: int, world_size: int) -> float:
    """Peak MB of a process that trains MFNet by LIX for one step at the size of the paper, batch 2, 19 classes."""
    layers = [f"fuse.{stage}" for stage in (1, 2, 3, 4)]
    module = LIX(
        teacher=MFNet(19, x_channels=1),
        student=MFNet(19),
        task=SemanticSegmentation(19),
        teacher_inputs=["image", "depth"],
        student_inputs=["image"],
        teacher_layers=layers,
        student_layers=layers,
    )
    batch = {
        "image": torch.randn(2, 3, 384, 1248).to(memory_format=torch.channels_last),
        "depth": torch.rand(2, 1, 384, 1248),
        "target": torch.randint(19, (2, 384, 1248)),
    }
    module.train()
    teacher, student = module.forward_both(batch)
    loss = module.hard_loss(student.prediction, batch)
    loss = loss + sum(module.distillation_terms(teacher, student, batch).values())
    loss.backward()
    torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9).step()
    return peak_memory()


@pytest.mark.slow
def test_a_step_at_the_papers_size_needs_less_than_6_gb() -> None:
    (peak,) = run_in_processes(memory_of_a_step, 1)
    assert peak < 6000

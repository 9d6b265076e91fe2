from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import kd_loss, lovasz_loss
from distill.methods import TwoDPASS
from distill.weighting import NontargetSampleMask
from tests.losses.cases import IGNORED, assert_near, random_case
from tests.methods.features import features
from tests.methods.steps import Fixed, terms_of

LAYERS: dict[str, Any] = {"teacher_layers": ["a", "b"], "student_layers": ["a", "b"]}
STUDENT = features(0, (2, 3, 4, 6), (2, 7, 2, 3))
TEACHER = features(1, (2, 5, 4, 6), (2, 6, 2, 3))
CASE = random_case(samples=2, classes=4, spatial=(8, 12))


def method_and_terms(**options: Any) -> tuple[TwoDPASS, dict[str, Tensor]]:
    torch.manual_seed(0)
    method = TwoDPASS(**LAYERS, **options).double()
    return method, terms_of(method, CASE, TEACHER, STUDENT)


def mlp(weights: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """At every position by itself."""
    layers = len([key for key in weights if key.startswith(f"{name}.convolutions.") and key.endswith("weight")])
    for layer in range(layers):
        kernel, bias = (weights[f"{name}.convolutions.{layer}.{part}"] for part in ("weight", "bias"))
        values = torch.einsum("nchw,dc->ndhw", values.clamp(min=0) if layer else values, kernel[:, :, 0, 0])
        values = values + bias[:, None, None]
    return values


def heads(method: TwoDPASS, scale: int) -> tuple[Tensor, Tensor]:
    """The paper's equations: the prediction of the lidar's features alone, and that of the fused ones."""
    weights = {name.removeprefix(f"scales.{scale}."): value for name, value in method.state_dict().items()}
    weights = {name: value for name, value in weights.items() if not name.startswith("scales.")}
    of_student, of_teacher = STUDENT["ab"[scale]], TEACHER["ab"[scale]]
    learned = mlp(weights, "learner", of_student)
    both = mlp(weights, "fusion", torch.cat([of_teacher, learned], 1))
    fused = of_teacher + both / (1 + (-mlp(weights, "gate", both)).exp())
    single = mlp(weights, "single_head", of_student + learned), mlp(weights, "fused_head", fused)
    first, second = (F.interpolate(logits, (8, 12), mode="bilinear") for logits in single)
    return first, second


def test_the_terms_are_those_of_the_paper_averaged_over_the_scales() -> None:
    method, terms = method_and_terms(weight=0.25, head_weight=0.5, lovasz_weight=2)
    divergence, entropy, lovasz = torch.zeros(2, 8, 12), torch.zeros(2, 8, 12), torch.zeros(2)
    labels: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "none"}
    for scale in range(2):
        single, fused = heads(method, scale)
        p, q = fused.softmax(1), single.softmax(1)
        divergence = divergence + (p * (p / q).log()).sum(1) / 2
        for head in (single, fused):
            entropy = entropy + F.cross_entropy(head, CASE.target, **labels) / 2
            lovasz = lovasz + lovasz_loss(head, CASE.target, **labels) / 2
    assert list(terms) == ["kl", "ce", "lovasz"]
    assert_near(terms["kl"], 0.25 * divergence * (CASE.target != IGNORED))
    assert_near(terms["ce"], 0.5 * entropy)
    assert_near(terms["lovasz"], 2 * lovasz)
    defaults = TwoDPASS(**LAYERS)
    assert (defaults.weight, defaults.head_weight, defaults.lovasz_weight) == (0.05, 1, 1)


def test_the_divergence_teaches_the_single_modality_alone() -> None:
    method, terms = method_and_terms()
    terms["kl"].sum().backward()
    learns = {name.split(".")[2] for name, weight in method.named_parameters() if weight.grad is not None}
    assert learns == {"learner", "single_head"}


def test_the_labels_teach_the_student_through_both_classifiers() -> None:
    for keep in ("single_head", "fused_head"):
        method = TwoDPASS(**LAYERS).double()
        terms_of(method, CASE, TEACHER, STUDENT)
        with torch.no_grad():
            for name, weight in method.named_parameters():
                if name.split(".")[2] not in (keep, "learner", "fusion", "gate"):
                    weight.zero_()
        of_student = {name: feature.clone().requires_grad_() for name, feature in STUDENT.items()}
        terms_of(method, CASE, TEACHER, of_student)["ce"].sum().backward()
        assert all(feature.grad is not None and feature.grad.any() for feature in of_student.values())


def test_a_weighting_multiplies_the_divergence_and_is_asked_about_the_networks() -> None:
    plain, weighting = method_and_terms()[1], Fixed()
    weighted = method_and_terms(weighting=weighting)[1]
    assert_near(weighted["kl"], plain["kl"] * weighting(CASE.student, CASE.teacher, {"target": CASE.target}))
    assert_near(weighted["ce"], plain["ce"])
    assert_near(weighted["lovasz"], plain["lovasz"])
    method_and_terms(weighting=(asked := Fixed()))
    assert asked.asked is not None
    for found, given in zip(asked.asked, CASE, strict=True):
        assert found is given


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_the_sample_mask_leaves_out_its_share_of_the_pixels(fraction: float) -> None:
    plain, masked = method_and_terms()[1], method_and_terms(weighting=NontargetSampleMask(fraction))[1]
    counted = CASE.target != IGNORED
    assert (masked["kl"][counted] == 0).sum() == round(fraction * int(counted.sum()))
    kept = masked["kl"] > 0
    assert_near(masked["kl"][kept], plain["kl"][kept])


def test_without_its_weight_the_lovasz_loss_is_left_out() -> None:
    assert list(method_and_terms(lovasz_weight=0)[1]) == ["kl", "ce"]


def test_the_larger_feature_is_pooled_and_vectors_are_positions() -> None:
    method = TwoDPASS(teacher_layers=["a"], student_layers=["a"], lovasz_weight=0).double()
    of_student = {"a": F.interpolate(STUDENT["a"], scale_factor=2)}
    assert_near(
        terms_of(method, CASE, TEACHER, of_student)["kl"],
        terms_of(method, CASE, TEACHER, STUDENT)["kl"],
    )
    case = random_case(samples=2)
    vectors = features(2, (2, 5)), features(3, (2, 3))
    assert terms_of(TwoDPASS(teacher_layers=["a"], student_layers=["a"]).double(), case, *vectors)["kl"].shape == (2,)


def test_of_a_map_before_a_prediction_for_the_whole_sample_the_mean_counts() -> None:
    case, method = random_case(samples=2), TwoDPASS(teacher_layers=["a"], student_layers=["a"]).double()
    term = terms_of(method, case, TEACHER, STUDENT)["kl"]
    (scale,) = method.scales
    single, fused = (logits.mean((2, 3)) for logits in scale(STUDENT["a"], TEACHER["a"], 4))
    assert_near(term, 0.05 * kd_loss(single, fused, target=case.target, reduction="none"))


def test_layers_must_be_named_and_be_pairs() -> None:
    with pytest.raises(ValueError, match="TwoDPASS has no layers to compare: name teacher_layers and student_layers"):
        TwoDPASS()
    with pytest.raises(ValueError, match="TwoDPASS compares layers pair by pair, but there are 2 teacher_layers and 1"):
        TwoDPASS(teacher_layers=["a", "b"], student_layers=["a"])

"""No method depends on how a network stores its features: a permuted copy gives the same loss and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import distill.methods
from distill import Classification, DistillationModule
from distill.methods import FT
from tests.methods.examples import EXAMPLES, VARIANTS
from tests.methods.pointwise import Pointwise, Stored
from tests.toys import CLASSES, METHODS, ON_MAPS, SIZE, make, make_batch, prepared

ON_FEATURES = [
    method
    for method in METHODS
    if method.endswith(ON_MAPS) and (module := make(method)).student_layers and module.teacher_layers
]
assert len(ON_FEATURES) >= 18


def trained(method: str, teacher: Stored, student: Stored) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a step on networks of these layouts, and the gradients of all parameters.

    Callbacks get the features as maps as well.
    """
    torch.manual_seed(0)
    networks = Pointwise(10, 7, teacher).eval(), Pointwise(4, 6, student)
    module = prepared(make(method, teacher=networks[0], student=networks[1]))
    torch.manual_seed(0)
    loss, _, outputs = module.training_losses(make_batch(method=method))
    features = {**outputs["features"], **outputs["teacher_features"]}
    assert all(feature.shape[2:] == SIZE for feature in features.values())
    loss.backward()
    names = {name: parameter for name, parameter in module.named_parameters() if not name.endswith("class_token")}
    gradients = {name: value.grad.flatten() for name, value in names.items() if value.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("method", ON_FEATURES)
def test_a_permuted_copy_of_the_networks_has_the_same_loss_and_gradients(method: str) -> None:
    loss, gradients = trained(method, "channels_first", "channels_first")
    assert gradients
    pairs: list[tuple[Stored, Stored]] = [
        ("channels_last", "channels_last"),
        ("tokens", "tokens"),
        ("class_token", "class_token"),
        ("class_token", "channels_first"),
        ("channels_first", "class_token"),
        ("channels_last", "tokens"),
    ]
    for pair in pairs:
        permuted_loss, permuted = trained(method, *pair)
        torch.testing.assert_close(permuted_loss, loss, rtol=1e-4, atol=1e-5)
        assert permuted.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(permuted[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def small(kind: str) -> tuple[nn.Module, list[str]]:
    """A network of timm for images of 64, and two of its layers."""
    if kind == "vit":
        settings: Any = {"patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
        return timm.models.VisionTransformer(64, num_classes=CLASSES, **settings), ["blocks.0", "blocks.1"]
    if kind == "swin":
        settings = {"patch_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
        return timm.models.SwinTransformer(64, num_classes=CLASSES, **settings), ["layers.0", "layers.1"]
    return timm.create_model("test_resnet", num_classes=CLASSES), ["layer1", "layer2"]


PHOTOGRAPHS = {
    "image": torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "target": torch.arange(4),
    "index": torch.arange(4),
}


@pytest.mark.parametrize("pair", [("vit", "vit"), ("vit", "cnn"), ("swin", "cnn"), ("cnn", "vit")])
def test_transformers_and_convolutional_networks_teach_each_other_by_every_method(pair: tuple[str, str]) -> None:
    torch.manual_seed(0)
    (teacher, teacher_layers), (student, student_layers) = map(small, pair)
    for method in ON_FEATURES:
        name = method.removesuffix(ON_MAPS)
        if name in VARIANTS or name == "Combined":
            continue
        arguments = dict(EXAMPLES[name].toys["maps"]())
        layers = len(arguments["student_layers"])
        arguments |= {"teacher_layers": teacher_layers[-layers:], "student_layers": student_layers[-layers:]}
        arguments |= {"teacher_inputs": ["image"], "student_inputs": ["image"], "task": Classification(CLASSES)}
        module: DistillationModule = getattr(distill.methods, name)(teacher.eval(), student, **arguments)
        module.check_batch(PHOTOGRAPHS)
        if isinstance(module, FT):
            module.stage_one_epochs = 0  # the student learns in the second stage
        of_teacher, of_student = module.forward_both(PHOTOGRAPHS)
        assert all(feature.ndim == 4 for output in (of_teacher, of_student) for feature in output.features.values())
        terms = module.distillation_terms(of_teacher, of_student, PHOTOGRAPHS)
        loss = torch.stack(list(terms.values())).sum()
        assert loss.isfinite()
        feature = of_student.features[student_layers[-1]]
        (gradient,) = torch.autograd.grad(loss, feature, allow_unused=True)
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.any()

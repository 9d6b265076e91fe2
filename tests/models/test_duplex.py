"""What all duplex networks owe their users, as teacher and as student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from distill.models import DuplexUNet, MFNet, OFFNet, SNERoadSeg
from distill.taps import FeatureTaps

CLASSES = 5
NETWORKS: dict[str, Callable[[int | None], nn.Module]] = {
    "SNERoadSeg": lambda x: SNERoadSeg(CLASSES, x, "resnet10t", decoder_channels=(4, 8, 8, 8)),
    "MFNet": lambda x: MFNet(CLASSES, x),
    "OFFNet": lambda x: OFFNet(CLASSES, x, decoder_channels=8),
    "DuplexUNet": lambda x: DuplexUNet(CLASSES, "tu-resnet10t", x, decoder_channels=(8, 8, 8, 8, 4)),
}
# by layer, as the docstrings say
STRIDES = {
    "SNERoadSeg": {"fuse.0": 2, "fuse.1": 4, "fuse.2": 8, "fuse.3": 16, "fuse.4": 32, "decoder": 2},
    "MFNet": {"fuse.1": 2, "fuse.2": 4, "fuse.3": 8, "fuse.4": 16, "decoder": 2},
    "OFFNet": {"fuse.1": 4, "fuse.2": 8, "fuse.3": 16, "fuse.4": 32, "decoder": 4},
    "DuplexUNet": {"fuse.0": 2, "fuse.1": 4, "fuse.2": 8, "fuse.3": 16, "fuse.4": 32, "decoder": 1},
}

every_network = pytest.mark.parametrize("name", NETWORKS)
both_roles = pytest.mark.parametrize("x_channels", [None, 1], ids=["student", "teacher"])


@cache
def original(name: str, x_channels: int | None) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](x_channels)


def build(name: str, x_channels: int | None = None) -> nn.Module:
    return copy.deepcopy(original(name, x_channels))


def inputs(x_channels: int | None, height: int = 64, width: int = 96) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    channels = [3] if x_channels is None else [3, x_channels]
    return [torch.randn(2, c, height, width, generator=generator) for c in channels]


@every_network
@both_roles
@pytest.mark.parametrize("size", [(375, 1242), (384, 1248), (33, 61)])
def test_logits_have_the_size_of_the_image_whatever_it_is(
    name: str, x_channels: int | None, size: tuple[int, int]
) -> None:
    network = build(name, x_channels).to("meta")
    arguments = [argument.to("meta") for argument in inputs(x_channels, *size)]
    assert network(*arguments).shape == (2, CLASSES, *size)


@every_network
@both_roles
def test_layers_have_the_documented_names_and_strides_in_teacher_and_student(name: str, x_channels: int | None) -> None:
    _, features = FeatureTaps(build(name, x_channels), STRIDES[name])(*inputs(x_channels))
    for layer, stride in STRIDES[name].items():
        assert features[layer].shape[-2:] == (64 // stride, 96 // stride), layer


@every_network
def test_a_teachers_features_have_at_least_the_students_channels(name: str) -> None:
    channels = {
        x_channels: [
            feature.shape[1]
            for feature in FeatureTaps(build(name, x_channels), STRIDES[name])(*inputs(x_channels))[1].values()
        ]
        for x_channels in (None, 1)
    }
    assert all(teacher >= student for teacher, student in zip(channels[1], channels[None], strict=True))


@every_network
def test_every_feature_of_a_teacher_is_fused(name: str) -> None:
    taps = FeatureTaps(build(name, 1).eval(), STRIDES[name])
    image, x = inputs(1)
    _, features = taps(image, x)
    _, other_x = taps(image, x.flip(-1))
    _, other_image = taps(image.flip(-1), x)
    for layer, feature in features.items():
        assert (feature - other_x[layer]).abs().max() > 1e-5, layer
        assert (feature - other_image[layer]).abs().max() > 1e-5, layer


@every_network
@both_roles
def test_nothing_changes_a_feature_after_it_was_tapped(name: str, x_channels: int | None) -> None:
    network = build(name, x_channels)
    when_tapped: dict[str, Tensor] = {}
    for layer in STRIDES[name]:
        network.get_submodule(layer).register_forward_hook(
            lambda module, arguments, output, layer=layer: when_tapped.update({layer: output.detach().clone()})
        )
    prediction, features = FeatureTaps(network, STRIDES[name])(*inputs(x_channels))
    prediction.sum().backward()
    for layer, feature in features.items():
        assert torch.equal(feature, when_tapped[layer]), layer


@every_network
@both_roles
def test_every_parameter_gets_a_gradient(name: str, x_channels: int | None) -> None:
    network = build(name, x_channels)
    network(*inputs(x_channels)).square().mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without


@every_network
def test_features_carry_gradients_to_their_own_stage_and_those_before(name: str) -> None:
    network = build(name)
    _, features = FeatureTaps(network, ["fuse.1", "fuse.4"])(*inputs(None))
    parameters = [*network.get_submodule("encoder").parameters()]
    reached = {}
    for layer, feature in features.items():
        gradients = torch.autograd.grad(feature.square().mean(), parameters, retain_graph=True, allow_unused=True)
        reached[layer] = sum(gradient is not None for gradient in gradients)
    assert 0 < reached["fuse.1"] < reached["fuse.4"]


@every_network
def test_several_modalities_are_concatenated_in_their_order(name: str) -> None:
    network = build(name, 4).eval()
    image, x = inputs(4)
    with torch.no_grad():
        together, apart = network(image, x), network(image, x[:, :1], x[:, 1:])
        assert torch.equal(together, apart)
        assert not torch.equal(together, network(image, x[:, 1:], x[:, :1]))


@every_network
def test_the_unit_of_x_does_not_matter_in_training(name: str) -> None:
    network = build(name, 1)
    image, x = inputs(1)
    with torch.no_grad():
        torch.manual_seed(0)  # stochastic depth of SegFormer
        metres = network(image, 10 + 3 * x)
        torch.manual_seed(0)
        centimetres = network(image, 1000 + 300 * x)
    torch.testing.assert_close(centimetres, metres, rtol=1e-3, atol=1e-2)


@every_network
@pytest.mark.parametrize(
    ("x_channels", "shapes", "error", "message"),
    [
        (None, [(2, 3, 64, 64), (2, 1, 64, 64)], TypeError, "a student takes the image alone, got 1 more"),
        (1, [(2, 3, 64, 64)], TypeError, "a teacher takes the image and X of 1 channels, got the image alone"),
        (1, [(2, 3, 64, 64), (2, 3, 64, 64)], ValueError, "X must have x_channels=1 channels in all, got 3"),
        (1, [(2, 3, 64, 64), (2, 1, 32, 64)], ValueError, "with N, H and W of the image"),
        (1, [(2, 3, 64, 64), (2, 64, 64)], ValueError, "with N, H and W of the image"),
        (1, [(3, 3, 64, 64), (2, 1, 64, 64)], ValueError, "with N, H and W of the image"),
        (None, [(2, 4, 64, 64)], ValueError, r"image must be \(N, 3, H, W\), got \(2, 4, 64, 64\)"),
        (None, [(3, 64, 64)], ValueError, r"image must be \(N, 3, H, W\), got \(3, 64, 64\)"),
    ],
)
def test_wrong_input_is_refused(
    name: str, x_channels: int | None, shapes: list[tuple[int, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        original(name, x_channels)(*map(torch.zeros, shapes))


@every_network
def test_x_without_channels_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="x_channels must be at least 1, or None for a student without X, got 0"):
        NETWORKS[name](0)


@every_network
@both_roles
def test_a_copy_and_a_network_with_its_weights_predict_the_same(name: str, x_channels: int | None) -> None:
    network, other = build(name, x_channels), build(name, x_channels)
    arguments = inputs(x_channels)
    with torch.no_grad():
        network(*arguments)  # moves the statistics of batch normalisation, which the state dict has to hold
        expected = network.eval()(*arguments)
        assert torch.equal(copy.deepcopy(network)(*arguments), expected)
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(network.state_dict())
        assert torch.equal(other.eval()(*arguments), expected)


@every_network
@both_roles
def test_it_runs_in_bfloat16_under_autocast(name: str, x_channels: int | None) -> None:
    network, arguments = build(name, x_channels), inputs(x_channels)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = network(*arguments)
    assert prediction.dtype == torch.bfloat16
    prediction.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_network
@both_roles
def test_channels_last_changes_nothing(name: str, x_channels: int | None) -> None:
    network, arguments = build(name, x_channels).eval(), inputs(x_channels)
    with torch.no_grad():
        expected = network(*arguments)
        network.to(memory_format=torch.channels_last)
        actual = network(*[argument.to(memory_format=torch.channels_last) for argument in arguments])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@every_network
def test_batch_normalisation_can_be_synchronised_between_gpus(name: str) -> None:
    network = build(name, 1)
    before = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == before > 0


@every_network
def test_a_student_is_exported(name: str) -> None:
    network, arguments = build(name).eval(), tuple(inputs(None))
    exported = torch.export.export(network, arguments).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*arguments), network(*arguments))

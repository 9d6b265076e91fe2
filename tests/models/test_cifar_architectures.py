"""The networks for small images against the libraries and the papers they come from."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenetv2, resnet, shufflenetv2, vgg

from distill.models import VGG13, ResNet20, ShuffleNetV1, ShuffleNetV2, WRN16x2
from distill.models.cifar.mobilenet_v2 import Bottleneck
from distill.models.cifar.shufflenet_v1 import ShuffleDownUnit, ShuffleUnit
from distill.models.cifar.wide_resnet import PreactivationBlock

Network = TypeVar("Network", bound=nn.Module)


def shaken(network: Network) -> Network:
    """In evaluation, with other statistics, scales and biases than the 0 and 1 that hide mistakes, in float64."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    return network.double().eval()


def copied(source: nn.Module, into: Network) -> Network:
    """The second network with the weights of the first, which has the same layers in the same order."""
    values = [value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")]
    keys = [key for key in into.state_dict() if not key.endswith("num_batches_tracked")]
    into.double().load_state_dict(dict(zip(keys, values, strict=True)), strict=False)
    return into.eval()


def image(channels: int, size: int = 13) -> Tensor:
    return torch.rand(2, channels, size, size, dtype=torch.float64)


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch normalisation in evaluation, written out."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_resnet_stages_are_torchvisions_basic_blocks() -> None:
    network = shaken(ResNet20(10))
    x = image(16)
    for layer, before, width, stride in (("stage1", 16, 16, 1), ("stage2", 16, 32, 2), ("stage3", 32, 64, 2)):
        stage = network.get_submodule(layer)
        shortcut = None
        if stride == 2:
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        blocks = [
            resnet.BasicBlock(before, width, stride, shortcut),
            resnet.BasicBlock(width, width),
            resnet.BasicBlock(width, width),
        ]
        expected = copied(stage, nn.Sequential(*blocks))(x)
        x = stage(x)
        torch.testing.assert_close(x, expected)


def test_vgg13_is_torchvisions_configuration_b_without_the_last_two_poolings() -> None:
    configuration: list[str | int] = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, 512, 512]
    network = shaken(VGG13(10))
    reference = copied(network, nn.Sequential(vgg.make_layers(configuration, batch_norm=True), nn.Linear(512, 10)))
    x = image(3, 32)
    torch.testing.assert_close(network(x), reference[1](reference[0](x).mean((2, 3))))


def test_shufflenet_v2_is_torchvisions_behind_the_stem() -> None:
    network, reference = shaken(ShuffleNetV2(10)), shufflenetv2.shufflenet_v2_x1_0(num_classes=10)
    x = image(24).requires_grad_()
    feature = expected = x
    for layer, name in (("stage1", "stage2"), ("stage2", "stage3"), ("stage3", "stage4"), ("final", "conv5")):
        feature = network.get_submodule(layer)(feature)
        expected = copied(network.get_submodule(layer), reference.get_submodule(name))(expected)
        torch.testing.assert_close(feature, expected)
    gradients = [torch.autograd.grad(feature.log1p().sum(), x)[0] for feature in (feature, expected)]
    torch.testing.assert_close(*gradients)


def test_a_mobilenet_bottleneck_is_torchvisions_with_relu_for_relu6() -> None:
    for before, after, stride in ((12, 12, 1), (12, 16, 1), (12, 12, 2)):
        reference = mobilenetv2.InvertedResidual(before, after, stride, expand_ratio=6)
        reference.conv[0][2], reference.conv[1][2] = nn.ReLU(), nn.ReLU()
        bottleneck = shaken(Bottleneck(before, after, stride))
        copied(bottleneck, reference)
        x = image(before)
        torch.testing.assert_close(bottleneck(x), reference(x))


def test_a_wide_resnet_activates_before_it_convolves() -> None:
    for before, width, stride in ((8, 8, 1), (8, 12, 1), (8, 8, 2)):
        block = shaken(PreactivationBlock(before, width, stride))
        x = image(before) - 0.5
        first, norm, _, second = block.residual
        activated = normalised(x, block.activation[0]).relu()
        hidden = F.conv2d(activated, first.get_parameter("weight"), stride=stride, padding=1)
        expected = F.conv2d(normalised(hidden, norm).relu(), second.get_parameter("weight"), padding=1)
        if block.shortcut is None:
            assert (before, stride) == (width, 1)
            expected = expected + x
        else:
            expected = expected + F.conv2d(activated, block.shortcut.weight, stride=stride)
        torch.testing.assert_close(block(x), expected)


def test_a_wide_resnet_is_normalised_and_activated_once_more_before_pooling() -> None:
    network = shaken(WRN16x2(10))
    x = image(128)
    final = network.get_submodule("final")
    torch.testing.assert_close(final(x), normalised(x, final.get_submodule("0")).relu())


def test_a_shuffle_unit_mixes_the_groups() -> None:
    """One channel of the last group reaches all groups of the output, as it would not without the shuffle."""
    residual = ShuffleUnit(240).double().eval().residual
    x = image(240, 5)
    touched = x.clone()
    touched[:, -1] += 1
    changed = residual(touched) != residual(x)
    assert [bool(group.any()) for group in changed.chunk(3, dim=1)] == [True, True, True]


def test_a_shuffle_unit_is_the_papers() -> None:
    unit = shaken(ShuffleUnit(48))
    x = image(48)
    torch.testing.assert_close(unit(x), x + shuffled_residual(unit, x, groups=3, stride=1))


def test_a_shuffle_unit_that_halves_the_size_appends_the_pooled_input() -> None:
    for channels, added, groups in ((24, 36, 1), (48, 24, 3)):
        unit = shaken(ShuffleDownUnit(channels, channels + added))
        x = image(channels)
        y = unit(x)
        # the windows are padded with zeros, which count in the mean
        windows = F.unfold(x, 3, stride=2, padding=1).unflatten(1, (channels, 9))
        torch.testing.assert_close(y[:, added:], windows.mean(2).unflatten(2, (7, 7)))
        torch.testing.assert_close(y[:, :added], shuffled_residual(unit, x, groups=groups, stride=2))


def shuffled_residual(unit: nn.Module, x: Tensor, *, groups: int, stride: int) -> Tensor:
    """Grouped 1x1 convolution, shuffle, depthwise 3x3 convolution, grouped 1x1 convolution."""
    (first, first_norm), (depthwise, second_norm), (last, last_norm) = (
        list(unit.get_submodule(f"residual.{position}").children()) for position in (0, 3, 5)
    )
    y = normalised(grouped(x, first, groups), first_norm).relu()
    width = y.shape[1] // groups
    # channel j of group i moves to i + j * groups
    order = [group * width + member for member in range(width) for group in range(groups)]
    y = y[:, order]
    y = F.conv2d(y, depthwise.get_parameter("weight"), stride=stride, padding=1, groups=y.shape[1])
    return normalised(grouped(normalised(y, second_norm).relu(), last, 3), last_norm)


def grouped(x: Tensor, convolution: nn.Module, groups: int) -> Tensor:
    """A 1x1 convolution that sees the channels of its own group only."""
    kernels = convolution.get_parameter("weight")[:, :, 0, 0].chunk(groups)
    parts = zip(kernels, x.chunk(groups, 1), strict=True)
    return torch.cat([torch.einsum("oc,nchw->nohw", kernel, part) for kernel, part in parts], 1)


def test_only_the_first_convolution_of_shufflenet_v1_behind_the_stem_is_not_grouped() -> None:
    units = [module for module in ShuffleNetV1(10).modules() if isinstance(module, ShuffleUnit | ShuffleDownUnit)]
    pointwise = [
        module.groups
        for unit in units
        for module in unit.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    ]
    assert pointwise == [1] + [3] * 31

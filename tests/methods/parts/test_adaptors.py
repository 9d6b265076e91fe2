"""Convolutions that find the number of spatial dims, with the layers of torch as the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.methods.parts.adaptors import Convolution, Pointwise
from tests.losses.cases import assert_near

LAYERS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
LAZY: list[Any] = [nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d]
SIZES = [(4,), (4, 3), (4, 3, 2)]

dims = pytest.mark.parametrize("dims", [1, 2, 3])


def feature(*size: int) -> Tensor:
    return torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))


@dims
@pytest.mark.parametrize("bias", [False, True])
def test_the_weights_of_a_2d_layer_of_torch_are_loaded_and_used_at_each_position(dims: int, bias: bool) -> None:
    saved = nn.Conv2d(5, 6, 1, bias=bias).state_dict()
    pointwise = Pointwise(bias=bias)
    pointwise.load_state_dict(saved)
    layer = LAYERS[dims - 1](5, 6, 1, bias=bias)
    layer.load_state_dict({name: value.view(layer.state_dict()[name].shape) for name, value in saved.items()})
    batch = feature(*SIZES[dims - 1])
    assert_near(pointwise(batch, 6), layer(batch), tolerance=1e-5)
    mean = batch.flatten(2).mean(2)
    assert_near(pointwise(mean, 6), pointwise(batch, 6).flatten(2).mean(2), tolerance=1e-5)
    assert {name: value.shape for name, value in pointwise.state_dict().items()} == {
        name: value.shape for name, value in saved.items()
    }


@dims
def test_a_convolution_is_that_of_torch_in_as_many_dims_from_its_first_weights_on(dims: int) -> None:
    batch = feature(*SIZES[dims - 1])
    torch.manual_seed(0)
    expected = LAZY[dims - 1](6, 3, padding=1)
    values = expected(batch)
    torch.manual_seed(0)
    convolution = Convolution()
    assert torch.equal(convolution(batch, 6), values)
    loaded = Convolution()
    loaded.load_state_dict(expected.state_dict())
    assert torch.equal(loaded(batch, 6), values)


def test_the_first_weights_of_a_pointwise_layer_are_those_of_torch() -> None:
    torch.manual_seed(0)
    expected = nn.LazyConv2d(6, 1)
    values = expected(feature(4, 3))
    torch.manual_seed(0)
    assert torch.equal(Pointwise()(feature(4, 3), 6), values)


@pytest.mark.parametrize(
    ("size", "memory_format"), [((4, 3), torch.channels_last), ((4, 3, 2), torch.channels_last_3d)]
)
def test_channels_that_come_last_in_memory_stay_last(size: tuple[int, ...], memory_format: torch.memory_format) -> None:
    batch = feature(*size)
    for layer in (Pointwise(), Convolution()):
        expected = layer(batch, 6)
        last = batch.to(memory_format=memory_format).requires_grad_()
        values = layer(last, 6)
        assert_near(values, expected, tolerance=1e-5)
        assert values.is_contiguous(memory_format=memory_format)
        (gradient,) = torch.autograd.grad(values.square().sum(), last)
        assert gradient.is_contiguous(memory_format=memory_format)


def test_a_convolution_of_features_without_positions_is_refused() -> None:
    for size in ((), (1, 1, 1, 1)):
        with pytest.raises(UserError, match=r"a convolution takes features of 1 to 3 spatial dims, got \(2, 5"):
            Convolution()(feature(*size), 6)

"""Shared by networks that estimate depth from one image: their encoder and their checks."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from distill.errors import UserError

STRIDES = [2, 4, 8, 16, 32]


def check_image(image: Tensor) -> None:
    """Checks that a tensor is a batch of colour images.

    Raises:
        ValueError: ``image`` is not ``(N, 3, H, W)``.
    """
    if image.dim() != 4 or image.shape[1] != 3:
        raise UserError(f"image must be (N, 3, H, W), got {tuple(image.shape)}")


def check_depths(min_depth: float, max_depth: float) -> None:
    """Checks a range of depths, in metres: it must not be empty and must begin in front of the camera.

    Raises:
        ValueError: Not ``0 < min_depth < max_depth``.
    """
    if not 0 < min_depth < max_depth:
        raise UserError(f"depths must be 0 < min_depth < max_depth, got {min_depth} and {max_depth}")


def encoder_pyramid(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A network of timm that returns its features at strides 2 to 32, and the channels of these features.

    Raises:
        ValueError: timm has no such network, or it has other strides.
    """
    if not timm.is_model(name):
        raise UserError(f"encoder_name must be a network of timm, as resnet18; there is no {name!r}")
    network: Any = timm.create_model(name, pretrained=pretrained, features_only=True)
    strides = network.feature_info.reduction()
    if strides != STRIDES:
        raise UserError(f"encoder_name must be a network with features at strides {STRIDES}; {name!r} has {strides}")
    return network, network.feature_info.channels()

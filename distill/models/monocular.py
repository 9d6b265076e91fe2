"""What networks that take the depth from one image share: their encoder, their checks, depth from probabilities."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from distill.errors import UserError

STRIDES = [2, 4, 8, 16, 32]


def check_image(image: Tensor) -> None:
    """Refuses what is no batch of images in colour.

    Raises:
        ValueError: ``image`` is not ``(N, 3, H, W)``.
    """
    if image.dim() != 4 or image.shape[1] != 3:
        raise UserError(f"image must be (N, 3, H, W), got {tuple(image.shape)}")


def check_depths(min_depth: float, max_depth: float) -> None:
    """Refuses a range of depths, in metres, that is empty or begins behind the camera.

    Raises:
        ValueError: Not ``0 < min_depth < max_depth``.
    """
    if not 0 < min_depth < max_depth:
        raise UserError(f"depths must be 0 < min_depth < max_depth, got {min_depth} and {max_depth}")


def encoder_pyramid(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """A network of timm that returns its features at strides 2 to 32, and their channels.

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


def expected_depth(logits: Tensor, centers: Tensor) -> Tensor:
    """The mean of the bins' centres under the softmax of their logits.

    Computed in float32 at least, also under autocast: bfloat16 tells 80 m from 79.5 m, and nothing between.

    Args:
        logits: ``(N, bins, H, W)``.
        centers: ``(bins,)``, or ``(N, bins)`` where each image has its own.

    Returns:
        ``(N, 1, H, W)`` in the unit of the centres.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
        # one matrix product: no second tensor in the size of the probabilities, and none kept for the gradient
        weights = centers.to(probabilities.dtype).expand(*logits.shape[:2]).unsqueeze(1)
        depth: Tensor = torch.bmm(weights, probabilities.flatten(2)).view(-1, 1, *logits.shape[2:])
        return depth

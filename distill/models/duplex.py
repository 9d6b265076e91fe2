"""Shared by networks with two encoders: their input streams, fusion by a sum, and resizing of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError, UserTypeError

IMAGE_CHANNELS = 3


class Add(nn.Module):
    """The element-wise sum of two streams of one shape."""

    def forward(self, image: Tensor, x: Tensor) -> Tensor:
        """The fused feature, of the same shape."""
        return image + x


def check_x_channels(x_channels: int | None) -> None:
    """Checks the number of channels of X.

    Raises:
        ValueError: ``x_channels`` is neither ``None`` nor positive.
    """
    if x_channels is not None and x_channels < 1:
        raise UserError(f"x_channels must be at least 1, or None for a student without X, got {x_channels}")


def input_streams(x_channels: int | None, image: Tensor, x: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of the encoders: the image and, in a teacher, all other modalities as one tensor.

    Args:
        x_channels: The number of channels of X, or ``None`` for a student.
        image: ``(N, 3, H, W)``.
        x: Modalities ``(N, c, H, W)``; their channels are concatenated in this order.

    Returns:
        ``[image]`` for a student, ``[image, x]`` for a teacher.

    Raises:
        TypeError: A student was given X, or a teacher was not.
        ValueError: The image does not have three channels, X does not have ``x_channels`` channels, or a modality does
            not have the samples, height and width of the image.
    """
    if image.dim() != 4 or image.shape[1] != IMAGE_CHANNELS:
        raise UserError(f"image must be (N, {IMAGE_CHANNELS}, H, W), got {tuple(image.shape)}")
    if x_channels is None:
        if x:
            raise UserTypeError(
                f"a student takes the image alone, got {len(x)} more: build a teacher with x_channels to use them"
            )
        return [image]
    if not x:
        raise UserTypeError(f"a teacher takes the image and X of {x_channels} channels, got the image alone")
    samples, _, *size = image.shape
    for modality in x:
        if modality.dim() != 4 or [modality.shape[0], *modality.shape[2:]] != [samples, *size]:
            raise UserError(
                f"X must be (N, c, H, W) with N, H and W of the image {tuple(image.shape)}, got {tuple(modality.shape)}"
            )
    channels = sum(modality.shape[1] for modality in x)
    if channels != x_channels:
        raise UserError(f"X must have x_channels={x_channels} channels in all, got {channels}")
    return [image, torch.cat(list(x), 1)]


def upsampled(feature: Tensor, like: Tensor) -> Tensor:
    """A feature ``(N, C, *, *)``, resized bilinearly to the height and width of another."""
    return F.interpolate(feature, size=like.shape[-2:], mode="bilinear", align_corners=False)

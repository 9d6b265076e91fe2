from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distill.models import MFNet
from distill.models.mfnet import MiniInception
from distill.taps import FeatureTaps

LAYERS = ["fuse.1", "fuse.2", "fuse.3", "fuse.4"]


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def layers(*channels: tuple[int, int]) -> int:
    """Parameters of 3x3 convolutions (kernels, biases) and of the batch normalisations behind them."""
    return sum(9 * before * after + after + 2 * after for before, after in channels)


def test_encoders_have_the_parameters_of_the_paper() -> None:
    teacher, student = MFNet(19, 1), MFNet(19)
    image = layers((3, 16), (16, 48), (48, 48), (48, 48), (48, 48), (48, 96), *[(96, 96)] * 5)
    x = layers((1, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 36), *[(36, 36)] * 5)
    assert count(student.encoder) == count(teacher.encoder) == image == 528_096  # printed as 0.52 M
    assert count(teacher.x_encoder) == x
    assert image + x == 601_848  # printed as 0.60 M


def test_half_of_a_mini_inception_block_sees_twice_as_far() -> None:
    block = MiniInception(1, 2).eval()
    for parameter in block.parameters():
        nn.init.constant_(parameter, 1.0 if parameter.dim() == 4 else 0.0)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    impulse = torch.zeros(1, 1, 7, 7)
    impulse[..., 3, 3] = 1
    plain, dilated = (block(impulse)[0] > 0.5).unbind()
    assert plain.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (2, 3, 4)]
    assert dilated.nonzero().tolist() == [[row, column] for row in (1, 3, 5) for column in (1, 3, 5)]


def test_the_encoders_do_not_meet_before_the_decoder() -> None:
    taps = FeatureTaps(MFNet(2, 1).eval(), LAYERS)
    image, x = torch.randn(1, 3, 32, 48), torch.randn(1, 1, 32, 48)
    _, features = taps(image, x)
    _, with_other_x = taps(image, x.flip(-1))
    _, with_other_image = taps(image.flip(-1), x)
    for layer, channels in zip(LAYERS, (48, 48, 96, 96), strict=True):
        assert torch.equal(features[layer][:, :channels], with_other_x[layer][:, :channels])
        assert torch.equal(features[layer][:, channels:], with_other_image[layer][:, channels:])


def test_the_decoder_adds_the_shortcuts_to_what_it_upsampled() -> None:
    decoder = MFNet(2).decoder.eval()
    features = [torch.randn(1, 48, 9, 13), torch.randn(1, 48, 5, 7), torch.randn(1, 96, 3, 4), torch.randn(1, 96, 2, 2)]
    feature = features[3]
    for block, shortcut in zip(decoder.blocks, features[2::-1], strict=True):
        feature = block(F.interpolate(feature, size=shortcut.shape[-2:], mode="bilinear") + shortcut)
    torch.testing.assert_close(decoder(features), feature)


def test_pooling_keeps_the_last_row_and_column_where_the_size_is_odd() -> None:
    _, features = FeatureTaps(MFNet(2).eval(), LAYERS)(torch.randn(1, 3, 33, 31))
    assert [feature.shape[-2:] for feature in features.values()] == [(17, 16), (9, 8), (5, 4), (3, 2)]

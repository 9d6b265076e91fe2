from __future__ import annotations

from typing import get_args

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from distill.models import DuplexUNet
from distill.models.duplex_unet import Fusion
from distill.taps import FeatureTaps

LAYERS = [f"fuse.{stage}" for stage in range(5)]
SMALL = (8, 8, 8, 8, 4)


def test_a_student_is_the_unet_of_the_library() -> None:
    reference = smp.Unet("tu-resnet10t", encoder_weights=None, classes=3, decoder_channels=SMALL)
    student = DuplexUNet(3, "tu-resnet10t", decoder_channels=SMALL)
    student.load_state_dict(reference.state_dict())
    image = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        prediction, features = FeatureTaps(student.eval(), LAYERS)(image)
        torch.testing.assert_close(prediction, reference.eval()(image))
        torch.testing.assert_close([*features.values()], reference.encoder(image)[1:])


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_fusion_keeps_the_channels_of_the_encoder(fusion: Fusion) -> None:
    teacher = DuplexUNet(3, "tu-resnet10t", 2, fusion, SMALL)
    image, x = torch.randn(2, 3, 64, 64), torch.randn(2, 2, 64, 64)
    prediction, features = FeatureTaps(teacher, LAYERS)(image, x)
    assert [feature.shape[1] for feature in features.values()] == teacher.encoder.out_channels[1:]
    prediction.mean().backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())


def test_add_sums_what_the_two_encoders_return() -> None:
    teacher = DuplexUNet(3, "tu-resnet10t", 1, decoder_channels=SMALL).eval()
    image, x = torch.randn(1, 3, 64, 64), torch.randn(1, 1, 64, 64)
    _, features = FeatureTaps(teacher, LAYERS)(image, x)
    assert teacher.x_encoder is not None
    expected = [a + b for a, b in zip(teacher.encoder(image)[1:], teacher.x_encoder(x)[1:], strict=True)]
    torch.testing.assert_close([*features.values()], expected)


@pytest.mark.parametrize(("bias", "share"), [(-100.0, 0.0), (0.0, 0.5), (100.0, 1.0)])
def test_a_gate_lets_through_a_share_of_x(bias: float, share: float) -> None:
    fuse = DuplexUNet(3, "tu-resnet10t", 1, "gate", SMALL).fuse[1]
    assert isinstance(fuse.gate, nn.Conv2d)
    assert fuse.gate.bias is not None
    nn.init.zeros_(fuse.gate.weight)
    nn.init.constant_(fuse.gate.bias, bias)
    image, x = torch.randn(2, 1, 64, 4, 4).unbind()
    torch.testing.assert_close(fuse(image, x), image + share * x)


def test_concat_is_a_normalised_projection_of_both() -> None:
    fuse = DuplexUNet(3, "tu-resnet10t", 1, "concat", SMALL).fuse[1].double()
    image, x = torch.randn(2, 3, 64, 4, 4, dtype=torch.float64).unbind()
    weight = fuse.get_parameter("project.0.weight")[:, :, 0, 0]
    mixed = torch.einsum("oc,nchw->nohw", weight, torch.cat([image, x], 1))
    deviation = mixed - mixed.mean((0, 2, 3), keepdim=True)
    expected = deviation / (deviation.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(fuse(image, x), expected.clamp(min=0))


def test_the_encoder_of_x_gets_unit_variance_whatever_the_unit() -> None:
    teacher = DuplexUNet(3, "tu-resnet10t", 2, decoder_channels=SMALL)
    assert teacher.x_encoder is not None
    heard: list[Tensor] = []
    teacher.x_encoder[1].register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0]))
    millimetres = 20_000 + 5_000 * torch.randn(4, 2, 64, 64)
    teacher(torch.randn(4, 3, 64, 64), millimetres)
    torch.testing.assert_close(heard[0].mean((0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(heard[0].std((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_an_encoder_without_a_feature_at_stride_2_can_be_fused(fusion: Fusion) -> None:
    teacher = DuplexUNet(3, "mit_b0", 1, fusion, SMALL)
    prediction, features = FeatureTaps(teacher, LAYERS)(torch.randn(2, 3, 64, 64), torch.randn(2, 1, 64, 64))
    assert prediction.shape == (2, 3, 64, 64)
    assert [feature.shape[1] for feature in features.values()] == [0, 32, 64, 160, 256]


def test_fewer_widths_make_shallower_encoders() -> None:
    teacher = DuplexUNet(3, "tu-resnet10t", 1, decoder_channels=(8, 8, 4))
    assert len(teacher.fuse) == 3
    assert teacher(torch.randn(2, 3, 20, 30), torch.randn(2, 1, 20, 30)).shape == (2, 3, 20, 30)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="fusion must be one of add, concat, gate, got 'sum'"):
        DuplexUNet(3, x_channels=1, fusion="sum")  # type: ignore[arg-type]

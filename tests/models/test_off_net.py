from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch.nn import functional as F

from distill.models import OFFNet
from distill.models.off_net import CrossAttention
from distill.taps import FeatureTaps

LAYERS = ["fuse.1", "fuse.2", "fuse.3", "fuse.4"]


def test_cross_attention_is_that_of_the_paper() -> None:
    fuse = CrossAttention(4).double()
    image, x = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64).unbind()
    weight, bias = fuse.linear.weight[:, :, 0, 0], fuse.linear.bias
    assert bias is not None
    attention = (torch.einsum("oc,nchw->nohw", weight, image + x) + bias[:, None, None]).sigmoid()
    expected = (attention * image + image) + ((1 - attention) * x + x)
    torch.testing.assert_close(fuse(image, x), expected)


@pytest.mark.parametrize(("bias", "image_share", "x_share"), [(100.0, 2, 1), (-100.0, 1, 2), (0.0, 1.5, 1.5)])
def test_cross_attention_gives_to_one_stream_what_it_takes_from_the_other(
    bias: float, image_share: float, x_share: float
) -> None:
    fuse = CrossAttention(4)
    torch.nn.init.zeros_(fuse.linear.weight)
    assert fuse.linear.bias is not None
    torch.nn.init.constant_(fuse.linear.bias, bias)
    image, x = torch.randn(2, 2, 4, 3, 5).unbind()
    torch.testing.assert_close(fuse(image, x), image_share * image + x_share * x)


def test_a_students_features_are_those_of_the_segformer_encoder() -> None:
    torch.manual_seed(0)
    reference = get_encoder("mit_b0", weights=None)
    torch.manual_seed(0)
    student = OFFNet(2, decoder_channels=8).eval()
    image = torch.randn(1, 3, 64, 96)
    _, features = FeatureTaps(student, LAYERS)(image)
    torch.testing.assert_close([*features.values()], reference.eval()(image)[2:])


def test_the_rgb_encoder_goes_on_with_the_fused_feature_and_the_x_encoder_alone() -> None:
    teacher = OFFNet(2, 1, decoder_channels=8).eval()
    image, x = torch.randn(1, 3, 64, 64), torch.randn(1, 1, 64, 64)
    _, features = FeatureTaps(teacher, LAYERS)(image, x)
    assert teacher.x_encoder is not None
    fused = image
    for stage, layer in enumerate(LAYERS):
        x = teacher.x_encoder[stage](x)
        fused = teacher.get_submodule(layer)(teacher.encoder[stage](fused), x)
        torch.testing.assert_close(features[layer], fused)


def test_flat_surfaces_at_different_distances_look_different() -> None:
    teacher = OFFNet(2, 1).eval()
    assert teacher.x_encoder is not None
    near, middle, far = (
        F.normalize(teacher.x_encoder[0](torch.full((1, 1, 64, 64), distance))[0, :, 8, 8], dim=0)
        for distance in (0.5, 1.0, 2.0)
    )
    assert near @ middle < 0.99
    assert middle @ far < 0.99


def test_logits_are_the_upsampled_ones_of_the_decoder_feature() -> None:
    student = OFFNet(3, decoder_channels=8).eval()
    logits, features = FeatureTaps(student, ["decoder"])(torch.randn(1, 3, 50, 70))
    torch.testing.assert_close(
        logits, F.interpolate(student.classifier(features["decoder"]), size=(50, 70), mode="bilinear")
    )


def test_the_smallest_image_is_29_pixels_high_and_wide() -> None:
    student = OFFNet(2, decoder_channels=8).eval()
    assert student(torch.randn(1, 3, 29, 29)).shape == (1, 2, 29, 29)
    with pytest.raises(ValueError, match=r"at least 29 x 29 pixels, got \(28, 64\)"):
        student(torch.randn(1, 3, 28, 64))


def test_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of mit_b0, .*mit_b5, got 'resnet18'"):
        OFFNet(2, encoder_name="resnet18")

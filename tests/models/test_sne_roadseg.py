from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from distill.models import SNERoadSeg
from distill.taps import FeatureTaps

LAYERS = [f"fuse.{stage}" for stage in range(5)]


def count(*modules: nn.Module | None) -> int:
    return sum(parameter.numel() for module in modules if module is not None for parameter in module.parameters())


def test_encoders_have_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        student, teacher = SNERoadSeg(19), SNERoadSeg(19, 1)
        headless = timm.create_model("resnet152", num_classes=0)
    assert count(student.encoder) == count(headless)
    assert count(student.encoder, student.x_encoder) == pytest.approx(58.14e6, rel=0.01)
    assert count(teacher.encoder, teacher.x_encoder) == pytest.approx(116.28e6, rel=0.01)


def test_a_students_features_are_those_of_timm() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("resnet18", pretrained=False, features_only=True)
    torch.manual_seed(0)
    student = SNERoadSeg(2, encoder_name="resnet18", decoder_channels=(4, 4, 4, 4)).eval()
    image = torch.randn(1, 3, 64, 64)
    _, features = FeatureTaps(student, LAYERS)(image)
    torch.testing.assert_close([*features.values()], reference.eval()(image))


def test_the_rgb_encoder_goes_on_with_the_sum_and_the_x_encoder_alone() -> None:
    teacher = SNERoadSeg(2, 1, "resnet10t", decoder_channels=(4, 4, 4, 4)).eval()
    image, x = torch.randn(1, 3, 64, 64), torch.randn(1, 1, 64, 64)
    _, features = FeatureTaps(teacher, LAYERS)(image, x)
    assert teacher.x_encoder is not None
    fused = image
    for stage, layer in enumerate(LAYERS):
        x = teacher.x_encoder[stage](x)
        fused = teacher.encoder[stage](fused) + x
        torch.testing.assert_close(features[layer], fused)


def test_nodes_see_all_before_them_at_their_level_in_the_widths_of_the_paper() -> None:
    with torch.device("meta"):
        columns = SNERoadSeg(2).decoder.columns
    channels = [
        [node.get_parameter("fuse.0.0.weight").shape[1] for node in column.children()] for column in columns.children()
    ]
    assert channels == [
        [2 * 64, 2 * 256, 2 * 512, 2 * 1024],
        [3 * 64, 3 * 256, 3 * 512],
        [4 * 64, 4 * 256],
        [5 * 64],
    ]


def test_logits_are_a_convolution_of_the_upsampled_decoder_feature() -> None:
    student = SNERoadSeg(3, encoder_name="resnet10t", decoder_channels=(4, 4, 4, 4)).eval()
    logits, features = FeatureTaps(student, ["decoder"])(torch.randn(1, 3, 50, 70))
    upsampled = F.interpolate(features["decoder"], size=(50, 70), mode="bilinear")
    torch.testing.assert_close(logits, student.classifier(upsampled))
    assert logits.min() < 0 < logits.max()


@pytest.mark.parametrize("encoder_name", ["resnet18", "resnet50d", "resnet32ts", "seresnet50"])
def test_the_resnets_of_timm_are_cut_into_five_stages(encoder_name: str) -> None:
    with torch.device("meta"):
        teacher = SNERoadSeg(2, 3, encoder_name, decoder_channels=(4, 4, 4, 4))
        assert len(teacher.encoder) == 5
        assert teacher(torch.empty(2, 3, 64, 64), torch.empty(2, 3, 64, 64)).shape == (2, 2, 64, 64)


def test_another_encoder_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"'convnext_atto' has \[4, 8, 16, 32\]"):
        SNERoadSeg(2, encoder_name="convnext_atto")


def test_a_wrong_number_of_widths_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"must be four widths.*got \[8, 8\]"):
        SNERoadSeg(2, encoder_name="resnet10t", decoder_channels=(8, 8))

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models import AdaBins
from distill.models.adabins import MiniViT, bin_centers
from distill.taps import FeatureTaps


def small(**arguments: Any) -> AdaBins:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "bins": 6,
        "decoder_channels": 64,
        "embedding_dim": 8,
        "queries": 4,
        "patch_size": 4,
    } | arguments
    return AdaBins("mobilenetv3_small_050", min_depth=1.0, max_depth=11.0, **sizes).eval()


def test_it_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in AdaBins().parameters())
    assert parameters == pytest.approx(78e6, rel=0.05)


def test_centres_lie_in_the_middle_of_bins_that_follow_on_each_other() -> None:
    centers = bin_centers(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), 2.0, 10.0)
    torch.testing.assert_close(centers, torch.tensor([[4.0, 7.0, 9.0], [2.4, 3.2, 6.8]]))


def test_every_image_has_bins_of_its_own_that_fill_the_range() -> None:
    _, features = FeatureTaps(small(), ["transformer"])(torch.randn(2, 3, 64, 96))
    widths = features["transformer"]
    assert widths.shape == (2, 6)
    assert (widths > 0).all()
    torch.testing.assert_close(widths.sum(1), torch.ones(2))
    assert not torch.allclose(widths[0], widths[1], rtol=1e-6, atol=0)
    centers = bin_centers(widths, 1.0, 11.0)
    assert (centers.diff(dim=1) > 0).all()
    assert ((centers > 1) & (centers < 11)).all()


def test_widths_that_the_relu_closed_share_the_range_equally() -> None:
    transformer = MiniViT(bins=5, channels=8, queries=2, patch_size=2).eval()
    last = transformer.widths[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -1.0)
    widths, _ = transformer(torch.randn(1, 8, 4, 4))
    torch.testing.assert_close(widths, torch.full((1, 5), 0.2))


def test_a_range_attention_map_is_a_1x1_convolution_by_an_output_of_the_transformer() -> None:
    transformer, feature = MiniViT(bins=5, channels=8, queries=3, patch_size=2).eval(), torch.randn(2, 8, 6, 4)
    outputs: list[Tensor] = []
    transformer.layers.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    _, maps = transformer(feature)
    assert outputs[0].shape == (2, 3 * 2, 8)
    for sample in range(2):
        kernels = outputs[0][sample, 1:4, :, None, None]  # the first output is the bins'
        torch.testing.assert_close(maps[[sample]], F.conv2d(transformer.project(feature[[sample]]), kernels))


def test_depth_is_the_upsampled_mean_under_the_probabilities_at_half_size() -> None:
    network = small()
    depth, features = FeatureTaps(network, ["transformer", "logits"])(torch.randn(2, 3, 50, 71))
    assert features["logits"].shape == (2, 6, 25, 36)
    centers = bin_centers(features["transformer"], 1.0, 11.0)
    mean = (features["logits"].softmax(1) * centers[:, :, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(depth, F.interpolate(mean, size=(50, 71), mode="bilinear"))


def test_patches_at_different_places_are_told_apart() -> None:
    transformer = MiniViT(bins=5, channels=8, queries=3, patch_size=2).eval()
    nn.init.zeros_(transformer.embed.weight)
    outputs: list[Tensor] = []
    transformer.layers.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    transformer(torch.randn(1, 8, 6, 4))
    distances = torch.cdist(outputs[0][0], outputs[0][0]) + torch.eye(6)
    assert distances.min() > 1e-2


def test_an_image_with_too_few_patches_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"at least 129 patches of 16 x 16 at half its size, and has 12: take a smaller"
    ):
        small(queries=128, patch_size=16)(torch.randn(1, 3, 64, 208))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_channels": 40}, "decoder_channels must be a multiple of 16, got 40"),
        ({"embedding_dim": 6}, "embedding_dim must be a multiple of the 4 attention heads, got 6"),
    ],
)
def test_widths_that_cannot_be_divided_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models import FlipAveraged
from distill.taps import FeatureTaps


class Ramp(nn.Module):
    """Adds to what it sees the number of the column, which a mirror image does not share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        total: Tensor = self.layer(torch.cat(inputs, 1)).sum(1, keepdim=True)
        return total + torch.arange(float(total.shape[-1]))


def test_the_mean_of_image_and_mirror_image_is_taken_in_eval_mode() -> None:
    image = torch.tensor([10.0, 20.0, 40.0]).view(1, 1, 1, 3)
    # plain: 10, 21, 42; of 40, 20, 10 mirrored: 40, 21, 12, turned back 12, 21, 40
    averaged = FlipAveraged(Ramp()).eval()(image)
    torch.testing.assert_close(averaged.flatten(), torch.tensor([11.0, 21.0, 41.0]))


def test_what_treats_left_and_right_alike_is_left_as_it_is() -> None:
    image = torch.randn(2, 3, 5, 7)
    network = nn.Conv2d(3, 1, 1)
    torch.testing.assert_close(FlipAveraged(network).eval()(image), network(image))


def test_the_network_is_alone_in_training() -> None:
    image = torch.randn(2, 3, 5, 7)
    assert torch.equal(FlipAveraged(Ramp())(image), Ramp()(image))


def test_all_modalities_are_mirrored() -> None:
    image, depth = torch.randn(2, 1, 1, 4, 6)
    together = FlipAveraged(Ramp()).eval()(torch.cat([image, depth], 1))
    assert torch.equal(FlipAveraged(Ramp()).eval()(image, depth), together)


def test_tapped_features_are_those_of_the_image() -> None:
    image = torch.randn(1, 2, 3, 4)
    _, features = FeatureTaps(FlipAveraged(Ramp()).eval(), ["network.layer"])(image)
    assert torch.equal(features["network.layer"], image)

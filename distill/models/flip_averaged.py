"""The mean of a network's predictions for an image and for its mirror image."""

from __future__ import annotations

from torch import Tensor, nn


class FlipAveraged(nn.Module):
    """A network that is asked twice in eval mode, for the image and for its mirror image, and gives the mean.

    The protocol by which monocular depth is often scored, as in BTS (Lee et al., 2019), AdaBins (Bhat et al., CVPR
    2021) and TIE-KD's released code. In training mode it is the network alone, so one and the same module is trained
    and scored; around a teacher, which is always in eval mode, it makes the response better and twice as slow.

    A network of several modalities gets all of them mirrored. Layers to tap and parameters are those of the network
    with ``network.`` before their names; tapped features are those of the image that is not mirrored.

    Args:
        network: Any module of inputs ``(N, c, H, W)`` that returns one value or more for each pixel, which the mirror
            image moves and does not change: depth or logits, not normals or disparity to the right.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction ``(N, *, H, W)`` for inputs ``(N, *, H, W)``."""
        # mirrored first: taps keep what they heard last
        mirrored = None if self.training else self.network(*(modality.flip(-1) for modality in inputs))
        prediction: Tensor = self.network(*inputs)
        return prediction if mirrored is None else (prediction + mirrored.flip(-1)) / 2

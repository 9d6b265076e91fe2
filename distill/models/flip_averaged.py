"""The mean of a network's predictions for an image and for its mirror image."""

from __future__ import annotations

from torch import Tensor, nn


class FlipAveraged(nn.Module):
    """A network that in eval mode returns the mean of its predictions for the image and for its mirror image.

    Monocular depth is often scored so, as in BTS (Lee et al., 2019), AdaBins (Bhat et al., CVPR 2021) and TIE-KD's
    released code. In training mode it is the network alone, so the same module can be trained and scored. Around a
    teacher, which is always in eval mode, it makes the response better and twice as slow.

    If the network takes several modalities, all are mirrored. Layers to tap and parameters have the names of the
    network's with ``network.`` before them; tapped features are those of the original image.

    Args:
        network: A module of inputs ``(N, c, H, W)`` that returns values for each pixel. Mirroring may move these values
            but must not change them: depth or logits, not normals or disparity to the right.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction ``(N, *, H, W)`` for inputs ``(N, *, H, W)``."""
        # mirrored first: taps keep the features of the last call
        mirrored = None if self.training else self.network(*(modality.flip(-1) for modality in inputs))
        prediction: Tensor = self.network(*inputs)
        return prediction if mirrored is None else (prediction + mirrored.flip(-1)) / 2

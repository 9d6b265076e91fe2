"""Depth networks of Hugging Face."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError, UserImportError, UserOSError
from distill.models.duplex import upsampled
from distill.models.monocular import check_depths, check_image

Channels = tuple[float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# the strides of convolutional stages, and of patches of 16 once DPT has halved their grid
USUAL_STRIDE = 32


class HuggingFaceDepth(nn.Module):
    """Any network of ``AutoModelForDepthEstimation`` in transformers, as teacher or student.

    It takes images normalised by ImageNet's mean and standard deviation, as the data modules give them, and normalises
    them anew where the network was trained otherwise. It sees the image resized bilinearly to the nearest multiple of
    its stride: its patch size where that does not divide 32, as the 14 of DINOv2, and 32 elsewhere. Its depth is
    resized bilinearly to the image's own size.

    Metric networks, such as ZoeDepth, GLPN and the metric ones of Depth Anything, answer in metres. Relative ones, such
    as DPT, MiDaS and the other ones of Depth Anything, answer with an inverse depth that is known up to a scale and a
    shift, which nothing in the network tells. They serve with ``inverse=True`` and the two numbers, fitted to a few
    depths of the data set::

        depth = 1 / (scale * answer + shift)

    As a student from random weights take a network whose answer is bounded, as GLPN or Depth Anything with
    ``depth_estimation_type: metric``: that of DPT begins at 0, where the clamp to ``min_depth`` leaves it no gradient.

    DepthPro, whose answer becomes depth only by the focal length in its post-processing, does not serve.

    Weights are read from safetensors alone, and no code of a model's author is run. Layers to tap are those of the
    network with ``network.`` before their names.

    Args:
        name_or_config: A model of the hub or a local folder, whose weights are loaded; or a configuration for random
            weights, with its ``model_type``: what ``to_dict()`` of a ``PretrainedConfig`` returns.
        mean: The channels' means with which the network was trained. By default what the model's own image processor
            says, and ImageNet's where there is none.
        std: The same for the standard deviations.
        inverse: Whether the network answers with inverse depth.
        scale: What the answer is multiplied by before anything else.
        shift: What is added then.
        min_depth: The smallest depth, in metres; smaller ones are set to it.
        max_depth: The largest depth, in metres; larger ones are set to it.

    Raises:
        ImportError: transformers is not installed.
        ValueError: A network of relative depth is used without ``inverse``, one of ``mean`` and ``std`` is given
            without the other, a configuration has no ``model_type``, or the range of depths is empty. From ``forward``:
            the image is not ``(N, 3, H, W)``.
        OSError: There is no such model, or it has no safetensors.
    """

    def __init__(
        self,
        name_or_config: str | dict[str, Any],
        mean: Channels | None = None,
        std: Channels | None = None,
        inverse: bool = False,
        scale: float = 1.0,
        shift: float = 0.0,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
    ) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        if (mean is None) != (std is None):
            raise UserError(f"mean and std must be given together, got {mean} and {std}")
        self.network = _network(name_or_config)
        config = self.network.config
        if getattr(config, "depth_estimation_type", "metric") == "relative" and not inverse:
            raise UserError(
                f"{name_or_config if isinstance(name_or_config, str) else 'the configuration'} is a network of "
                "relative depth, which answers with inverse depth: give inverse=True with scale and shift, or take a "
                "metric network"
            )
        if mean is None or std is None:
            mean, std = (
                _normalization(name_or_config) if isinstance(name_or_config, str) else (IMAGENET_MEAN, IMAGENET_STD)
            )
        self.inverse = inverse
        self.scale = scale
        self.shift = shift
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.stride = _stride(config)
        # of the image as it comes: (ImageNet's std image + ImageNet's mean - mean) / std
        self.gain = [ours / theirs for ours, theirs in zip(IMAGENET_STD, std, strict=True)]
        self.offset = [(ours - theirs) / s for ours, theirs, s in zip(IMAGENET_MEAN, mean, std, strict=True)]
        # the mode in which the weights came tells a loaded network from a random one
        self.train(self.network.training)

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(N, 1, H, W)`` in metres for ``(N, 3, H, W)``, normalised by ImageNet's mean and deviation."""
        check_image(image)
        gain, offset = image.new_tensor([self.gain, self.offset]).view(2, 1, 3, 1, 1)
        size = [max(round(side / self.stride), 1) * self.stride for side in image.shape[-2:]]
        pixels = F.interpolate(gain * image + offset, size=size, mode="bilinear", align_corners=False)
        answer: Tensor = self.network(pixel_values=pixels).predicted_depth
        if answer.dim() == 3:
            answer = answer.unsqueeze(1)
        value = self.scale * answer.float() + self.shift
        if self.inverse:
            value = value.clamp(min=1 / self.max_depth).reciprocal()
        return upsampled(value, image).clamp(self.min_depth, self.max_depth)


def _network(name_or_config: str | dict[str, Any]) -> Any:
    """The network with its weights, in eval mode; or with random ones, in training mode."""
    try:
        import transformers
    except ImportError:
        raise UserImportError("HuggingFaceDepth needs transformers: pip install 'crossdistill[hf]'") from None
    models: Any = transformers.AutoModelForDepthEstimation
    if isinstance(name_or_config, str):
        try:
            return models.from_pretrained(name_or_config, use_safetensors=True)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UserOSError(f"{name_or_config} is no depth network with safetensors: {reason}") from None
    if "model_type" not in name_or_config:
        raise UserError(f"the configuration of a network needs its model_type, got {sorted(name_or_config)}")
    return models.from_config(transformers.AutoConfig.for_model(**name_or_config)).train()


def _normalization(name: str) -> tuple[Channels, Channels]:
    """The mean and standard deviation that a model's image processor takes."""
    import transformers

    processors: Any = transformers.AutoImageProcessor
    try:
        processor = processors.from_pretrained(name)
    except OSError:  # a folder of weights alone
        return IMAGENET_MEAN, IMAGENET_STD
    if not getattr(processor, "do_normalize", False):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(processor.image_mean), tuple(processor.image_std)


def _stride(config: Any) -> int:
    """What the height and width of the image have to be a multiple of."""
    backbone = getattr(config, "backbone_config", None) or config
    patch_size = getattr(backbone, "patch_size", None) or USUAL_STRIDE
    if not isinstance(patch_size, int):  # hybrid: convolutions before the patches
        return USUAL_STRIDE
    return USUAL_STRIDE if USUAL_STRIDE % patch_size == 0 else patch_size

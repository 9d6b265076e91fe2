"""Depth networks of Hugging Face."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError, UserImportError, UserOSError
from distill.models.duplex import upsampled
from distill.models.monocular import check_depths, check_image
from distill.weight_files.hub import hub_name
from distill.weight_files.reading import is_of_hub

Channels = tuple[float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# the stride of convolutional stages, and of patches of 16 after DPT has halved their grid
USUAL_STRIDE = 32


class HuggingFaceDepth(nn.Module):
    """Any network of ``AutoModelForDepthEstimation`` in transformers, as teacher or student.

    It takes images normalised by ImageNet's mean and standard deviation, as from the data modules, and changes the
    normalisation if the network was trained with another one. The image is resized bilinearly to the nearest multiple
    of the network's stride. The stride is the patch size if that does not divide 32 (14 in DINOv2), and 32 otherwise.
    The depth is resized bilinearly to the image's own size.

    Metric networks, such as ZoeDepth, GLPN and the metric ones of Depth Anything, return metres. Relative networks,
    such as DPT, MiDaS and the other ones of Depth Anything, return inverse depth up to an unknown scale and shift. They
    need ``inverse=True`` and these two numbers, fitted to a few depths of the data set::

        depth = 1 / (scale * output + shift)

    A student with random weights needs a network whose output is bounded, such as GLPN or Depth Anything with
    ``depth_estimation_type: metric``. DPT's output starts at 0, where the clamp to ``min_depth`` leaves no gradient.

    DepthPro cannot be used: its post-processing needs the focal length to compute depth.

    Weights are read from safetensors only, and no code of a model's author is run. Layers to tap have the names of the
    network's with ``network.`` before them.

    Args:
        name_or_config: A model of the hub (``owner/name``) or a local folder, whose weights are loaded; or a
            configuration for random weights, with its ``model_type``: what ``to_dict()`` of a ``PretrainedConfig``
            returns.
        mean: The channels' means with which the network was trained, by default those of the model's image processor,
            or ImageNet's if there is none.
        std: The same for the standard deviations.
        inverse: Whether the network returns inverse depth.
        scale: The output is first multiplied by this number.
        shift: This number is then added.
        min_depth: The smallest depth, in metres; smaller depths are set to it.
        max_depth: The largest depth, in metres; larger depths are set to it.
        pretrained: Whether to load the weights of the model that ``name_or_config`` names. Or the model itself instead
            of ``name_or_config``: a name of the hub or a local folder.

    Raises:
        ImportError: transformers is not installed.
        ValueError: There is no model, or there are two. A network of relative depth is used without ``inverse``, one
            of ``mean`` and ``std`` is given without the other, a configuration has no ``model_type``, or the range of
            depths is empty. From ``forward``: the image is not ``(N, 3, H, W)``.
        OSError: There is no such model, or it has no safetensors.
    """

    def __init__(
        self,
        name_or_config: str | dict[str, Any] | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        inverse: bool = False,
        scale: float = 1.0,
        shift: float = 0.0,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        pretrained: bool | str = True,
    ) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        if (mean is None) != (std is None):
            raise UserError(f"mean and std must be given together, got {mean} and {std}")
        name_or_config = _model(name_or_config, pretrained)
        self.network = _network(name_or_config if pretrained else _configuration(name_or_config))
        config = self.network.config
        if getattr(config, "depth_estimation_type", "metric") == "relative" and not inverse:
            raise UserError(
                f"{name_or_config if isinstance(name_or_config, str) else 'the configuration'} is a network of "
                "relative depth, which returns inverse depth: give inverse=True with scale and shift, or take a "
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
        # for the normalised image: (ImageNet's std image + ImageNet's mean - mean) / std
        self.gain = [imagenet / own for imagenet, own in zip(IMAGENET_STD, std, strict=True)]
        self.offset = [(imagenet - own) / s for imagenet, own, s in zip(IMAGENET_MEAN, mean, std, strict=True)]
        # the mode tells a network with loaded weights from one with random weights
        self.train(self.network.training)

    def forward(self, image: Tensor) -> Tensor:
        """Depth ``(N, 1, H, W)`` in metres for ``(N, 3, H, W)``, normalised by ImageNet's mean and deviation."""
        check_image(image)
        gain, offset = image.new_tensor([self.gain, self.offset]).view(2, 1, 3, 1, 1)
        size = [max(round(side / self.stride), 1) * self.stride for side in image.shape[-2:]]
        pixels = F.interpolate(gain * image + offset, size=size, mode="bilinear", align_corners=False)
        output: Tensor = self.network(pixel_values=pixels).predicted_depth
        if output.dim() == 3:
            output = output.unsqueeze(1)
        value = self.scale * output.float() + self.shift
        if self.inverse:
            value = value.clamp(min=1 / self.max_depth).reciprocal()
        return upsampled(value, image).clamp(self.min_depth, self.max_depth)


def _model(name_or_config: str | dict[str, Any] | None, pretrained: bool | str) -> str | dict[str, Any]:
    """The name, the folder or the configuration of a network."""
    if isinstance(pretrained, str):
        name_or_config, other = pretrained, name_or_config
        if other is not None:
            raise UserError(f"pretrained {pretrained!r} is a model of its own: leave out name_or_config")
    if name_or_config is None:
        raise UserError("HuggingFaceDepth has no model: give pretrained, a name of the hub or a local folder")
    return name_or_config


def _configuration(name_or_config: str | dict[str, Any]) -> dict[str, Any]:
    """The configuration of a network, without its weights."""
    if not isinstance(name_or_config, str):
        return name_or_config
    try:
        config: dict[str, Any] = _transformers().AutoConfig.from_pretrained(**_place(name_or_config)).to_dict()
    except OSError as error:
        raise UserOSError(f"{name_or_config} has no configuration: {str(error).splitlines()[0]}") from None
    return config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserImportError("HuggingFaceDepth needs transformers: pip install 'crossdistill[hf]'") from None
    return transformers


def _place(name: str) -> dict[str, Any]:
    """Where a model lies, as arguments of transformers."""
    if not is_of_hub(name):
        return {"pretrained_model_name_or_path": name}
    found = hub_name(name)
    return {"pretrained_model_name_or_path": found.repository, "revision": found.revision or "main"}


def _network(name_or_config: str | dict[str, Any]) -> Any:
    """The network with its weights, in eval mode; or with random ones, in training mode."""
    transformers = _transformers()
    models = transformers.AutoModelForDepthEstimation
    if isinstance(name_or_config, str):
        try:
            return models.from_pretrained(use_safetensors=True, **_place(name_or_config))
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UserOSError(f"{name_or_config} is no depth network with safetensors: {reason}") from None
    if "model_type" not in name_or_config:
        raise UserError(f"the configuration of a network needs its model_type, got {sorted(name_or_config)}")
    return models.from_config(transformers.AutoConfig.for_model(**name_or_config)).train()


def _normalization(name: str) -> tuple[Channels, Channels]:
    """The mean and standard deviation that a model's image processor takes."""
    try:
        processor = _transformers().AutoImageProcessor.from_pretrained(**_place(name))
    except OSError:  # a folder of weights alone
        return IMAGENET_MEAN, IMAGENET_STD
    if not getattr(processor, "do_normalize", False):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(processor.image_mean), tuple(processor.image_std)


def _stride(config: Any) -> int:
    """The number that must divide the height and the width of the image."""
    backbone = getattr(config, "backbone_config", None) or config
    patch_size = getattr(backbone, "patch_size", None) or USUAL_STRIDE
    if not isinstance(patch_size, int):  # hybrid: convolutions before the patches
        return USUAL_STRIDE
    return USUAL_STRIDE if USUAL_STRIDE % patch_size == 0 else patch_size

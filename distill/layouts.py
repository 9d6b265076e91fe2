"""Where the channels of a feature lie: learned from the kinds of layers that a network runs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from distill.errors import UserError

Layout = Literal["channels_first", "channels_last", "tokens"]
"""``(N, C, *)``, ``(N, *, C)``, or ``(N, L, C)`` with the positions of an image after class and register tokens."""

MOST_PREFIX_TOKENS = 16
"""A network has at most this number of class and register tokens, unless the layout is given."""

FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle),
)
"""Layers that take ``(N, C, *)``."""

LAST = (nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
"""Layers whose channels are the last dim."""

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Layers whose channels are the last dim, except in some subclasses, such as the LayerNorm2d of timm."""


class FeatureLayout(NamedTuple):
    """Where the channels and the positions of a layer's output lie.

    ``prefix`` is the number of class and register tokens before the positions. ``grid`` holds the sizes of the map that
    tokens fill, for an image of the size ``image``; both are empty where they are unknown.
    """

    layout: Layout
    prefix: int = 0
    grid: tuple[int, ...] = ()
    image: tuple[int, ...] = ()

    def with_channels_first(self, feature: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """The feature as ``(N, C, *)``: a view. Tokens become a map without class tokens; one token becomes ``(N, C)``.

        Args:
            feature: The layer's output.
            inputs: The inputs of the network, whose size tells that of the map.

        Raises:
            ValueError: The tokens do not fill a map.
        """
        if feature.ndim < 3 or self.layout == "channels_first":
            return feature
        if self.layout == "channels_last":
            return feature.movedim(-1, 1)
        if not self.grid and feature.shape[1] == 1:
            return feature[:, 0]
        positions = feature[:, self.prefix :]
        on_map: Tensor = positions.mT.unflatten(2, self._grid(positions.shape[1], _image(inputs)))
        return on_map

    def _grid(self, positions: int, image: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the map for this number of positions: in the proportions of the image."""
        if image == self.image and math.prod(self.grid) == positions:
            return self.grid
        before = self.grid[:-2]
        scaled = [size * now / once for size, now, once in zip(self.grid[-2:], image, self.image, strict=False)]
        for sizes in product(*((round(size), math.floor(size), math.ceil(size)) for size in scaled)):
            if sizes and math.prod((*before, *sizes)) == positions:
                return (*before, *sizes)
        raise UserError(
            f"{positions} tokens do not fill a map for an image of {image}, as {math.prod(self.grid)} tokens fill "
            f"{self.grid} for one of {self.image}"
        )


class _Sighting(NamedTuple):
    """A tensor that a layer of a known kind took or returned, and whether its channels are the last dim."""

    step: int
    tensor: weakref.ref[Tensor]
    shape: tuple[int, ...]
    last: bool

    @property
    def channels(self) -> int:
        return self.shape[-1 if self.last else 1]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.shape[1:-1] if self.last else self.shape[2:]


class LayoutObserver:
    """Watches the layers of known kinds while a network runs, and finds the layouts of named layers from them.

    The channels of a convolution are dim 1, those of a linear layer the last dim. A layer of another kind has the
    layout of the layer that returned its output or takes it next; or that of the layers in it, and then of those around
    it, with an output of the same shape; or with an output of the same positions and channels. A network without any
    layer of a known kind has its channels on dim 1, as is the rule in torch. Tokens are positions of an image if a
    layer before, such as the embedding of patches, has a map with their number, except for some class tokens.

    Args:
        network: The network.
        layers: The layers by name.
        option: The name of the user's option for layouts, for errors.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, nn.Module], option: str) -> None:
        self.network = network
        self.layers = layers
        self.option = option
        self._sightings: list[_Sighting] = []
        self._steps: dict[str, tuple[int, int]] = {}
        self._step = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the network within this context."""
        with ExitStack() as hooks:
            for layer, module in self.layers.items():
                hooks.enter_context(module.register_forward_pre_hook(partial(self._enter, layer)))
            for module in self.network.modules():
                if isinstance(module, (*FIRST, *LAST, *NORMS)):
                    hooks.enter_context(module.register_forward_hook(self._see))
            for layer, module in self.layers.items():
                hooks.enter_context(module.register_forward_hook(partial(self._leave, layer)))
            yield

    def layout_of(self, layer: str, feature: Tensor, inputs: Sequence[Tensor], given: Layout | None) -> FeatureLayout:
        """The layout of a layer's output.

        Args:
            layer: The name of the layer.
            feature: Its output, the tensor that the network itself went on with.
            inputs: The inputs of the network.
            given: The layout, if the user says it.

        Raises:
            ValueError: The layout is ambiguous, or the given one does not fit.
        """
        if feature.ndim < 3 or not feature.numel():
            return FeatureLayout("channels_first")
        if given == "tokens":
            if feature.ndim != 3:
                raise UserError(f"tokens have the shape (N, L, C), but layer {layer!r} returns {tuple(feature.shape)}")
            return self._on_a_map(layer, feature, inputs, feature.shape[1]) or _largest_map(feature, inputs)
        if given is not None:
            return FeatureLayout(given)
        last = self._is_last(layer, feature)
        if last is None:
            options = (
                "channels_first, channels_last or tokens" if feature.ndim == 3 else "channels_first or channels_last"
            )
            raise UserError(
                f"it is not clear which dim of layer {layer!r} of {type(self.network).__name__}, which returns "
                f"{tuple(feature.shape)}, is that of the channels: give {self.option} {options}"
            )
        if last and feature.ndim == 3:
            return self._of_tokens(layer, feature, inputs)
        return FeatureLayout("channels_last" if last else "channels_first")

    def _enter(self, layer: str, module: nn.Module, inputs: Any) -> None:
        self._steps[layer] = (self._step, self._step)

    def _leave(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._steps[layer] = (self._steps[layer][0], self._step)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._step += 1
        taken = () if isinstance(module, nn.Embedding) else inputs[:1]  # not the indices
        for tensor in (*taken, output[0] if isinstance(output, tuple) else output):
            last = _last_by_kind(module, tensor) if isinstance(tensor, Tensor) and tensor.ndim > 2 else None
            if last is not None:
                self._sightings.append(_Sighting(self._step, weakref.ref(tensor), tuple(tensor.shape), last))

    def _is_last(self, layer: str, feature: Tensor) -> bool | None:
        """Whether the channels are the last dim; None if the layers do not agree, or are of no known kind."""
        own = _last_by_kind(self.layers[layer], feature)
        if own is not None:
            return own
        start, end = self._steps[layer]
        shape = tuple(feature.shape)
        passed = [sighting for sighting in self._sightings if sighting.tensor() is feature]
        within = [sighting for sighting in self._sightings if start < sighting.step <= end]
        groups = [passed]
        if len(set(shape[1:])) > 1:
            groups += [[one for one in group if one.shape == shape] for group in (within, self._sightings)]
        elif within and all(sighting.last for sighting in within):  # the shape is the same in both layouts
            return True
        for group in groups:
            answers = {sighting.last for sighting in group}
            if len(answers) == 1:
                return answers.pop()
        for group in (within, self._sightings):
            answers = {last for sighting in group for last in _reshaped(sighting, shape)}
            if len(answers) == 1:
                return answers.pop()
        return self._is_last_by_network(layer, feature)

    def _is_last_by_network(self, layer: str, feature: Tensor) -> bool | None:
        """What timm's networks say of their maps; or what all layers of known kinds agree in."""
        names = layer.split(".")
        for depth in range(len(names), -1, -1):
            module = self.network.get_submodule(".".join(names[:depth]))
            output_format = getattr(module, "output_fmt", None)
            if feature.ndim == 4 and output_format in ("NHWC", "NCHW"):
                return bool(output_format == "NHWC")
        answers = {sighting.last for sighting in self._sightings} or {False}
        return answers.pop() if len(answers) == 1 else None

    def _of_tokens(self, layer: str, feature: Tensor, inputs: Sequence[Tensor]) -> FeatureLayout:
        """The layout of ``(N, L, C)``: tokens on a map, or a sequence if the network has no image."""
        if len(feature) != len(inputs[0]) == feature.shape[1]:
            raise UserError(
                f"layer {layer!r} returns {tuple(feature.shape)}, but its first dim must be that of the samples: build "
                "the network with batch_first=True"
            )
        layout = self._on_a_map(layer, feature, inputs, MOST_PREFIX_TOKENS)
        if layout is not None:
            return layout
        image = _image(inputs)
        if not image and not any(len(sighting.shape) > 3 for sighting in self._sightings):
            return FeatureLayout("channels_last")
        guess = _largest_map(feature, inputs)  # as of patches that a linear layer embeds
        flat = image and all(values.ndim < 5 for values in inputs)
        if flat and guess.prefix < 2 and not any(size % part for size, part in zip(image, guess.grid, strict=True)):
            return guess
        raise UserError(
            f"it is not clear which of the {feature.shape[1]} tokens of layer {layer!r} of "
            f"{type(self.network).__name__} are positions of an image: give {self.option} tokens if the last ones are, "
            "else channels_last"
        )

    def _on_a_map(self, layer: str, feature: Tensor, inputs: Sequence[Tensor], most: int) -> FeatureLayout | None:
        """The layout of tokens that fill a map of a layer before, but for ``most`` class tokens; None without one."""
        samples, tokens, channels = feature.shape
        _, end = self._steps[layer]
        maps = [one for one in self._sightings if len(one.shape) > 3 and one.shape[0] == samples and one.step <= end]
        if tokens == 1 and (maps or _image(inputs)):
            return FeatureLayout("tokens")
        fitting = [one for one in maps if 0 <= tokens - math.prod(one.sizes) <= most]
        if fitting:
            # of several maps the one that leaves the fewest class tokens, then one with the same channels
            best = min(fitting, key=lambda one: (tokens - math.prod(one.sizes), one.channels != channels, -one.step))
            return FeatureLayout("tokens", tokens - math.prod(best.sizes), best.sizes, _image(inputs))
        lengths = {one.shape[1] for one in self._sightings if len(one.shape) == 3 and one.last}
        for one in maps:  # merged tokens, as in Swin, have more channels and half the height and width
            if math.prod(one.sizes) in lengths and one.channels != channels:
                grid = one.sizes
                while math.prod(grid) > tokens and max(grid[-2:]) > 1:
                    grid = (*grid[:-2], *(-(-size // 2) for size in grid[-2:]))
                if math.prod(grid) == tokens:
                    return FeatureLayout("tokens", 0, grid, _image(inputs))
        return None


def _last_by_kind(module: nn.Module, tensor: Tensor) -> bool | None:
    """Whether a layer of a known kind takes and returns its channels as the last dim; None for other kinds."""
    if isinstance(module, FIRST):
        return False
    if isinstance(module, NORMS):
        size = module.normalized_shape[-1]
        if len(module.normalized_shape) > 1:
            return None
        if type(module) in NORMS:
            return True
        first, last = tensor.shape[1] == size, tensor.shape[-1] == size
        return None if first == last else last
    return True if isinstance(module, LAST) else None


def _reshaped(sighting: _Sighting, shape: tuple[int, ...]) -> Iterable[bool]:
    """The layouts in which a tensor of another shape has the positions and the channels of one that was seen."""
    for last, channels, sizes in ((False, shape[1], shape[2:]), (True, shape[-1], shape[1:-1])):
        if (channels, math.prod(sizes)) == (sighting.channels, math.prod(sighting.sizes)):
            yield last


def _image(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """The height and the width of the first input that has both; empty if none has."""
    return next((tuple(values.shape[-2:]) for values in inputs if values.ndim > 3), ())


def _largest_map(feature: Tensor, inputs: Sequence[Tensor]) -> FeatureLayout:
    """The largest map in the proportions of an image that tokens can fill; a square one if there is none."""
    tokens, image = feature.shape[1], _image(inputs)
    divisor = math.gcd(*image)
    height, width = (size // divisor for size in image) if image else (1, 1)
    if height * width > tokens:
        height, width = 1, 1
    times = math.isqrt(tokens // (height * width))
    grid = height * times, width * times
    return FeatureLayout("tokens", tokens - math.prod(grid), grid, image)

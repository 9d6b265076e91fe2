"""Where the channels of a feature lie: learned from the kinds of layers that a network runs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from distill.errors import UserError

Layout = Literal["channels_first", "channels_last", "tokens"]
"""``(N, C, *)``, ``(N, *, C)``, or ``(N, L, C)`` with the positions of an image after class and register tokens.

The positions of an image come row by row.
"""

PREFIXES = (1, 2, 5)
"""Numbers of tokens before the positions: class; and distillation; or 4 registers. A network may name another one."""

CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d

FIRST = (
    *CONVOLUTIONS,
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
            inputs: The inputs of the network that are tensors, whose size tells that of the map.

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

    @property
    def positions(self) -> int:
        return math.prod(self.sizes)


class LayoutObserver:
    """Watches the layers of known kinds while a network runs, and finds the layouts of named layers from them.

    The channels of a convolution are dim 1, those of a linear layer the last dim. A layer of another kind has the
    layout of the layer that returned its output or takes it next; or that of the layers in it, and then of those around
    it, with an output of the same shape; or with an output of the same positions and channels. A network without any
    layer of a known kind has its channels on dim 1, as is the rule in torch. Tokens are positions of an image if a
    layer before, such as the embedding of patches, has a map with their number, except for some class tokens; or if a
    layer takes all values of the image as that number of square patches. They are a sequence if there is no image, if
    an input has their number, or if it is the height or the width of a map whose other dim was averaged or became
    channels. In all other cases :meth:`layout_of` asks. Tokens are taken to come row by row: of other orders only those
    of Hiera and NesT are known.

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
        self._taken: dict[str, set[bool]] = {}
        self._contested: set[int] = set()
        self._equal_tokens: dict[int, list[bool]] = {}
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

    def layout_of(
        self, layer: str, feature: Tensor, inputs: Sequence[Tensor], given: Layout | None, samples: int
    ) -> FeatureLayout:
        """The layout of a layer's output.

        Args:
            layer: The name of the layer.
            feature: Its output, the tensor that the network itself went on with.
            inputs: The inputs of the network that are tensors.
            given: The layout, if the user says it.
            samples: The number of samples.

        Raises:
            ValueError: The layout is ambiguous, its first dim is not that of the samples, or the given one does not
                fit.
        """
        if feature.ndim and len(feature) != samples:
            raise UserError(
                f"layer {layer!r} returns {tuple(feature.shape)}, but its first dim must be that of the "
                f"{samples} samples: name a layer around it, or build the network with batch_first=True"
            )
        if feature.ndim < 3 or not feature.numel():
            return FeatureLayout("channels_first")
        if given == "tokens":
            if feature.ndim != 3:
                raise UserError(f"tokens have the shape (N, L, C), but layer {layer!r} returns {tuple(feature.shape)}")
            return self._on_a_map(layer, feature, inputs, range(feature.shape[1])) or _largest_map(feature, inputs)
        if given is not None:
            return FeatureLayout(given)
        last = self._is_last(layer, feature)
        if last is None:
            raise self._unclear(layer, feature)
        if last and feature.ndim == 3:
            return self._of_tokens(layer, feature, inputs)
        if last:
            self._check_map(layer, feature, inputs)
        return FeatureLayout("channels_last" if last else "channels_first")

    def _unclear(self, layer: str, feature: Tensor) -> UserError:
        options = "channels_first, channels_last or tokens" if feature.ndim == 3 else "channels_first or channels_last"
        return UserError(
            f"it is not clear which dim of layer {layer!r} of {type(self.network).__name__}, which returns "
            f"{tuple(feature.shape)}, is that of the channels: give {self.option} {options}"
        )

    def _enter(self, layer: str, module: nn.Module, inputs: Any) -> None:
        self._steps[layer] = (self._step, self._step)

    def _leave(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._steps[layer] = (self._steps[layer][0], self._step)
        first = inputs[0] if inputs else None
        self._taken[layer] = {sighting.last for sighting in self._sightings if sighting.tensor() is first}

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._step += 1
        taken = () if isinstance(module, nn.Embedding) else inputs[:1]  # not the indices
        for tensor in taken:
            if isinstance(tensor, Tensor) and tensor.ndim == 3 and len(tensor) > 1:
                # before layers mix the tokens, those that are parameters are the same in all samples
                equal = (tensor == tensor[:1]).all(2).all(0)
                constant = (tensor == tensor[:, :1]).all()  # as after a normalisation whose weights start with 0
                self._equal_tokens.setdefault(tensor.shape[1], [] if constant else equal.tolist())
        for tensor in (*taken, output[0] if isinstance(output, tuple) else output):
            last = _last_by_kind(module, tensor) if isinstance(tensor, Tensor) and tensor.ndim > 2 else None
            if last is not None:
                others = [one for one in self._sightings if one.tensor() is tensor and one.last != last]
                self._contested.update(one.step for one in others)
                if others:
                    self._contested.add(self._step)
                self._sightings.append(_Sighting(self._step, weakref.ref(tensor), tuple(tensor.shape), last))

    def _is_last(self, layer: str, feature: Tensor) -> bool | None:
        """Whether the channels are the last dim; None if the layers do not agree, or are of no known kind."""
        if isinstance(self.layers[layer], CONVOLUTIONS):
            return False
        start, end = self._steps[layer]
        shape = tuple(feature.shape)
        passed = {sighting.last for sighting in self._sightings if sighting.tensor() is feature}
        if isinstance(self.layers[layer], (*LAST, *NORMS)):
            passed |= self._taken[layer]  # a linear layer over the positions takes what has its channels on dim 1
        if passed:
            return passed.pop() if len(passed) == 1 else None
        agreed = self._agreed()
        within = [sighting for sighting in agreed if start < sighting.step <= end]
        groups = []
        if len(set(shape[1:])) > 1:
            groups = [[one for one in group if one.shape == shape] for group in (within, agreed)]
        elif within and all(sighting.last for sighting in within) and self._taken[layer] == {True}:
            return True  # the shape is the same in both layouts
        for group in groups:
            answers = {sighting.last for sighting in group}
            if len(answers) == 1:
                return answers.pop()
        for group in (within, agreed):
            answers = {last for sighting in group for last in _reshaped(sighting, shape)}
            if len(answers) == 1:
                return answers.pop()
        return self._is_last_by_network(layer, feature)

    def _agreed(self) -> list[_Sighting]:
        """What was seen, without layers that disagree on one tensor, such as a linear layer over width or time."""
        return [sighting for sighting in self._sightings if sighting.step not in self._contested]

    def _is_last_by_network(self, layer: str, feature: Tensor) -> bool | None:
        """What timm's networks say of their maps; or what all layers of known kinds agree in."""
        for module in self._around(layer):
            output_format = getattr(module, "output_fmt", None)
            if feature.ndim == 4 and output_format in ("NHWC", "NCHW"):
                return bool(output_format == "NHWC")
        answers = {sighting.last for sighting in self._agreed()} or {False}
        return answers.pop() if len(answers) == 1 else None

    def _of_tokens(self, layer: str, feature: Tensor, inputs: Sequence[Tensor]) -> FeatureLayout:
        """The layout of ``(N, L, C)``: tokens on a map, or a sequence if the network has no image."""
        tokens = feature.shape[1]
        if not _image(inputs) and not any(len(sighting.shape) > 3 for sighting in self._sightings):
            return FeatureLayout("channels_last")
        layout = self._on_a_map(layer, feature, inputs, self._prefixes(layer))
        layout = layout or self._of_patches(layer, feature, inputs)
        is_sequence = tokens in {values.shape[1] for values in inputs if values.ndim == 3}
        if layout is None or layout.prefix:
            is_sequence = is_sequence or self._is_collapsed(tokens)
        if layout is None and is_sequence:
            return FeatureLayout("channels_last")
        self._check_order(layer)
        if layout is None or is_sequence or self._has_other_tokens(feature, inputs):
            raise UserError(
                f"it is not clear which of the {tokens} tokens of layer {layer!r} of {type(self.network).__name__} are "
                f"positions of an image: give {self.option} tokens if the last ones are, else channels_last"
            )
        equal = self._equal_tokens.get(tokens, [])
        if layout.prefix and any(equal) and not all(equal[: layout.prefix]):
            raise UserError(
                f"the class tokens of layer {layer!r} of {type(self.network).__name__} do not come before the "
                f"positions of the image: give {self.option} channels_last, or name a layer that has no class token"
            )
        return layout

    def _is_collapsed(self, tokens: int) -> bool:
        """Whether tokens are the rows or columns of a map whose other dim was averaged, or became channels."""
        first = next(
            (one for one in self._sightings if len(one.shape) == 3 and one.last and one.shape[1] == tokens), None
        )
        return first is not None and any(
            size == tokens and first.channels in (one.channels, one.channels * one.positions // size)
            for one in self._sightings
            if len(one.shape) > 3 and not one.last and one.positions > tokens
            for size in one.sizes
        )

    def _has_other_tokens(self, feature: Tensor, inputs: Sequence[Tensor]) -> bool:
        """Whether tokens can be those of two maps, or are parameters, such as the queries of a decoder."""
        _, tokens, channels = feature.shape
        maps = [one for one in self._sightings if len(one.shape) > 3 and not one.last and one.channels == channels]
        two_maps = any(one.positions + other.positions == tokens for one, other in combinations(maps, 2))
        differ = any((values != values[:1]).any() for values in inputs)
        return two_maps or (differ and all(self._equal_tokens.get(tokens) or [False]))

    def _on_a_map(
        self, layer: str, feature: Tensor, inputs: Sequence[Tensor], prefixes: Container[int]
    ) -> FeatureLayout | None:
        """The layout of tokens that fill a map of a layer before, but for some class tokens; None without one."""
        samples, tokens, channels = feature.shape
        _, end = self._steps[layer]
        maps = [one for one in self._sightings if len(one.shape) > 3 and one.shape[0] == samples and one.step <= end]
        if tokens == 1 and (maps or _image(inputs)):
            return FeatureLayout("tokens")
        fitting = [one for one in maps if tokens == one.positions or tokens - one.positions in prefixes]
        if fitting:
            # of several maps the one that leaves the fewest class tokens, then one with the same channels
            best = min(fitting, key=lambda one: (tokens - one.positions, one.channels != channels, -one.step))
            return FeatureLayout("tokens", tokens - best.positions, best.sizes, _image(inputs))
        lengths = {one.shape[1] for one in self._sightings if len(one.shape) == 3 and one.last}
        for one in maps:  # merged tokens, as in Swin, have more channels and half the height and width
            if one.positions in lengths and one.channels != channels:
                grid = one.sizes
                while math.prod(grid) > tokens and max(grid[-2:]) > 1:
                    grid = (*grid[:-2], *(-(-size // 2) for size in grid[-2:]))
                if math.prod(grid) == tokens:
                    return FeatureLayout("tokens", 0, grid, _image(inputs))
        return None

    def _of_patches(self, layer: str, feature: Tensor, inputs: Sequence[Tensor]) -> FeatureLayout | None:
        """The layout of tokens that a linear layer makes of square patches, if no convolution sees a map."""
        maps = [one for one in self._sightings if len(one.shape) > 3 and not one.last]
        images = [values for values in inputs if values.ndim == 4]
        taken = next((one for one in self._sightings if len(one.shape) == 3 and one.last), None)
        if maps or len(images) != 1 or taken is None:
            return None
        _, channels, height, width = images[0].shape
        side = math.isqrt(taken.channels // channels)
        if not side or side**2 * channels != taken.channels or height % side or width % side:
            return None
        grid = height // side, width // side
        positions = math.prod(grid)
        prefix = feature.shape[1] - positions
        embedded = taken.shape[1] in (positions, feature.shape[1])  # before or after a class token is added
        rows = (positions, taken.channels) in ((width, channels * height), (height, channels * width))
        if not embedded or rows or (prefix and prefix not in self._prefixes(layer)):
            return None
        return FeatureLayout("tokens", prefix, grid, (height, width))

    def _prefixes(self, layer: str) -> tuple[int, ...]:
        """The numbers of class and register tokens that can come before the positions of a layer."""
        for module in self._around(layer):
            named = getattr(module, "num_prefix_tokens", None)  # of timm
            registers = getattr(getattr(module, "config", None), "num_register_tokens", None)  # of Hugging Face
            if isinstance(named, int):
                return (named,)
            if isinstance(registers, int):
                return (1 + registers,)
        return PREFIXES

    def _check_order(self, layer: str) -> None:
        """Raises an error where tokens are known to come in another order than row by row."""
        start, end = self._steps[layer]
        embeds = any(start < one.step <= end and len(one.shape) > 3 for one in self._sightings)
        if _unrolls(self.layers[layer].modules()) or (not embeds and _unrolls(self._around(layer))):
            raise UserError(
                f"the tokens of layer {layer!r} of {type(self.network).__name__} do not come row by row (the network "
                f"unrolls them): name the layer that embeds the patches, or give {self.option} channels_last"
            )

    def _check_map(self, layer: str, feature: Tensor, inputs: Sequence[Tensor]) -> None:
        """Raises an error where ``(N, *, C)`` is no map of an image."""
        if any(hasattr(module, "block_size") for module in self._around(layer)):  # of NesT
            raise UserError(
                f"layer {layer!r} of {type(self.network).__name__} returns blocks of positions, "
                f"{tuple(feature.shape)}, and no map: name the level around it, or give {self.option} channels_last"
            )
        sizes = tuple(feature.shape[1:-1])
        images = [values.shape[-2:] for values in inputs if values.ndim > 3]
        known = any(sizes == one.sizes for one in self._sightings if not one.last)
        # rounded to whole numbers of patches
        proportional = [abs(sizes[0] * width - sizes[-1] * height) <= max(height, width) for height, width in images]
        if images and not known and not any(proportional) and len(sizes) == 2:
            raise self._unclear(layer, feature)

    def _around(self, layer: str) -> Iterator[nn.Module]:
        """The layer and the modules around it, the innermost first."""
        names = layer.split(".") if layer else []
        return (self.network.get_submodule(".".join(names[:depth])) for depth in range(len(names), -1, -1))


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


def _unrolls(modules: Iterable[nn.Module]) -> bool:
    """Whether a module brings tokens in the order of Hiera, in which those of one mask unit are far apart."""
    return any(hasattr(module, "unroll") or hasattr(module, "unroll_schedule") for module in modules)


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

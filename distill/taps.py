"""Features of unchanged networks: forward hooks that collect what named layers return."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from distill.errors import UserKeyError, UserTypeError


class FeatureTaps:
    """Runs a network and returns its output and the outputs of the named layers.

    Layers are named as in ``network.named_modules()``. If a layer runs several times in one forward pass, its last
    output is kept. If a layer returns a tuple, as the blocks of transformers do, the first tensor is kept.

    Args:
        network: The network with the layers. It is not changed, and it can still be called without its taps.
        layers: Names of submodules, such as ``layer3`` or ``encoder.blocks.2``; a name given twice is hooked once.

    Raises:
        KeyError: A name is not a layer of the network; the message gives the most similar names.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self._features: dict[str, Tensor] = {}
        self._recording = False
        modules = dict(network.named_modules(remove_duplicate=False))
        for layer in self.layers:
            if layer not in modules:
                raise UserKeyError(_unknown_layer(layer, network, modules))
        for layer in self.layers:
            modules[layer].register_forward_hook(_Tap(self, layer))

    def __call__(self, *inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The network's output and the features by layer, in the order of ``layers``.

        Raises:
            KeyError: A layer took no part in the forward pass.
            TypeError: A layer returns neither a tensor nor a tuple that starts with a tensor.
        """
        self._recording = True
        try:
            output = self.network(*inputs)
            missing = [layer for layer in self.layers if layer not in self._features]
            if missing:
                raise UserKeyError(f"layer {missing[0]!r} took no part in the forward pass, so it has no features")
            return output, {layer: self._features[layer] for layer in self.layers}
        finally:
            self._recording = False
            self._features.clear()

    def record(self, layer: str, output: Any) -> None:
        """Keeps a layer's output, if the network was called through its taps."""
        if not self._recording:
            return
        feature = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(feature, Tensor):
            # the first item of a list is no feature: in the list that an smp encoder returns it is the input image
            raise UserTypeError(
                f"layer {layer!r} returns {type(output).__name__}, but only tensors can be tapped: name a layer in it"
            )
        self._features[layer] = feature


class _Tap:
    """A forward hook as an object, so that a deep copy of network and taps calls the copied taps."""

    def __init__(self, taps: FeatureTaps, layer: str) -> None:
        self.taps = taps
        self.layer = layer

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.taps.record(self.layer, output)


def _unknown_layer(layer: str, network: nn.Module, modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    close = difflib.get_close_matches(layer, names, n=3) or names[:6]
    return f"{type(network).__name__} has no layer {layer!r}; did you mean one of {', '.join(map(repr, close))}?"

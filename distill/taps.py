"""Features of unchanged networks: forward hooks that collect what named layers return."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from distill.errors import UserKeyError, UserTypeError


class FeatureTaps:
    """Runs a network and returns, beside its output, those of its layers that were asked for.

    Layers are named as in ``network.named_modules()``. Of a layer that runs several times in one forward pass the last
    output is kept; of a layer that returns a tuple, as the blocks of transformers do, the first tensor.

    Args:
        network: The network to listen to; it is not changed and can be called without its taps as well.
        layers: Names of submodules, such as ``layer3`` or ``encoder.blocks.2``; a name given twice is hooked once.

    Raises:
        KeyError: A name is not a layer of the network; names the most similar ones.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self._features: dict[str, Tensor] = {}
        self._listening = False
        modules = dict(network.named_modules(remove_duplicate=False))
        for layer in self.layers:
            if layer not in modules:
                raise UserKeyError(_unknown_layer(layer, network, modules))
        for layer in self.layers:
            modules[layer].register_forward_hook(_Tap(self, layer))

    def __call__(self, *inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The network's output and the features by layer, in the order in which the layers were named.

        Raises:
            KeyError: A layer took no part in the forward pass.
            TypeError: A layer returns neither a tensor nor a tuple that starts with one.
        """
        self._listening = True
        try:
            output = self.network(*inputs)
            silent = [layer for layer in self.layers if layer not in self._features]
            if silent:
                raise UserKeyError(f"layer {silent[0]!r} took no part in the forward pass, so it has no features")
            return output, {layer: self._features[layer] for layer in self.layers}
        finally:
            self._listening = False
            self._features.clear()

    def record(self, layer: str, output: Any) -> None:
        """Keeps a layer's output while the network runs for its taps."""
        if not self._listening:
            return
        feature = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(feature, Tensor):
            # no first item of a list: in the pyramid of an smp encoder that is the input image
            raise UserTypeError(
                f"layer {layer!r} returns {type(output).__name__}, but only tensors can be tapped: name a layer in it"
            )
        self._features[layer] = feature


class _Tap:
    """A forward hook as an object, so that a deep copy of network and taps stays wired to itself."""

    def __init__(self, taps: FeatureTaps, layer: str) -> None:
        self.taps = taps
        self.layer = layer

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.taps.record(self.layer, output)


def _unknown_layer(layer: str, network: nn.Module, modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    close = difflib.get_close_matches(layer, names, n=3) or names[:6]
    return f"{type(network).__name__} has no layer {layer!r}; did you mean one of {', '.join(map(repr, close))}?"

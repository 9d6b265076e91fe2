"""Features of unchanged networks: forward hooks that collect what named layers return."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from distill.batches import batched_tensors, samples_in
from distill.checks import check_option
from distill.errors import UserKeyError, UserTypeError
from distill.internals.torch import buffers_copied, version
from distill.layouts import FeatureLayout, Layout, LayoutObserver


class FeatureTaps:
    """Runs a network and returns its output and the outputs of the named layers, with channels on dim 1.

    Layers are named as in ``network.named_modules()``. If a layer runs several times in one forward pass, its last
    output is kept. If a layer returns a tuple, as the blocks of transformers do, the first tensor is kept. A feature is
    the layer's own output, also if the network then changes it in place, as ``ReLU(inplace=True)`` does.

    The first call finds the layout of each feature, from the layers of known kinds (convolutions, linear layers,
    normalisations) and from what timm's networks say; ``layout`` gives it for other networks. Every feature has one of
    these forms:

    - vectors ``(N, C)``;
    - maps ``(N, C, *)``, also those of networks that store ``(N, H, W, C)``, as Swin does;
    - tokens ``(N, L, C)`` of an image, as in vision transformers: a map ``(N, C, H, W)`` of the patches, which must
      come row by row. Class, register and distillation tokens, which must come first, are left out. A layer that
      returns the class token alone has ``(N, C)``;
    - sequences ``(N, L, C)`` of networks without images, frames of a spectrogram, points: ``(N, C, L)``.

    Args:
        network: The network with the layers. It is not changed, and it can still be called without its taps.
        layers: Names of submodules, such as ``layer3`` or ``encoder.blocks.2``; a name given twice is hooked once.
        layout: ``channels_first``, ``channels_last``, or ``tokens`` of an image, which a number of class tokens may
            precede; one for all layers, or one each by name. By default it is found.
        option: The name of the user's argument for ``layout``, for errors.

    Raises:
        KeyError: A name is not a layer of the network; the message gives the most similar names.
        ValueError: A layout is unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[str],
        layout: Layout | Mapping[str, Layout] | None = None,
        *,
        option: str = "layout",
    ) -> None:
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self.layouts: dict[str, FeatureLayout] = {}
        self._given = layout if isinstance(layout, Mapping) else dict.fromkeys(self.layers, layout)
        self._option = option
        self._features: dict[str, tuple[Tensor, Tensor, int | None]] = {}
        self._changed_in_place: frozenset[str] = frozenset()
        self._modes: set[bool] = set()  # in which the network has run
        self._recording = False
        modules = dict(network.named_modules(remove_duplicate=False))
        for layer in self.layers:
            if layer not in modules:
                raise UserKeyError(_unknown_layer(layer, network, modules))
        self._check_given()
        for layer in self.layers:
            modules[layer].register_forward_hook(_Tap(self, layer))

    def __call__(self, *inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """The network's output and the features by layer, in the order of ``layers``.

        Raises:
            KeyError: A layer took no part in the forward pass.
            TypeError: A layer returns neither a tensor nor a tuple that starts with a tensor.
            ValueError: The layout of a feature is ambiguous, its first dim is not that of the samples, or a given
                layout does not fit.
        """
        run = self._run if self.layouts or not self.layers else self._first_run
        output, features = run(inputs)
        whole = list(batched_tensors(inputs))
        return output, {
            layer: self.layouts[layer].with_channels_first(own, whole) for layer, (_, own) in features.items()
        }

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
        own = feature.clone() if layer in self._changed_in_place else feature
        self._features[layer] = feature, own, version(own)

    def _run(self, inputs: tuple[Any, ...]) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
        """The network's output, and for each layer the tensor that it returned and one that holds its own output."""
        # a second run must not see what the first one changed in place; most second runs come with a new mode
        mode = self.network.training
        originals = inputs if mode in self._modes else apply_to_collection(inputs, Tensor, torch.clone)
        self._recording = True
        try:
            output = self.network(*inputs)
            missing = [layer for layer in self.layers if layer not in self._features]
            if missing:
                raise UserKeyError(f"layer {missing[0]!r} took no part in the forward pass, so it has no features")
            recorded = {layer: self._features[layer] for layer in self.layers}
        finally:
            self._recording = False
            self._features.clear()
        changed = [
            layer for layer, (_, own, before) in recorded.items() if before is not None and version(own) != before
        ]
        if changed:
            # only a copy from before the change can help: from now on there is one, and this once the network runs
            # again, without moving its buffers, which the graph of the gradients may hold
            self._changed_in_place |= set(changed)
            with buffers_copied(self.network):
                return self._run(originals)
        self._modes.add(mode)
        return output, {layer: (feature, own) for layer, (feature, own, _) in recorded.items()}

    def _first_run(self, inputs: tuple[Any, ...]) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
        """As :meth:`_run`, and finds the layouts; without compiled code or inference mode, which hide changes."""
        modules = dict(self.network.named_modules(remove_duplicate=False))
        observer = LayoutObserver(self.network, {layer: modules[layer] for layer in self.layers}, self._option)
        gradients = torch.is_grad_enabled()
        with torch.compiler.set_stance("force_eager"), torch.inference_mode(False), torch.set_grad_enabled(gradients):
            # outside of inference mode a network cannot change its tensors in place
            usual = apply_to_collection(inputs, Tensor, _usual)
            with observer.watching():
                output, features = self._run(usual)
            whole, samples = (
                list(batched_tensors(inputs)),
                samples_in({str(at): values for at, values in enumerate(inputs)}),
            )
            self.layouts = {
                layer: observer.layout_of(layer, feature, whole, self._given.get(layer), samples)
                for layer, (feature, _) in features.items()
            }
        return output, features

    def _check_given(self) -> None:
        for layer, layout in self._given.items():
            if layer not in self.layers:
                raise UserKeyError(f"{self._option} names {layer!r}, but the tapped layers are {list(self.layers)}")
            if layout is not None:
                check_option(self._option, layout, get_args(Layout))


def _usual(values: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode."""
    return values.clone() if values.is_inference() else values


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

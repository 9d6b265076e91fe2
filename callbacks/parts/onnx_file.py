"""A network in the ONNX format, with dynamic sizes where the network allows them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.parts.student import Deployed
from distill.errors import UserError

SPATIAL_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""The names of the spatial dims of an input, by their number."""
LENGTH_DIMS = (2, 1)
"""The dims that may be the length of sequences, in the order in which they are tried."""
LARGER = 32
"""By how much a second size is larger, at which a dynamic export is compared: encoders halve sizes up to five times."""
LONGER = 4
"""How many times longer each spatial dim alone is in further comparisons: some networks treat large or long inputs
differently."""

Inputs = tuple[Tensor, ...]


class DifferenceError(UserError):
    """ONNX Runtime and PyTorch predict differently."""


def onnx_model(student: Deployed, samples: Inputs, tolerance: float) -> bytes:
    """The network as an ONNX file for any batch size, and any spatial size where the network allows that.

    ONNX Runtime and PyTorch are compared on the samples, on the first one alone, and on larger and longer samples if
    the spatial size is dynamic. The length of sequences is dim 2, ``(N, C, T)``, or else dim 1, ``(N, T, C)``. If a
    network cannot be exported with dynamic sizes, or differs at another size, the sizes are those of the samples, and
    an information says why.

    Args:
        student: In eval mode.
        samples: Real inputs, ``(N, *)`` each, N at least 2.
        tolerance: The largest difference, as a share of the largest absolute value of PyTorch's prediction, or absolute
            if that value is below 1.

    Raises:
        DifferenceError: The predictions differ on the samples.
        Exception: The network cannot be exported. The exporter and ONNX Runtime have errors of many classes.
    """
    model, reasons = None, list[str]()
    for length in LENGTH_DIMS if any(tensor.ndim == 3 for tensor in samples) else LENGTH_DIMS[:1]:
        dims = [_spatial_dims(tensor, length) for tensor in samples]
        if model is not None or not any(dims):
            break
        try:
            dynamic = _export(student, samples, _dynamic_shapes(student.inputs, samples, dims))
            differences = (_difference(student, larger, dynamic) for larger in _larger(samples, dims))
            wrong = next((value for value in differences if not value <= tolerance), None)  # a NaN is no agreement
            if wrong is None:
                model = dynamic
            else:
                reasons.append(f"at another size it differs from PyTorch by {wrong:.3g}")
        except Exception as error:  # the errors of the exporter and of ONNX Runtime share no other class
            reasons.append(root_cause(error))
    fixed = model is None
    if model is None:
        model = _export(student, samples, tuple({0: torch.export.Dim("batch")} for _ in samples))
    for size in (None, 1):
        difference = _difference(student, tuple(x[:size] for x in samples), model)
        if not difference <= tolerance:
            raise DifferenceError(
                f"student.onnx is not written: on a real batch it differs from PyTorch by {difference:.3g}, where "
                f"the tolerance is {tolerance:.3g}"
            )
    if fixed and reasons:
        rank_zero_info(f"student.onnx takes inputs of the size {_sizes(samples)} only: {reasons[0]}")
    return model


def _spatial_dims(tensor: Tensor, length: int) -> dict[int, str]:
    """The names of the spatial dims of an input; ``length`` is the dim that a sequence ``(N, *, *)`` runs along."""
    names = SPATIAL_NAMES.get(tensor.ndim - 2, ())
    dims = dict(enumerate(names, length if tensor.ndim == 3 else 2))
    return {dim: name for dim, name in dims.items() if tensor.shape[dim] > 1}  # the exporter takes 1 for a constant


def _dynamic_shapes(
    names: tuple[str, ...], samples: Inputs, dims: Sequence[Mapping[int, str]]
) -> tuple[dict[int, Any], ...]:
    """The dynamic dims of each input: the batch, and spatial dims. Inputs of one size share its dims."""
    batch, shared = torch.export.Dim("batch"), dict[tuple[str, int], Any]()
    shapes = []
    for name, tensor, spatial in zip(names, samples, dims, strict=True):
        shape: dict[int, Any] = {0: batch}
        for dim, of_dim in spatial.items():
            size = tensor.shape[dim]
            taken = any(other == of_dim for other, _ in shared)
            if (of_dim, size) not in shared:
                shared[of_dim, size] = torch.export.Dim(f"{of_dim}_{name}" if taken else of_dim)
            shape[dim] = shared[of_dim, size]
        shapes.append(shape)
    return tuple(shapes)


def _export(student: Deployed, samples: Inputs, dynamic_shapes: tuple[dict[int, Any], ...]) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            student,
            samples,
            dynamo=True,
            verbose=False,
            input_names=list(student.inputs),
            output_names=["prediction"],
            dynamic_shapes=(dynamic_shapes,),
        )
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


def _difference(student: Deployed, inputs: Inputs, model: bytes) -> float:
    """The largest difference between ONNX Runtime and PyTorch, divided by the largest value, but at least by 1."""
    import onnxruntime

    with torch.no_grad():
        expected = student(*inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(student.inputs, inputs, strict=True)}
    (prediction,) = session.run(["prediction"], feed)
    if prediction.shape != expected.shape:
        return float("nan")
    difference = (torch.from_numpy(prediction) - expected).abs().max() / expected.abs().max().clamp(min=1)
    return float(difference)


def _larger(samples: Inputs, dims: Sequence[Mapping[int, str]]) -> Iterator[Inputs]:
    """The inputs with all spatial dims larger, and with one of them much longer; they repeat their values."""
    names = dict.fromkeys(name for of_input in dims for name in of_input.values())
    for longer in (None, *names):
        yield tuple(_repeated(tensor, of_input, longer) for tensor, of_input in zip(samples, dims, strict=True))


def _repeated(tensor: Tensor, dims: Mapping[int, str], longer: str | None) -> Tensor:
    for dim, name in dims.items():
        size = tensor.shape[dim]
        new_size = size + LARGER if longer is None else size * LONGER if name == longer else size
        tensor = tensor.index_select(dim, torch.arange(new_size) % size)
    return tensor


def _sizes(samples: Inputs) -> str:
    return ", ".join(dict.fromkeys(" x ".join(map(str, tensor.shape[2:])) for tensor in samples if tensor.ndim > 2))


def root_cause(error: BaseException) -> str:
    """The first line of the first error of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the prints, warnings and logs of the exporter."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

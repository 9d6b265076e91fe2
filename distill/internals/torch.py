"""torch: classes and functions that use its private names, each with the version that was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

T = TypeVar("T", covariant=True)


class FollowedModule(nn.Module):
    """A module that is followed by something that is not one of its submodules."""

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Called with what ``to()``, ``half()`` and their like do to each parameter and buffer (torch 2.14.1)."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.follow(fn)
        return self


def apply_to(network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Changes all parameters and buffers of a network as ``to()`` does (torch 2.14.1)."""
    network._apply(change)


class UnsentBuffers(nn.Module):
    """A module that names the buffers which DDP does not send from its first process to the others."""

    def unsent_buffers(self) -> Iterable[str]:
        """Their names; none here."""
        return ()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """As DDP looks them up (torch 2.14.1)."""
        return list(self.unsent_buffers())


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Puts all buffers back as they were, also where a module puts another tensor in a buffer's place (2.14.1)."""
    values = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with _tables_kept(network):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def buffers_copied(network: nn.Module) -> Iterator[None]:
    """Gives all modules copies of their buffers, and their own ones back, with no change in place (2.14.1)."""
    copies = {id(buffer): buffer.clone() for buffer in network.buffers() if not is_lazy(buffer)}
    with _tables_kept(network):
        for module in network.modules():
            module._buffers.update({name: copies.get(id(buffer), buffer) for name, buffer in module._buffers.items()})
        yield


@contextmanager
def _tables_kept(network: nn.Module) -> Iterator[None]:
    """Gives all modules the same tensors as buffers again (2.14.1)."""
    tables = [(module._buffers, dict(module._buffers)) for module in network.modules()]
    try:
        yield
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)


def version(tensor: Tensor) -> int | None:
    """A number that every change in place raises (2.14.1); None in inference mode and in compiled code."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


class OrderedLoader(DataLoader[T]):
    """A loader that may change the order in which its sampler, or its sampler of batches, is read (2.14.1)."""

    def ordered(self, sampler: Any) -> Any:
        """The order of one iteration: an iterable with a length, made from the sampler."""
        return sampler

    @property
    def _index_sampler(self) -> Any:
        return self.ordered(super()._index_sampler)


def has_workers(loader: DataLoader[Any]) -> bool:
    """Whether a loader has workers from an iteration before, which stay (2.14.1)."""
    return loader._iterator is not None


def unknown_backend_error() -> type[Exception]:
    """What a compiled module raises where torch has no such backend (2.14.1); importing it takes a second."""
    from torch._dynamo.exc import InvalidBackend

    return InvalidBackend


def are_finite(tensors: list[Tensor]) -> Tensor:
    """Whether all values of each tensor are finite, in few kernels and without a wait for a GPU (2.14.1).

    ``torch.nn.utils.get_total_norm`` is public, but it does not tell which tensor is not finite.
    """
    if tensors[0].is_cuda:
        return torch.stack([largest.isfinite() for largest in torch._foreach_norm(tensors, torch.inf)])
    # on a CPU the largest value takes twenty times as long as the Euclidean norm, which may overflow
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors, 2, dtype=torch.float32)])
    if norms.isfinite().all():
        return norms.isfinite()
    return torch.stack([values.isfinite().all() for values in tensors])

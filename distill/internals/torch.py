"""What is used of torch beyond its public names, each with the version in which it was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.data import DataLoader

T = TypeVar("T", covariant=True)
Self = TypeVar("Self", bound=nn.Module)


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


class Accompanied(nn.Module):
    """A module with companions: networks that are no part of it but follow its moves and casts (2.14.1)."""

    def follow(self, change: Callable[[Tensor], Tensor]) -> None:
        """Applies to the companions what was applied to each tensor of this module."""

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.follow(fn)  # type: ignore[operator]
        return self


def apply_to_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Changes all parameters and buffers in place, as :meth:`torch.nn.Module.to` does (2.14.1)."""
    module._apply(change)


class PartlySynchronized(nn.Module):
    """A module with buffers that DDP does not send from its first process to all others in every step (2.14.1)."""

    def unsynchronized_buffers(self) -> list[str]:
        """The names of these buffers."""
        return []

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        return self.unsynchronized_buffers()


@contextmanager
def buffers_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restores the buffers of modules at the end, those as well that were replaced by other tensors (2.14.1)."""
    tables = [(module._buffers, dict(module._buffers)) for module in modules]
    values = [(buffer, buffer.clone()) for _, table in tables for buffer in table.values() if buffer is not None]
    try:
        yield
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)
        for buffer, value in values:
            buffer.copy_(value)

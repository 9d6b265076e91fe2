"""Networks that torch compiles, each by itself."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from distill.internals.torch import unknown_backend_error


def compile_in_place(networks: Iterable[nn.Module], backend: bool | str) -> None:
    """Compiles what calling these networks runs, their hooks as well; names and weights stay what they are.

    Args:
        networks: Compiled when they are first called, and again for other shapes and modes.
        backend: ``True`` for torch's default, or the name of another; ``False`` leaves them alone.

    Raises:
        ValueError: There is no such backend.
    """
    if not backend:
        return
    for network in networks:
        try:
            network.compile(backend="inductor" if backend is True else backend)
        except unknown_backend_error():
            raise ValueError(f"compile must be true, false or a backend of torch, got {backend!r}") from None

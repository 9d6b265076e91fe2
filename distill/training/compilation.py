"""Compiles each network separately with torch.compile."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from distill.errors import UserError
from distill.internals.torch import unknown_backend_error


def compile_in_place(networks: Iterable[nn.Module], backend: bool | str) -> None:
    """Compiles the calls of networks, including their hooks; names and weights stay the same.

    Args:
        networks: The networks. Each is compiled at its first call, and again for other shapes and modes.
        backend: ``True`` for torch's default backend, or the name of another one; ``False`` compiles nothing.

    Raises:
        ValueError: The backend does not exist.
    """
    if not backend:
        return
    for network in networks:
        try:
            network.compile(backend="inductor" if backend is True else backend)
        except unknown_backend_error():
            raise UserError(f"compile must be true, false or a backend of torch, got {backend!r}") from None

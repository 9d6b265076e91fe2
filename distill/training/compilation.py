"""Networks that torch compiles, each by itself."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from distill.errors import UserError


def compile_in_place(networks: Iterable[nn.Module], backend: bool | str) -> None:
    """Compiles what calling these networks runs, their hooks as well; names and weights stay what they are.

    Args:
        networks: Compiled when they are first called, and anew for other shapes and modes.
        backend: ``True`` for torch's default, or the name of another; ``False`` leaves them alone.

    Raises:
        ValueError: There is no such backend.
    """
    if not backend:
        return
    from torch._dynamo.exc import InvalidBackend

    for network in networks:
        try:
            network.compile(backend="inductor" if backend is True else backend)
        except InvalidBackend:
            raise UserError(f"compile must be true, false or a backend of torch, got {backend!r}") from None

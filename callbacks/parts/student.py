"""The network of a module that is deployed."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from distill.checkpoint import check_fits, read_content
from distill.errors import UserError
from distill.outputs import prediction_of

CANDIDATES = ("student", "network", "model")
"""The attributes in which a module's student is looked for, in this order."""


def student_of(module: LightningModule, attribute: str | None = None) -> tuple[str, nn.Module]:
    """The student of a module, and its path among the module's submodules.

    Args:
        module: Any module.
        attribute: The name or the dotted path of the student; ``None`` takes the first of ``student``, ``network`` and
            ``model`` that the module has.

    Raises:
        ValueError: The module has no such network.
    """
    found = next(filter(None, (_submodule(module, name) for name in ([attribute] if attribute else CANDIDATES))), None)
    if found is None:
        wanted = repr(attribute) if attribute else "student, network or model"
        parts = ", ".join(name for name, _ in module.named_children()) or "none"
        raise UserError(
            f"{type(module).__name__} has no network {wanted} to deploy: give StudentExport the name of one of its "
            f"modules as student; they are {parts}"
        )
    return found


def _submodule(module: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """A property may return the student, so that its path has another name than the property."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    paths = (path for path, part in module.named_modules(remove_duplicate=False) if part is value and path)
    path = next(paths, None)
    return None if path is None or not isinstance(value, nn.Module) else (path, value)


def load_student(network: nn.Module, checkpoint: str | Path, path: str) -> None:
    """Loads a student from a Lightning checkpoint of its module.

    Args:
        network: Changed in place.
        checkpoint: The file.
        path: The student's path among the module's submodules.

    Raises:
        ValueError: The file holds more than plain data, or weights of another network.
    """
    state, prefix = read_content(Path(checkpoint))["state_dict"], f"{path}."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    check_fits(weights, network.state_dict(), str(checkpoint), type(network).__name__)
    network.load_state_dict(weights)


class Deployed(nn.Module):
    """A student that returns its prediction only.

    Args:
        network: The student, which may return a mapping or a tuple.
        inputs: The names of its inputs.
    """

    def __init__(self, network: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction."""
        return prediction_of(self.network(*inputs))

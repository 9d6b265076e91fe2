"""Decides which classes and functions a configuration may name, before and after they are imported.

A configuration may come from a stranger, and creating an object by its import path is a call of a function. So a path
must lead to an object of one of the known kinds. Nothing here imports a module: :func:`check_path` looks at the path
alone, and :func:`check_object` at the object that was imported.
"""

from __future__ import annotations

import functools
import inspect
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse

from distill.errors import UserError

KINDS = {
    "torch.optim.optimizer.Optimizer": "optimiser",
    "torch.optim.lr_scheduler.LRScheduler": "schedule",
    "torch.nn.modules.module.Module": "network, loss or metric",
    "lightning.pytorch.callbacks.callback.Callback": "callback",
    "lightning.fabric.loggers.logger.Logger": "logger",
    "lightning.pytorch.profilers.profiler.Profiler": "profiler",
    "lightning.pytorch.strategies.strategy.Strategy": "strategy",
    "lightning.fabric.accelerators.accelerator.Accelerator": "accelerator",
    "lightning.fabric.plugins.precision.precision.Precision": "plugin",
    "lightning.pytorch.plugins.layer_sync.LayerSync": "plugin",
    "lightning.fabric.plugins.environments.cluster_environment.ClusterEnvironment": "plugin",
    "lightning.fabric.plugins.io.checkpoint_io.CheckpointIO": "plugin",
    "torch.amp.grad_scaler.GradScaler": "plugin",
    "lightning.pytorch.core.datamodule.LightningDataModule": "data module",
    "torch.utils.data.dataset.Dataset": "data set",
    "torch.utils.data.sampler.Sampler": "sampler",
    "albumentations.core.transforms_interface.BasicTransform": "transform",
    "albumentations.core.composition.BaseCompose": "transform",
    "distill.tasks.task.Task": "task",
    "transformers.configuration_utils.PretrainedConfig": "configuration of a network",  # the name before 5.0
    "transformers.configuration_utils.PreTrainedConfig": "configuration of a network",
}
"""The base classes whose subclasses any installed library may give to a configuration, by their import path."""

PROJECT = ("distill", "datamodules", "callbacks")

PROJECT_CLASSES = (
    *(f"distill.{name}" for name in ("base", "feature_mask", "methods", "models", "supervised", "tasks", "weighting")),
    *("datamodules", "callbacks"),
)
"""Packages of this project whose classes a configuration may name, of whatever kind they are."""

FACTORIES = ("timm", "torchvision", "segmentation_models_pytorch", "transformers", "monai", "torchaudio")
"""Libraries whose functions may be named if their annotation says that they return one of the kinds."""

FUNCTIONS = ("torch.nn.functional", "torch._C._nn", "distill.losses", "distill.metrics")
"""Modules of functions of tensors, such as activations, which a network may take as an argument."""

SAFE_VALUES = {"trust_remote_code": False, "weights_only": True}
"""Arguments of other libraries that may let a file of weights or a repository run its code, with the safe value."""

PLAIN_CLASSES = ("datetime.timedelta",)

BUILT_IN = ("built-in", "frozen")
"""What Python says instead of the file of a module that is a part of the interpreter."""

OLD_TRANSFORMS = "torchvision.transforms.transforms"
"""These classes have no common base."""

TAKE_SCHEDULES = ("SequentialLR", "ChainedScheduler")
"""Schedules of torch that take other schedules, which must have an optimiser already."""

NOT_USERS_CODE = (str(Path(jsonargparse.__file__).parent), str(Path(__file__).parent))
"""Folders of code that imports what a configuration names."""


class Refusals:
    """Checks the objects that a configuration names, and keeps a sentence about each that it refuses, by its path."""

    def __init__(self) -> None:
        self.sentences: dict[str, str] = {}

    def before(self, path: str) -> None:
        """As :func:`check_path`."""
        self._keep(path, lambda: check_path(path))

    def after(self, path: str, value: Any) -> None:
        """As :func:`check_object`."""
        self._keep(path, lambda: check_object(path, value))

    def failed(self, path: str, error: Exception) -> None:
        """Says where in the user's own code the import of an object has failed."""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if "importlib" in frame.filename or frame.filename.startswith(NOT_USERS_CODE):
                continue
            kind = type(error).__name__
            self.sentences[path] = (
                f"{path} cannot be imported: {kind} in {frame.filename}, line {frame.lineno}: {error}"
            )
            return

    def _keep(self, path: str, check: Callable[[], None]) -> None:
        try:
            check()
        except UserError as error:
            self.sentences[path] = str(error)
            raise

    def first_within(self, part: Any) -> str | None:
        """The sentence about the first class of a configuration that was refused; None if none was."""
        if isinstance(part, Mapping):
            if part.get("class_path") in self.sentences:
                return self.sentences[part["class_path"]]
            part = list(part.values())
        if not isinstance(part, (list, tuple)):
            return None
        return next(filter(None, map(self.first_within, part)), None)


@dataclass
class Origin:
    """What the user gave to the command that runs now."""

    named: frozenset[str] = frozenset()
    """The modules that the command line names."""
    folders: set[Path] = field(default_factory=set)
    """The folders of the configuration files that were read."""
    working: Path = field(default_factory=lambda: Path.cwd().resolve())
    """The folder in which the command was started; a parser changes it while it reads a file."""


_origin: ContextVar[Origin | None] = ContextVar("origin", default=None)


def current_command() -> Origin:
    """What the command has so far; a command that a program starts without :func:`command_of` starts here."""
    if (origin := _origin.get()) is None:
        _origin.set(origin := Origin())
    return origin


@contextmanager
def command_of(named: Iterable[str]) -> Iterator[None]:
    """Starts a command whose user names some modules; no configuration file has been read yet."""
    token = _origin.set(Origin(frozenset(named)))
    try:
        yield
    finally:
        _origin.reset(token)


def remember_folder(folder: Path) -> None:
    """Remembers the folder of a configuration file: the code beside it is imported only if the user names it."""
    current_command().folders.add(folder.resolve())


def check_path(path: str) -> None:
    """Refuses to import an object by a path, before anything is imported.

    Args:
        path: Such as ``torch.optim.SGD``.

    Raises:
        ValueError: The module belongs to Python itself, or lies beside a configuration file and the user did not
            name it.
    """
    top = path.partition(".")[0]
    if path in PLAIN_CLASSES or top in PROJECT:
        return
    if is_pythons(top):
        raise UserError(f"{path} belongs to Python itself and could run any command (docs/security.md)")
    if any(part.startswith("__") for part in path.split(".")[1:]):
        raise UserError(f"{path} is private, and no configuration can name it (docs/security.md)")
    places = _places(top)
    if top in sys.modules or top in current_command().named or _in_site_packages(places):
        return
    working = current_command().working
    for place in places:
        for folder in current_command().folders:
            above = folder.is_relative_to(place.parent) and not working.is_relative_to(place.parent)
            if place.parent == folder or folder.is_relative_to(place) or above:
                raise UserError(
                    f"{path} is code that lies with a configuration file in {folder}, and importing it would run it: "
                    f"if you trust it, add --trust {top} to the command"
                )


def check_arguments(part: Any, key: str = "") -> None:
    """Refuses a configuration that asks another library to run the code of a file.

    Args:
        part: The configuration, as mappings and lists.
        key: Of the part, for the message.

    Raises:
        ValueError: Names the argument.
    """
    if isinstance(part, (list, tuple)):
        part = {str(number): item for number, item in enumerate(part)}
    for name, value in part.items() if isinstance(part, Mapping) else ():
        where = f"{key}.{name}" if key else str(name)
        if name in SAFE_VALUES and value is not None and value is not SAFE_VALUES[name]:
            raise UserError(f"{where}: {str(value).lower()} would run the code in a file of weights: leave it out")
        check_arguments(value, where)


def check_object(path: str, value: Any) -> None:
    """Refuses an object that a configuration names, unless it is of one of the known kinds.

    Args:
        path: The path by which it was imported.
        value: The object.

    Raises:
        ValueError: It is of no known kind.
    """
    if _module_of(value) == "torch.optim.lr_scheduler" and value.__name__ in TAKE_SCHEDULES:
        raise UserError(
            f"{path} takes schedules that have an optimizer already, which no configuration can give: name a function "
            f"of your own module instead, (optimizer: Optimizer) -> {value.__name__}"
        )
    if path in PLAIN_CLASSES or _is_allowed(value):
        return
    if path.endswith(".from_config"):
        raise UserError(
            f"{path} takes an object, which no configuration can give: name the class of the network, such as "
            "transformers.ResNetModel, and give its argument config"
        )
    if "schedul" in path.lower():
        raise UserError(f"{path} is not a schedule of torch: choose a class of torch.optim.lr_scheduler")
    what = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "value"
    raise UserError(f"{path} is not allowed: no configuration can name a {what} of this kind (docs/security.md)")


def _is_allowed(value: Any) -> bool:
    while isinstance(value, functools.partial):
        value = value.func
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        value = type(value)
        if issubclass(value, Enum) or (value.__module__, value.__name__) in {("torch", "dtype"), ("torch", "device")}:
            return True
    module = _module_of(value)
    top = module.partition(".")[0]
    if inspect.isclass(value):
        names = {f"{base.__module__}.{base.__qualname__}" for base in value.__mro__}
        if names & set(KINDS) or module == OLD_TRANSFORMS:
            return True
        if top in (*PROJECT, "torch", "lightning"):  # such as the settings of a strategy, or a score of a study
            return _within(module, PROJECT_CLASSES) or is_dataclass(value) or issubclass(value, Enum)
    elif _within(module, FUNCTIONS):
        return True
    elif top in FACTORIES:
        return _returns_a_kind(value)
    return is_own(top)


def is_own(top: str) -> bool:
    """Whether a module is the user's own: not of Python, of this project, or of an installed library."""
    return bool(top) and top not in PROJECT and not is_pythons(top) and not is_installed(top)


@functools.cache
def is_pythons(top: str) -> bool:
    """Whether a top-level module is a part of Python, such as ``test``, which Python does not list."""
    if top in sys.stdlib_module_names:
        return True
    paths = sysconfig.get_paths(), sysconfig.get_paths(vars={"platbase": sys.base_exec_prefix})
    folders = {Path(found[name]).resolve() for found in paths for name in ("stdlib", "platstdlib")}
    places = [place for place in _places(top) if not {"site-packages", "dist-packages"} & set(place.parts)]
    below = any(place.is_relative_to(folder) for place in places for folder in folders)
    return below or _origin_of(top) in BUILT_IN


@functools.cache
def is_installed(top: str) -> bool:
    """Whether a top-level module belongs to an installed distribution."""
    places = _places(top)
    if _in_site_packages(places):
        return True
    # such as one that is installed as editable, or into a folder of PYTHONPATH
    return bool(places) and any(top in _modules_of(found, places) for found in distributions())


def _in_site_packages(places: Iterable[Path]) -> bool:
    names = {*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))}
    folders = [Path(name).resolve() for name in names]
    return any(place.is_relative_to(folder) for place in places for folder in folders)


def _modules_of(found: Distribution, places: Iterable[Path]) -> set[str]:
    """The top-level modules that a distribution declares, or whose files it has put beside its own description."""
    modules = set((found.read_text("top_level.txt") or "").split())
    beside = Path(str(found.locate_file(""))).resolve() in {place.parent for place in places}
    if beside and found.read_text("RECORD"):  # an egg-info lists the files of a source folder, with its tests
        modules |= {file.parts[0].partition(".")[0] for file in found.files or ()}
    if beside:
        modules.add(re.sub(r"[-.]+", "_", found.metadata["Name"] or ""))
    return modules


def _places(top: str) -> list[Path]:
    """The file of a top-level module, or the folders of a package."""
    spec = _spec(top)
    found = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return [Path(place).resolve() for place in found if place and place not in BUILT_IN]


def _origin_of(top: str) -> str | None:
    spec = _spec(top)
    return spec.origin if spec else None


def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ImportError, ValueError):  # such as __main__
        return None


def _module_of(value: Any) -> str:
    owner = getattr(value, "__self__", None)
    if inspect.isclass(owner):  # a class method such as from_pretrained
        return str(owner.__module__)
    return str(getattr(value, "__module__", None) or "")


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _returns_a_kind(function: Any) -> bool:
    if function.__name__ == "from_pretrained":
        return True
    try:
        returned = get_type_hints(inspect.unwrap(function)).get("return")
    except (NameError, TypeError):  # an annotation that only its author's type checker knows
        return False
    return inspect.isclass(returned) and any(f"{b.__module__}.{b.__qualname__}" in KINDS for b in returned.__mro__)

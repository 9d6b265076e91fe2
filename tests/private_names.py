"""Lists where distill, datamodules and callbacks use private names of other libraries.

``python tests/private_names.py [FOLDER]`` prints one line a place; FOLDER holds the three packages, here by default.
A place is a private name on one line: an import of it, or of a public name from a private module; an attribute of an
object; a method or an attribute of our class that a base class of another library has as well.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("distill", "datamodules", "callbacks")
FENCE = "distill/internals/"

# public, although they begin with an underscore
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}

# what a library reads from an object that it does not define itself
READ_BY_OTHERS = {"_ddp_params_and_buffers_to_ignore"}

# functions that take the name of an attribute
BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}

Class = ast.ClassDef
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Place(NamedTuple):
    """A private name of another library, and where it is used."""

    file: str
    line: int
    name: str


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in DOCUMENTED


def places(root: Path) -> list[Place]:
    """The places in the packages of a folder, in the order of files and lines; imports their modules."""
    trees = {
        str(path.relative_to(root)): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    classes = {file: dict(_foreign_names(file, tree)) for file, tree in trees.items()}
    own = set()
    for file, tree in trees.items():
        own |= set(_module_names(tree))
        for node, foreign in classes[file].items():
            if not any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases):  # it defines nothing
                own |= set(_class_names(node)) - foreign - READ_BY_OTHERS
    found = {
        Place(file, line, name)
        for file, tree in trees.items()
        for line, name in [*_imports(tree), *_attributes(tree, own), *_overridden(classes[file])]
    }
    return sorted(found)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in PACKAGES:
            hidden = any(map(is_private, node.module.split(".")))
            names = [alias.name for alias in node.names if hidden or is_private(alias.name)]
            yield from ((node.lineno, f"{node.module}.{name}") for name in names)
        elif isinstance(node, ast.Import):
            hidden_names = [alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))]
            yield from ((node.lineno, name) for name in hidden_names)


def _attributes(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _calls_super(node):  # the method that overrides it is counted
            yield from ((node.end_lineno or node.lineno, name) for name in {node.attr} - own if is_private(name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            names = {part.value for part in node.args[1:2] if isinstance(part, ast.Constant)}
            yield from ((node.lineno, str(name)) for name in names - own if is_private(str(name)))


def _calls_super(node: ast.Attribute) -> bool:
    value = node.value
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"


def _overridden(classes: dict[Class, set[str]]) -> Iterator[tuple[int, str]]:
    for node, foreign in classes.items():
        for statement in node.body:
            names = (name for name in _bound(statement) if name in foreign | READ_BY_OTHERS)
            yield from ((statement.lineno, name) for name in names)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and part.attr in foreign and _is_self(part.value):
                yield part.lineno, part.attr


def _module_names(tree: ast.Module) -> Iterator[str]:
    """What is defined outside of classes, in functions as well."""
    methods = {part for node in tree.body if isinstance(node, Class) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, (*Function, Class)) and node not in methods:
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in methods:
            yield node.id


def _class_names(node: Class) -> Iterator[str]:
    """What a class defines: its methods, its own attributes and those it gives to self."""
    for statement in node.body:
        yield from _bound(statement)
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_self(part.value):
            yield part.attr


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (*Function, Class)):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _foreign_names(file: str, tree: ast.Module) -> Iterator[tuple[Class, set[str]]]:
    """Every class at the top of a module, with the private names that its bases of other libraries use of self."""
    module = importlib.import_module(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    for node in tree.body:
        if isinstance(node, Class):
            bases = inspect.getmro(getattr(module, node.name))
            names: set[str] = set()
            for base in bases:
                if base.__module__.partition(".")[0] not in PACKAGES and base.__module__ != builtins.__name__:
                    names |= _names_of_self(base)
            yield node, names


@cache
def _names_of_self(base: type) -> set[str]:
    try:
        source = textwrap.dedent(inspect.getsource(base))
    except (OSError, TypeError):
        source = ""
    return {name for name in [*vars(base), *re.findall(r"\bself\.(_\w+)", source)] if is_private(name)}


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    sys.path.insert(0, str(folder))
    listed = places(folder)
    outside = [place for place in listed if not place.file.startswith(FENCE)]
    sys.stdout.writelines(f"{place.file}:{place.line}: {place.name}\n" for place in listed)
    sys.stdout.write(f"{len(listed)} places, {len(outside)} of them outside {FENCE}\n")

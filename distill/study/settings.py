"""What the result of a run depends on: its configuration, the files that it names, and the code that trains it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.atomic import atomic_write
from distill.weight_files.reading import files_of

ROOT = Path(__file__).parents[2]

LIBRARY = ("distill", "datamodules", "callbacks")

AROUND_RUNS = tuple(ROOT / "distill" / name for name in ("study", "rank", "cli.py"))
"""Parts of the library that no run uses."""

INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed libraries."""

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()

WEIGHTS = re.compile(r"(.*\.)?[a-z]+_checkpoint(\.path)?")
"""Keys of arguments that name weights, which may be a folder or an index of several files."""

FILE_HASHES = ".files.json"

BLOCK = 1 << 22


def overlaid(base: Any, part: Any) -> Any:
    """One part of a configuration over another, as plain data that JSON holds; where classes differ it names both.

    The parser keeps arguments of the former class that the latter has as well, so the former class matters.
    """
    if isinstance(base, Mapping) and isinstance(part, Mapping):
        keys = dict.fromkeys([*map(str, base), *map(str, part)])
        below, above = ({str(key): value for key, value in one.items()} for one in (base, part))
        return {
            key: f"{below[key]} > {above[key]}"
            if key == "class_path" and key in below and key in above and below[key] != above[key]
            else overlaid(below.get(key), above.get(key, below.get(key)))
            for key in keys
        }
    if isinstance(part, Mapping):
        return overlaid({}, part)
    if isinstance(part, (list, tuple)):
        return [overlaid(None, item) for item in part]
    return part if part is None or isinstance(part, (bool, int, float, str)) else str(part)


def digest(content: Any) -> str:
    """A short hash of data that JSON holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def flat(part: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by their keys with dots; a list is one value unless it holds dictionaries."""
    if isinstance(part, (list, tuple)) and any(isinstance(item, Mapping) for item in part):
        part = {str(number): item for number, item in enumerate(part)}
    if isinstance(part, Mapping) and (part or not key):
        for name, value in part.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, part


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of two runs, as the parts of a sentence."""
    old, new = dict(flat(before)), dict(flat(now))
    changed = [key for key in dict.fromkeys([*new, *old]) if old.get(key, "absent") != new.get(key, "absent")]
    return [f"{key} was {_shown(old, key)} and is now {_shown(new, key)}" for key in changed]


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not set"
    text = str(values[key]).rpartition(" > ")[2]
    return text if len(text) <= 60 else f"{text[:57]}..."


def parts_that_matter(config: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed configuration without the names of folders and the seed."""
    return {name: config[name] for name in ("model", "data", "trainer")}


def named_files(config: Mapping[str, Any], outside: Path, known: dict[str, Any]) -> dict[str, str]:
    """The hash of the content of every file that a configuration names, by the key that names it.

    Folders do not count, apart from those of weights: a data set has too many files to read them all for each study.

    Args:
        config: What :func:`parts_that_matter` returns.
        outside: The study's folder, whose files its runs write.
        known: Hashes of files by path, with size and time of the change; read, and extended.
    """
    found: dict[str, str] = {}
    for key, text in _texts(config):
        file = _file(text)
        named = files_of(text) if WEIGHTS.fullmatch(key) else [] if file is None else [file]
        for path in (file.resolve() for file in named):
            if not path.is_relative_to(outside.resolve()):
                found[key] = " ".join(filter(None, (found.get(key), _content_hash(path, known))))
    return found


def read_hashes(folder: Path) -> dict[str, Any]:
    """The hashes of files that an earlier study in the folder computed; none if it left none, or a damaged file."""
    try:
        known = json.loads((folder / FILE_HASHES).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_hashes(folder: Path, known: dict[str, Any]) -> None:
    """Keeps the hashes of files for :func:`read_hashes`."""
    if known:
        with atomic_write(folder / FILE_HASHES) as draft:
            draft.write_text(json.dumps(known))


def _texts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in flat(config):
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(text, (str, Path)) and str(text):
                yield key, str(text)


def _file(text: str) -> Path | None:
    try:
        return path.resolve() if (path := Path(text)).is_file() else None
    except (OSError, ValueError):  # too long, or with a character that no path has
        return None


def _content_hash(path: Path, known: dict[str, Any]) -> str:
    status = path.stat()
    # a copy over a file may keep size and time of its content, but not the time of its change
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if known.get(str(path), [None])[0] != stamp:
        content = hashlib.blake2b(digest_size=8)
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                content.update(block)
        known[str(path)] = [stamp, content.hexdigest()]
    found: str = known[str(path)][1]
    return found


def own_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """The hash of the source of every module of the user that a configuration names, or that such a module imports.

    Nothing is imported. Modules of installed libraries and of this one do not count, nor does what a module imports by
    other means than an ``import`` statement.
    """
    names = (text for _, text in _texts(config) if "." in text)
    return {module: _source_hash(file) for module, file in sorted(_with_imported(names).items())}


def _with_imported(names: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = list(dict.fromkeys(names))
    while waiting:
        for module, file in _files_of(waiting.pop()):
            if module not in found:
                found[module] = file
                waiting += _imports(module, file, file.stat().st_mtime_ns)
    return found


def _files_of(name: str) -> list[tuple[str, Path]]:
    """The modules of the user on the way to a name with dots, such as ``package.module.Class``, and their files."""
    first, *rest = name.split(".")
    if first in LIBRARY or not all(part.isidentifier() for part in (first, *rest)):
        return []
    origin, folders = _top_level(first)
    found = [(first, origin)] if origin else []
    for end, part in enumerate(rest, 2):
        places = [(folder / part, folder / f"{part}.py") for folder in folders]
        package = next((folder for folder, _ in places if folder.is_dir()), None)
        file = next((file for _, file in places if file.is_file()), None)
        if package is not None and (package / "__init__.py").is_file():
            file = package / "__init__.py"
        if file is not None:
            found.append((".".join([first, *rest][:end]), file))
        folders = (package,) if package is not None else ()
    return found


@cache
def _top_level(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """The file and the folders of a module of the user; neither for one that is installed or does not exist."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    origin = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
    folders = tuple(Path(folder).resolve() for folder in spec.submodule_search_locations or ())
    places = [place for place in (origin, *folders) if place is not None]
    if not places or any(place.is_relative_to(STANDARD_LIBRARY) for place in places):
        return None, ()
    if any(part in INSTALLED for place in places for part in place.parts):
        return None, ()
    return (origin if origin is not None and origin.suffix == ".py" else None), folders


@cache
def _imports(module: str, file: Path, _changed: int) -> tuple[str, ...]:
    """The names that a file imports, by their absolute paths."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the one who imports it says so
        return ()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join(filter(None, [*parts, node.module]))
            names += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"] + [base]
    return tuple(dict.fromkeys(names))


def _source_hash(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def _library_version() -> str:
    try:
        number = version("crossdistill")
    except PackageNotFoundError:  # used from a checkout that is not installed
        number = "unreleased"
    sources = hashlib.blake2b(digest_size=4)
    for package in LIBRARY:
        for file in sorted((ROOT / package).rglob("*.py")):
            if not any(file.is_relative_to(part) for part in AROUND_RUNS):
                sources.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return f"{number} (sources {sources.hexdigest()})"


LIBRARY_VERSION = _library_version()
"""Of the sources as they were when this process began, which are those that it runs."""

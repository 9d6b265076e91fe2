"""Prints the lower bounds of the dependencies as constraints of pip: ``lower_bounds.py pyproject.toml``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("hf", "nifti", "nyu", "onnx", "slurm")


def lower_bounds(pyproject: str) -> list[str]:
    """The lowest versions of the dependencies, without the tools of developers, such as ``torch==2.6``.

    Args:
        pyproject: The text of a ``pyproject.toml``.

    Raises:
        ValueError: A dependency has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {})
    bounds = []
    for requirement in [*project["dependencies"], *(one for extra in EXTRAS for one in extras.get(extra, []))]:
        match = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} has no lower bound")
        bounds.append(f"{match[1]}=={match[2]}")
    return bounds


if __name__ == "__main__":
    sys.stdout.writelines(f"{bound}\n" for bound in lower_bounds(Path(sys.argv[1]).read_text()))

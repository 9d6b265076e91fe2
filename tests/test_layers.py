"""The layers of the packages: nothing imports upwards, not even inside a function or for types alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


def test_nothing_imports_a_higher_layer() -> None:
    # in a process of its own, as import-linter sets up the logging of the one that it runs in
    ended = subprocess.run([sys.executable, "-c", LINT], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("package", ["distill.losses", "distill.methods", "callbacks"])
def test_parts_import_nothing_from_what_they_serve(package: str) -> None:
    graph = grimp.build_graph("distill", "datamodules", "callbacks", cache_dir=None)
    parts = {f"{package}.parts"} | graph.find_descendants(f"{package}.parts")
    served = ({package} | graph.find_descendants(package)) - parts
    assert served
    assert len(parts) > 1
    upwards = [(part, other) for part in parts for other in graph.find_modules_directly_imported_by(part) & served]
    assert upwards == []


def test_messages_go_through_lightning_which_sets_the_rank_that_they_need() -> None:
    packages = ("distill", "datamodules", "callbacks")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    bare = "from lightning_utilities.core.rank_zero import rank_zero_"
    own = [path.name for path in sources if re.search(rf"{bare}(?!only)", path.read_text())]
    assert own == []

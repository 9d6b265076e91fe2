"""The jobs of the workflow that try the lower bounds of the dependencies, and their newest releases."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SCRIPT = [sys.executable, str(ROOT / ".github/lower_bounds.py")]
CEILINGS = {"albumentations", "jsonargparse", "lightning", "torchmetrics"}


def test_every_dependency_has_a_lower_bound_which_this_installation_keeps() -> None:
    printed = subprocess.run([*SCRIPT, str(ROOT / "pyproject.toml")], capture_output=True, text=True, check=True).stdout
    bounds = [Requirement(line) for line in printed.splitlines()]
    assert {"torch", "lightning", "jsonargparse", "transformers", "onnx"} <= {bound.name for bound in bounds}
    for bound in bounds:
        (specifier,) = bound.specifier
        assert specifier.operator == "=="
        if bound.name in CEILINGS:
            assert Version(version(bound.name)) >= Version(specifier.version)


def test_a_dependency_without_a_lower_bound_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['torch>=2.6', 'numpy']\n")
    ended = subprocess.run([*SCRIPT, str(tmp_path / "pyproject.toml")], capture_output=True, text=True, check=False)
    assert "'numpy' has no lower bound" in ended.stderr
    assert ended.returncode


def test_the_job_of_the_newest_releases_lifts_all_ceilings_and_nothing_else(tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/dependencies.yml").read_text())
    (step,) = [step for step in workflow["jobs"]["newest"]["steps"] if step.get("name") == "Lift the ceilings"]
    before = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(before)
    subprocess.run(step["run"].removesuffix(" && git diff"), shell=True, check=True, cwd=tmp_path)
    after = (tmp_path / "pyproject.toml").read_text()
    changed = [lines for lines in zip(before.splitlines(), after.splitlines(), strict=True) if lines[0] != lines[1]]
    ceiling = re.compile(r'^  "([\w-]+).*(,<[\d.]+)"')
    found = {match[1]: match[2] for line, _ in changed if (match := ceiling.match(line))}
    assert set(found) == CEILINGS
    assert [line.replace(found[ceiling.match(line)[1]], "", 1) for line, _ in changed] == [line for _, line in changed]  # type: ignore[index]


@pytest.mark.parametrize("job", ["newest", "lowest"])
def test_what_has_changed_in_other_libraries_is_named_before_all_else_is_tried(job: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/dependencies.yml").read_text())
    tests = [step["run"] for step in workflow["jobs"][job]["steps"] if "pytest" in step.get("run", "")]
    assert tests == ["pytest -n 0 tests/internals", "pytest"]
    assert workflow["jobs"][job].get("continue-on-error", False) is (job == "newest")

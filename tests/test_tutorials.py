"""The scripts of docs/tutorials run as they stand."""

from __future__ import annotations

import ast
import csv
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.documents import DOCS

FOLDER = DOCS / "tutorials"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    return runpy.run_path(str(FOLDER / name))


@pytest.mark.filterwarnings("ignore")
def test_a_plain_trainer_takes_tuple_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("plain_trainer.py", tmp_path, monkeypatch)
    printed = re.findall(r"^(teacher|student|DKD) ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    scores = {name: float(value) for name, value in printed}
    assert set(scores) == {"teacher", "student", "DKD"}
    assert scores["teacher"] > scores["student"] > 0.3


@pytest.mark.filterwarnings("ignore")
def test_a_vit_of_timm_teaches_a_swin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("vit_teaches_swin.py", tmp_path, monkeypatch)
    assert names["method"].frozen_teacher.taps.layouts["blocks.1"].prefix == 1
    assert (tmp_path / "swin.pt").is_file()


@pytest.mark.filterwarnings("ignore")
def test_an_own_module_has_its_divergence_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("own_module.py", tmp_path, monkeypatch)
    rows = list(csv.DictReader((Path(names["trainer"].log_dir) / "divergence.csv").open()))
    assert [row["epoch"] + row["stage"] for row in rows] == ["0train", "0val", "1train", "1val", "2train", "2val"]
    assert all(float(row["ncjsd"]) > 0 for row in rows)
    script = ast.parse((FOLDER / "own_module.py").read_text())
    imported = [node.module for node in ast.walk(script) if isinstance(node, ast.ImportFrom) and node.module]
    assert [name for name in imported if name.startswith(("distill", "callbacks", "datamodules"))] == ["callbacks"]

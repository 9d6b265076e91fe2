"""The examples of docs/own_data.md run as they stand."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.documents import run_example, section

PAGE = "own_data.md"


def scores(path: Path) -> dict[str, float]:
    (row,) = csv.DictReader(path.open())
    return {name: float(value) for name, value in row.items() if value}


@pytest.mark.filterwarnings("ignore")
def test_rgb_and_thermal_images_in_folders_with_a_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example(section(PAGE, "RGB and thermal images"), tmp_path, monkeypatch)
    table = (tmp_path / "logs" / "studies" / "thermal" / "table.md").read_text()
    teacher, student = (float(re.search(rf"\| {row} \| ([\d.]+)", table)[1]) for row in ("teacher", "student"))  # type: ignore[index]
    assert teacher > student
    assert "| KD |" in table
    assert "| AT |" in table


@pytest.mark.filterwarnings("ignore")
def test_sensor_windows_against_video_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(section(PAGE, "Sensor windows and video features"), tmp_path, monkeypatch)
    printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines() if line[:1].isalpha())
    assert float(printed["teacher"]) > float(printed["KD"]) > float(printed["student"])
    assert (tmp_path / "student.pt").is_file()


@pytest.mark.filterwarnings("ignore")
def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example(section(PAGE, "Volumes"), tmp_path, monkeypatch)
    run = tmp_path / "logs" / "volumes" / "kd" / "version_0"
    assert scores(run / "test.csv")["test/mIoU"] > 0.6
    assert (run / "student.safetensors").is_file()

"""A grid of trainings: each run once, every failure named, and nothing lost when it is stopped."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from distill.cli import main

LINEAR = {"class_path": "distill.models.MLP", "init_args": {"in_features": 25, "num_classes": 2}}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "seeds": 2,
    "reference": "student",
    "scores": [{"metric": "test/accuracy", "scale": 100, "digits": 1}, {"metric": "test/cmd"}],
    "base": {
        "model": {
            "class_path": "distill.methods.KD",
            "init_args": {
                "teacher": LINEAR,
                "student": LINEAR,
                "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 2}},
                "teacher_inputs": ["x_a"],
                "student_inputs": ["x_b"],
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {"class_path": "datamodules.GaussianPair"},
        "trainer": {
            "max_epochs": 4,
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [{"class_path": "callbacks.DivergenceTracker"}],
        },
    },
    "teacher": {
        "model": {"class_path": "distill.Supervised", "init_args": {"network": LINEAR, "inputs": ["x_a"]}},
        "trainer": {"callbacks": None},
    },
    "rows": {
        "student": {"model": {"init_args": {"weight": 0, "hard_weight": 1}}},
        "KD": {"model": {"init_args": {"temperature": 2}}},
        "broken": {"model": {"init_args": {"student": {"init_args": {"in_features": 24}}}}},
    },
    "columns": {
        "level 1": {"data": {"init_args": {"level": 1}}},
        "level 6": {"data": {"init_args": {"level": 6}}},
    },
}


def write(folder: Path, **changes: Any) -> list[str]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(STUDY) | {"logs_dir": str(folder)} | changes, sort_keys=False))
    return ["study", "--config", str(path)]


def results_in(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in (folder / "tiny").rglob("result.json")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    main(write(folder))
    return folder


def test_every_run_is_one_line_and_failures_are_sentences(study: Path) -> None:
    runs = pd.read_csv(study / "tiny/results.csv")
    assert len(runs) == 4 * 2 * 2
    broken = runs[runs["row"] == "broken"]
    assert broken["error"].str.match(r"the student MLP cannot take x_b \(2, 25\): .*2x25 and 24x2").all()
    assert runs[runs["row"] != "broken"]["test/accuracy"].notna().all()
    assert runs[runs["row"] == "KD"]["test/cmd"].notna().all()
    table = (study / "tiny/table.md").read_text()
    assert "| level 1 | broken (2 failed) | - | - | - |" in table
    assert (study / "tiny/figure.png").is_file()


def test_each_column_and_seed_has_one_teacher_whose_checkpoint_teaches(study: Path) -> None:
    for column in ("level_1", "level_6"):
        for seed in ("seed_0", "seed_1"):
            fit = yaml.safe_load((study / "tiny" / column / "KD" / seed / "fit.yaml").read_text())
            teacher = fit["model"]["init_args"]["teacher_checkpoint"]
            assert Path(teacher) == study / "tiny" / column / "teacher" / seed / "checkpoints/best.ckpt"
            assert fit["model"]["init_args"]["temperature"] == 2


def test_a_second_call_repeats_only_what_failed_or_changed(study: Path) -> None:
    before = results_in(study)
    rows = copy.deepcopy(STUDY["rows"])
    rows["KD"]["model"]["init_args"]["temperature"] = 5
    del rows["broken"]
    main(write(study, rows=rows))
    after = results_in(study)
    changed = {path.parts[2] for path in after if before.get(path) != after[path]}
    assert changed == {"KD"}
    assert json.loads(before[Path("tiny/level_1/KD/seed_0/result.json")])["fingerprint"]
    main(write(study, rows=rows))
    assert results_in(study) == after


def test_a_typo_in_a_row_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(write(tmp_path, rows={"student": {}, "KD": {"model": {"init_args": {"temprature": 2}}}}))
    error = capsys.readouterr().err
    assert "row 'KD', column 'level 1'" in error
    assert "temprature" in error
    assert not results_in(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reference": "nobody"}, "reference 'nobody' is no row; the rows are 'student', 'KD', 'broken'"),
        ({"rows": {"teacher": {}}, "reference": None}, "a row cannot be named 'teacher'"),
        ({"seedz": 3}, "seedz"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"rows": {"student": {}, "a b": {}, "a_b": {}}}, "rename one"),
    ],
)
def test_a_wrong_study_file_is_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(write(tmp_path, **changes))
    assert sentence in capsys.readouterr().err


def test_jobs_of_a_cluster_give_the_same_results_as_processes_here(study: Path, tmp_path: Path) -> None:
    rows = {"student": STUDY["rows"]["student"], "broken": STUDY["rows"]["broken"]}
    columns = {"level 1": STUDY["columns"]["level 1"]}
    main(write(tmp_path, cluster="local", seeds=1, rows=rows, columns=columns))
    for row in ("teacher", "student", "broken"):
        path = f"tiny/level_1/{row}/seed_0/result.json"
        here, there = (json.loads((folder / path).read_text()) for folder in (study, tmp_path))
        assert here.get("scores") == there.get("scores")
        assert here.get("error") == there.get("error")


def processes_of(folder: Path) -> list[str]:
    """The processes that inherited the mark of a test's folder."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"OF_THIS_TEST={folder}".encode() in environment.read_bytes():
                found.append(environment.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_study_goes_on_and_leaves_no_process_behind(tmp_path: Path) -> None:
    base = copy.deepcopy(STUDY["base"])
    base["trainer"] |= {"max_epochs": 300, "check_val_every_n_epoch": 100}
    changes: dict[str, Any] = {"base": base, "rows": {"student": STUDY["rows"]["student"]}}
    arguments = write(tmp_path, **changes)
    marked = os.environ | {"OF_THIS_TEST": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "train.py", *arguments], stdout=subprocess.DEVNULL, env=marked)
    deadline = time.monotonic() + 120
    while not results_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(processes_of(tmp_path)) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = results_in(tmp_path)
    assert 1 <= len(finished) < 8

    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes_of(tmp_path)
    main(arguments)
    after = results_in(tmp_path)
    assert len(after) == 8
    assert {path: after[path] for path in finished} == finished

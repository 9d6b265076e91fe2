"""What a study shows of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from distill.study.table import Score, summarise, write_tables

SCORES = [Score("test/accuracy", "accuracy [%]", scale=100, digits=1), Score("test/cmd", digits=2)]
ACCURACIES = {"student": [0.5, 0.6, 0.7], "KD": [0.6, 0.8, 0.7]}


def results() -> list[dict[str, Any]]:
    return [
        {"column": "noise 0", "row": row, "seed": seed, "test/accuracy": accuracy, "test/cmd": 0.25}
        for row, accuracies in ACCURACIES.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def test_mean_sample_deviation_and_paired_difference() -> None:
    summary = summarise(pd.DataFrame(results()), SCORES, "student").set_index("row")
    difference = np.subtract(ACCURACIES["KD"], ACCURACIES["student"])
    assert summary.loc["KD", "test/accuracy"] == pytest.approx(np.mean(ACCURACIES["KD"]))
    assert summary.loc["KD", "test/accuracy std"] == pytest.approx(np.std(ACCURACIES["KD"], ddof=1))
    assert summary.loc["KD", "difference"] == pytest.approx(difference.mean())
    assert summary.loc["KD", "difference std"] == pytest.approx(difference.std(ddof=1))
    assert pd.isna(summary.loc["student", "difference"])
    assert summary.loc["KD", "runs"] == 3


def test_the_interval_is_students_for_paired_differences() -> None:
    summary = summarise(pd.DataFrame(results()), SCORES, "student").set_index("row")
    oracle = ttest_rel(ACCURACIES["KD"], ACCURACIES["student"]).confidence_interval(0.95)
    assert summary.loc["KD", "difference low"] == pytest.approx(oracle.low)
    assert summary.loc["KD", "difference high"] == pytest.approx(oracle.high)


@pytest.mark.parametrize(
    ("gains", "cell"),
    [
        ([0.10, 0.11, 0.12], "[+8.5, +13.5] *"),
        ([-0.10, -0.11, -0.12], "[-13.5, -8.5] *"),
        ([0.00, 0.01, 0.02], "[-1.5, +3.5]"),
        ([0.0, 0.0, 0.0], "[+0.0, +0.0]"),
    ],
)
def test_an_interval_that_excludes_zero_is_marked(
    gains: list[float], cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in results() if line["row"] == "student"]
    lines += [
        {**line, "row": "KD", "test/accuracy": line["test/accuracy"] + gain}
        for line, gain in zip(lines, gains, strict=True)
    ]
    write_tables(lines, SCORES, "student", tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert f"| {cell} |" in table
    assert r"\* the 95 % interval of the difference excludes zero" in table
    assert cell in capsys.readouterr().out


def test_differences_are_taken_over_the_seeds_that_both_have() -> None:
    runs = pd.DataFrame(results())
    runs = runs[(runs["row"] == "KD") | (runs["seed"] != 1)]
    summary = summarise(runs, SCORES, "student").set_index("row")
    assert summary.loc["KD", "difference"] == pytest.approx(np.mean([0.1, 0.0]))


def test_files_hold_every_run_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tables(results(), SCORES, "student", tmp_path)
    assert len(pd.read_csv(tmp_path / "results.csv")) == 6
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| setting | run | accuracy [%] | vs. student | 95 % interval | cmd |"
    assert lines[3] == "| noise 0 | KD | 70.0 ± 10.0 | +10.0 ± 10.0 | [-14.8, +34.8] | 0.25 |"
    assert "70.0 ± 10.0" in capsys.readouterr().out


def test_a_study_without_settings_has_no_column_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tables([{**run, "column": ""} for run in results()], SCORES, "student", tmp_path / "methods")
    lines = (tmp_path / "methods" / "table.md").read_text().splitlines()
    assert lines[:2] == [
        "| run | accuracy [%] | vs. student | 95 % interval | cmd |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    assert lines[3] == "| KD | 70.0 ± 10.0 | +10.0 ± 10.0 | [-14.8, +34.8] | 0.25 |"
    assert "setting" not in capsys.readouterr().out


def test_failed_runs_are_named_and_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"column": "noise 0", "row": "DKD", "error": "the student MLP cannot take x_b (2, 25)"}
    part = {"column": "noise 0", "row": "KD", "seed": 3, "error": "its process died"}
    write_tables([*results(), failed | {"seed": 0}, part], SCORES, "student", tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| noise 0 | KD (1 failed) | 70.0 ± 10.0 |" in table
    assert "| noise 0 | DKD (1 failed) | - | - | - | - |" in table
    for text in (table, capsys.readouterr().out.replace("\n", " ")):
        assert "the student MLP cannot take" in text


def test_a_study_of_which_all_runs_failed_still_writes_its_files(tmp_path: Path) -> None:
    write_tables([{"column": "", "row": "KD", "seed": 0, "error": "no"}], SCORES, "KD", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "table.csv", "table.md"}


def test_runs_without_one_of_the_scores_have_a_dash_there(tmp_path: Path) -> None:
    alone = [{"column": "noise 0", "row": "teacher", "seed": seed, "test/accuracy": 0.9} for seed in range(3)]
    write_tables([*alone, *results()], SCORES, "student", tmp_path)
    assert "| noise 0 | teacher | 90.0 ± 0.0 | - | - | - |" in (tmp_path / "table.md").read_text()


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    write_tables([run for run in results() if run["seed"] == 0], SCORES, "student", tmp_path)
    assert "| noise 0 | KD | 60.0 | +10.0 | - | 0.25 |" in (tmp_path / "table.md").read_text()


def test_a_score_that_no_run_logged_is_named_with_those_there_are(tmp_path: Path) -> None:
    write_tables(results(), [*SCORES, Score("test/acuracy")], "student", tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "no run logged test/acuracy; there are test/accuracy, test/cmd" in table


def test_a_reference_without_runs_leaves_the_differences_empty(tmp_path: Path) -> None:
    write_tables(results(), SCORES, "nobody", tmp_path)
    assert "| noise 0 | KD | 70.0 ± 10.0 | - | - | 0.25 |" in (tmp_path / "table.md").read_text()


def test_names_and_errors_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"column": "noise 0", "row": "a|b [red]", "seed": 0, "error": "keys [bold] and [/x] differ"}
    write_tables([*results(), odd], SCORES, "student", tmp_path)
    assert r"| noise 0 | a\|b [red] (1 failed) |" in (tmp_path / "table.md").read_text()
    printed = capsys.readouterr().out
    assert "keys [bold] and [/x] differ" in printed
    assert "a|b [red]" in printed


def test_the_papers_numbers_stand_beside_with_their_difference(tmp_path: Path) -> None:
    paper: dict[str, Any] = {"student": 41.73, "KD": {"noise 0": 42.61}}
    scores = [Score("test/accuracy", "accuracy [%]", scale=100, digits=1, paper=paper), Score("test/cmd", digits=2)]
    write_tables([*results(), {**results()[0], "row": "DKD"}], scores, "student", tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| setting | run | accuracy [%] | vs. student | 95 % interval | paper | cmd |"
    assert lines[2].endswith("| - | - | 41.73 | 0.25 |")
    assert lines[3].endswith("| 42.61 (+0.88) | 0.25 |")
    assert lines[4].endswith("| - | 0.25 |")


def test_a_paper_may_have_numbers_of_any_score(tmp_path: Path) -> None:
    scores = [SCORES[0], Score("test/cmd", digits=2, paper={"KD": 0.03})]
    write_tables(results(), scores, "student", tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].endswith("| 95 % interval | cmd | paper |")
    assert lines[3].endswith("| 0.25 | 0.03 |")

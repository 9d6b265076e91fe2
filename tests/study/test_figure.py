"""The figure of a study shows its numbers where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t, ttest_rel

from distill.study.figure import Panel, lines_figure, write_figure
from distill.study.table import Score, summarise

PAPER: dict[str, Any] = {"student": 60, "KD": {"gamma 0": 71.5, "gamma 1": 58.0}}
SCORES = [Score("test/accuracy", "accuracy [%]", scale=100, digits=1, paper=PAPER), Score("test/ncjsd")]
ACCURACIES = {
    ("gamma 0", "student"): [0.5, 0.6, 0.7],
    ("gamma 0", "KD"): [0.6, 0.8, 0.7],
    ("gamma 1", "student"): [0.4, 0.6, 0.5],
    ("gamma 1", "KD"): [0.3, 0.5, 0.2],
}


def results() -> list[dict[str, Any]]:
    return [
        {"column": column, "row": row, "seed": seed, "test/accuracy": accuracy, "test/ncjsd": 0.1 + 0.1 * accuracy}
        for (column, row), accuracies in ACCURACIES.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def draw(panel: Panel, runs: list[dict[str, Any]] | None = None) -> Any:
    summary = summarise(pd.DataFrame(runs or results()), SCORES, "student")
    (axes,) = lines_figure(summary, [panel], SCORES, "student").axes
    return axes


def drawn(axes: Any, label: str) -> tuple[list[float], list[float], list[float]]:
    """Where the marks of a line are, and half the length of their bars."""
    (container,) = [container for container in axes.containers if container.get_label() == label]
    line, _, (bars,) = container.lines
    lengths = [(end[1] - start[1]) / 2 for start, end in filter(len, bars.get_segments())]
    return list(line.get_xdata()), list(line.get_ydata()), lengths


def hollow(axes: Any) -> list[list[float]]:
    marks = [line for line in axes.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return [[value for value in line.get_ydata() if value == value] for line in marks]


def test_marks_are_means_and_bars_their_95_percent_interval() -> None:
    axes = draw(Panel())
    positions, means, bars = drawn(axes, "KD")
    assert positions == [0.0, 1.0]
    assert axes.get_xlabel() == "gamma"
    assert means == pytest.approx([70, 100 / 3])
    low, high = t.interval(0.95, 2, loc=70, scale=10 / 3**0.5)
    assert bars[0] == pytest.approx((high - low) / 2)


def test_differences_are_paired() -> None:
    axes = draw(Panel(difference=True))
    _, means, bars = drawn(axes, "KD")
    assert means == pytest.approx([10, -100 / 6])
    kd, student = (ACCURACIES["gamma 1", row] for row in ("KD", "student"))
    interval = ttest_rel(kd, student).confidence_interval(0.95)
    assert bars[1] == pytest.approx(50 * (interval.high - interval.low))
    assert "student" not in [container.get_label() for container in axes.containers]
    assert hollow(axes) == [pytest.approx([11.5, -2.0])]


def test_hollow_marks_are_the_papers() -> None:
    assert hollow(draw(Panel(rows=["KD"]))) == [[71.5, 58.0]]
    assert hollow(draw(Panel(rows=["student"]))) == [[60, 60]]
    assert hollow(draw(Panel(score="test/ncjsd"))) == [[], []]


def test_another_score_has_its_own_axis() -> None:
    axes = draw(Panel(score="test/ncjsd", title="Fig. 3"))
    assert drawn(axes, "KD")[1] == pytest.approx([0.17, 0.1 + 0.1 / 3])
    assert (axes.get_ylabel(), axes.get_title()) == ("ncjsd", "Fig. 3")


@pytest.mark.parametrize(
    ("names", "label", "positions", "ticks"),
    [
        (["noise 0", "noise 5"], "noise", [0, 5], ["0", "5"]),
        (["with depth", "with disparity"], "with", [0, 1], ["depth", "disparity"]),
        (["gamma 0", "level 5"], "", [0, 1], ["gamma 0", "level 5"]),
        (["5", "7"], "", [5, 7], ["5", "7"]),
    ],
)
def test_columns_lie_at_their_numbers(names: list[str], label: str, positions: list[float], ticks: list[str]) -> None:
    renamed = dict(zip(["gamma 0", "gamma 1"], names, strict=True))
    axes = draw(Panel(), [{**run, "column": renamed[run["column"]]} for run in results()])
    assert axes.get_xlabel() == label
    assert drawn(axes, "KD")[0] == positions
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks


def test_rows_that_differ_in_a_number_are_a_line_over_it() -> None:
    at = {"student": [0.5, 0.7], "true 10": [0.2, 0.4], "true 0.5": [0.4, 0.6], "random 10": [0.3, 0.1]}
    runs = [
        {"column": column, "row": row, "seed": seed, "test/accuracy": accuracy - drop, "test/ncjsd": 0.0}
        for column, drop in {"gamma 0": 0.0, "gamma 1": 0.1}.items()
        for row, accuracies in at.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    axes = draw(Panel(column="gamma 1", axis="masked [%]", rows=["student", "true", "random"]), runs)
    assert axes.get_xlabel() == "masked [%]"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "10"]
    for name, positions, means in (
        ("student", [0.5, 10], [50, 50]),
        ("true", [0.5, 10], [40, 20]),
        ("random", [10], [10]),
    ):
        assert drawn(axes, name)[0] == positions
        assert drawn(axes, name)[1] == pytest.approx(means)
    everything = draw(Panel(column="gamma 0"), runs)
    assert [container.get_label() for container in everything.containers] == ["student", "true", "random"]
    difference = draw(Panel(column="gamma 0", difference=True, rows=["true"]), runs)
    assert drawn(difference, "true")[1] == pytest.approx([-10, -30])


@pytest.mark.parametrize(
    "panel",
    [
        Panel(rows=["KD", "DKD", "student"]),
        Panel(column="gamma 1", rows=["true", "KD 1", "student"]),
        Panel(column="gamma 9", difference=True),
    ],
)
def test_a_part_of_a_study_is_drawn_without_the_rows_and_columns_that_it_has_not(panel: Panel, tmp_path: Path) -> None:
    runs = [run for run in results() if run["row"] == "student"]
    write_figure(runs, [panel], SCORES, "student", tmp_path)
    assert (tmp_path / "figure.png").is_file()
    names = [container.get_label() for container in draw(panel, runs).containers]
    assert set(names) <= {"student"}


def test_a_row_without_runs_leaves_a_gap(tmp_path: Path) -> None:
    runs = [run for run in results() if (run["column"], run["row"]) != ("gamma 1", "KD")]
    means = drawn(draw(Panel(), runs), "KD")[1]
    assert means[0] == pytest.approx(70)
    assert np.isnan(means[1])


@pytest.mark.parametrize("panels", [[], [Panel(), Panel(difference=True)]])
def test_the_figure_is_a_file(panels: list[Panel], tmp_path: Path) -> None:
    write_figure(results(), panels, SCORES, "student", tmp_path)
    with Image.open(tmp_path / "figure.png") as figure:
        figure.load()
        assert figure.width > 400

"""The figure of a study: its runs as dots, or lines over its settings as papers draw them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.atomic import atomic_write
from distill.study.table import Score, margin, paper_difference, paper_value, summarise, with_all_scores


@dataclass(frozen=True)
class Panel:
    """A part of a study's figure: a line per row over the columns, or lines over the numbers in the names of the rows.

    A mark is the mean over the seeds, and its bar the 95 % interval of the mean; a hollow mark is the paper's number.

    Args:
        score: The metric that is drawn; the first of the study's scores by default.
        rows: The rows that are drawn; all by default.
        column: The one column that is drawn. Rows whose names differ only in a number at the end, as ``true mask 10``
            and ``true mask 20``, are then one line over these numbers, and a row without a number is a level line.
        axis: The label of these numbers.
        difference: Whether the paired difference to the study's ``reference`` is drawn; of the first score only.
        title: Stands above the panel.
    """

    score: str | None = None
    rows: list[str] | None = None
    difference: bool = False
    title: str | None = None
    column: str | None = None
    axis: str | None = None


def write_figure(
    results: list[dict[str, Any]], panels: list[Panel], scores: list[Score], reference: str | None, folder: Path
) -> None:
    """Draws ``figure.png``: the panels, or, if there are none, the runs as dots.

    Args:
        results: One dictionary a run, as :func:`~distill.study.table.summarise` takes them.
        panels: What is drawn.
        scores: The study's scores; dots show the first one.
        reference: The row that the others are compared with.
        folder: Where the file is written, whole or not at all.
    """
    runs = with_all_scores(results, scores)
    summary = summarise(runs, scores, reference)
    figure = (
        lines_figure(summary, panels, scores, reference) if panels else dots_figure(runs, summary, scores[0], reference)
    )
    with atomic_write(folder / "figure.png") as draft:
        figure.savefig(draft, dpi=150, bbox_inches="tight")


def dots_figure(runs: pd.DataFrame, summary: pd.DataFrame, score: Score, reference: str | None) -> Figure:
    """The runs as dots, their mean with one standard deviation, and a line at the reference; a panel a column."""
    columns = list(dict.fromkeys(summary["column"]))
    rows = list(dict.fromkeys(summary["row"]))
    figure = Figure(figsize=(1.5 + 3.2 * len(columns), 0.9 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        lines = summary[summary["column"] == column].set_index("row").reindex(rows)
        means, stds = (lines[key].astype(float) * score.scale for key in (score.metric, f"{score.metric} std"))
        single = runs[runs["column"] == column]
        panel.scatter(single[score.metric] * score.scale, [rows.index(row) for row in single["row"]], s=9, color="0.7")
        for position, row in enumerate(rows):
            colour = "0.3" if row in (reference, "teacher") else "tab:blue"
            panel.errorbar(means[row], position, xerr=stds.fillna(0)[row], fmt="o", color=colour, capsize=3)
        if reference in rows:
            panel.axvline(means[reference], color="0.3", linestyle="--", linewidth=1)
        panel.set(title=column, xlabel=score.heading, yticks=range(len(rows)), yticklabels=rows)
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    return figure


def lines_figure(summary: pd.DataFrame, panels: list[Panel], scores: list[Score], reference: str | None) -> Figure:
    """The panels side by side."""
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    by_metric = {score.metric: score for score in scores}
    places = summary.set_index(["row", "column"])
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        score = by_metric[panel.score or scores[0].metric]
        curves, label, ticks = _over_columns(summary, panel) if panel.column is None else _over_rows(summary, panel)
        for curve in curves:
            plain = curve.name in (reference, "teacher")
            if plain and panel.difference:
                continue
            colour = "0.4" if plain else colormaps["tab10"](curve.number % 10)
            means, bars = _values(places.reindex(curve.places), score, panel.difference)
            style = ":" if curve.name == "teacher" else "--" if plain else "-"
            axes.errorbar(
                curve.positions,
                means,
                yerr=bars,
                fmt=f"o{style}",
                color=colour,
                capsize=2,
                markersize=4,
                label=curve.name,
            )
            printed = _printed(score, curve.places, reference if panel.difference else None)
            axes.plot(curve.positions, printed, "o", color=colour, markerfacecolor="none", markersize=8, alpha=0.8)
        if panel.difference:
            axes.axhline(0, color="0.4", linestyle="--", linewidth=1)
        heading = f"{score.heading}, difference to {reference}" if panel.difference else score.heading
        axes.set(title=panel.title or "", xlabel=label, ylabel=heading, xticks=list(ticks), xticklabels=ticks.values())
        axes.grid(alpha=0.3)
        _legend(axes, score)
    return figure


def split_number(row: str) -> tuple[str, str | None]:
    """``true mask`` and ``10`` for ``true mask 10``; the row and None where it has no number at its end."""
    head, _, tail = row.rpartition(" ")
    try:
        float(tail)
    except ValueError:
        return row, None
    return (head, tail) if head else (row, None)


class _Curve(NamedTuple):
    """A line of a panel: its positions on the axis and, for each, the row and the column drawn there."""

    name: str
    number: int
    positions: list[float]
    places: list[tuple[str, str]]


def _over_columns(summary: pd.DataFrame, panel: Panel) -> tuple[list[_Curve], str, dict[float, str]]:
    """Lines, label and ticks by position, of a panel over the columns."""
    columns, rows = (list(dict.fromkeys(summary[key])) for key in ("column", "row"))
    label, positions, ticks = _positions(columns)
    drawn = [row for row in panel.rows or rows if row in rows]  # a part of a study has a part of the rows
    curves = [_Curve(row, rows.index(row), positions, [(row, column) for column in columns]) for row in drawn]
    return curves, label, dict(zip(positions, ticks, strict=True))


def _over_rows(summary: pd.DataFrame, panel: Panel) -> tuple[list[_Curve], str, dict[float, str]]:
    """Lines, label and ticks by position, of a panel over the numbers in the names of rows."""
    column = str(panel.column)
    numbered: dict[str, dict[str, str]] = {}
    all_rows = [(row, *split_number(row)) for row in dict.fromkeys(summary["row"])]
    for row, name, number in all_rows:
        if number is not None:
            numbered.setdefault(name, {})[number] = row
    present = {part for row, name, _ in all_rows for part in (row, name)}
    names = [name for name in panel.rows or dict.fromkeys(name for _, name, _ in all_rows) if name in present]
    numbers = sorted({number for name in names for number in numbered.get(name, ())}, key=float)
    curves = []
    for place, name in enumerate(names):
        rows = numbered.get(name, dict.fromkeys(numbers, name))
        own = sorted(rows, key=float)
        curves.append(
            _Curve(name, place, [float(number) for number in own], [(rows[number], column) for number in own])
        )
    return curves, panel.axis or "", {float(number): number for number in numbers}


def _values(lines: pd.DataFrame, score: Score, difference: bool) -> tuple[Any, Any]:
    if difference:
        middle = lines["difference"].astype(float)
        bars = lines["difference high"].astype(float) - middle
    else:
        middle = lines[score.metric].astype(float)
        bars = [margin(std, runs) for std, runs in zip(lines[f"{score.metric} std"], lines["runs"], strict=True)]
        bars = pd.Series(bars, lines.index)
    return middle * score.scale, bars.fillna(0) * score.scale


def _printed(score: Score, places: list[tuple[str, str]], reference: str | None) -> list[float]:
    values = [
        paper_value(score, *place) if reference is None else paper_difference(score, *place, reference)
        for place in places
    ]
    return [float("nan") if value is None else value for value in values]


def _positions(columns: list[str]) -> tuple[str, list[float], list[str]]:
    """The axis, the positions and the ticks of columns: ``gamma 0``, ``gamma 1`` lie on an axis gamma at 0 and 1.

    The words that all names have before their last word are the axis, and the last word is the tick.
    """
    heads, _, ticks = zip(*(column.rpartition(" ") for column in columns), strict=True)
    if len(set(heads)) > 1 or not all(ticks):
        return "", [float(place) for place in range(len(columns))], columns
    try:
        return heads[0], [float(tick) for tick in ticks], list(ticks)
    except ValueError:
        return heads[0], [float(place) for place in range(len(columns))], list(ticks)


def _legend(axes: Axes, score: Score) -> None:
    if score.paper:
        axes.plot([], [], "o", color="0.2", markerfacecolor="none", markersize=8, label="the paper")
    axes.legend(fontsize="x-small")

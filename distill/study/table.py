"""The tables and the figure of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from scipy.special import stdtrit

from distill.atomic import atomic_write
from distill.study.text_table import TextTable

NONE = "-"
CONFIDENCE = 0.95
MARK = " *"
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
LEGEND = f"{MARK.strip()} the {INTERVAL} of the difference excludes zero"


@dataclass(frozen=True)
class Score:
    """One number of a run, as a study shows it.

    Args:
        metric: The name under which it is logged, such as ``test/accuracy``.
        label: What the table calls it; the metric's name without its stage by default.
        scale: A factor, such as 100 for percent.
        digits: Digits after the point.
        paper: The numbers of a paper, in the unit of the table: by row, and by column where the columns differ. They
            stand beside the study's own, with the paper's difference to the reference.
    """

    metric: str
    label: str | None = None
    scale: float = 1.0
    digits: int = 3
    paper: dict[str, float | dict[str, float]] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The label, or the metric without its stage."""
        return self.label or self.metric.rpartition("/")[2]


def paper_value(score: Score, row: str, column: str) -> float | None:
    """The paper's number for a row and a column, or ``None``."""
    value = score.paper.get(row)
    return value.get(column) if isinstance(value, dict) else value


def paper_difference(score: Score, row: str, column: str, reference: str) -> float | None:
    """The paper's difference between a row and the reference, or ``None``."""
    value, other = paper_value(score, row, column), paper_value(score, reference, column)
    return None if value is None or other is None or row == reference else value - other


def margin(std: float, runs: int) -> float:
    """Half the 95 % interval of a mean over ``runs`` values with this sample deviation, by Student's t."""
    return float(stdtrit(runs - 1, (1 + CONFIDENCE) / 2) * std / runs**0.5) if runs > 1 else float("nan")


def summarise(results: pd.DataFrame, scores: list[Score], reference: str | None) -> pd.DataFrame:
    """A line for each column and row of the study: mean and standard deviation of its scores over the seeds.

    Args:
        results: One line per run: ``column``, ``row``, ``seed``, the metrics, and ``error`` of a run that failed.
        scores: What to summarise; the difference to ``reference`` is taken of the first.
        reference: A row of the study; differences are paired, over the seeds that both have.

    Returns:
        The columns ``column``, ``row``, ``runs``; for each metric ``<metric>`` and ``<metric> std`` (of the sample,
        empty for a single run); ``difference``, ``difference std``, and ``difference low`` and ``difference high``,
        the 95 % interval of its mean by Student's t; ``failed``, the number of runs that failed, and ``error``, the
        error of the first of them.
    """
    results = results.assign(**{score.metric: float("nan") for score in scores if score.metric not in results})
    if "error" not in results:
        results = results.assign(error=None)
    headline = scores[0].metric
    summary = []
    for (column, row), runs in results.groupby(["column", "row"], sort=False):
        values = runs[[score.metric for score in scores]].astype(float)
        line: dict[str, Any] = {"column": column, "row": row, "runs": int(values[headline].notna().sum())}
        for name in values:
            line |= {name: values[name].mean(), f"{name} std": values[name].std()}
        if reference is not None and row not in (reference, "teacher"):
            other = results[(results["column"] == column) & (results["row"] == reference)]
            by_seed = other.set_index("seed")[headline].astype(float)
            difference = runs.set_index("seed")[headline].astype(float) - by_seed
            line |= _with_interval(difference.dropna())
        errors = runs["error"].dropna()
        summary.append(line | {"failed": len(errors), "error": errors.iloc[0] if len(errors) else ""})
    return pd.DataFrame(summary)


def _with_interval(differences: pd.Series) -> dict[str, float]:
    mean, std = differences.mean(), differences.std()
    half = margin(std, len(differences))
    bounds = {"difference low": mean - half, "difference high": mean + half}
    return {"difference": mean, "difference std": std, **bounds}


def write_tables(results: list[dict[str, Any]], scores: list[Score], reference: str | None, folder: Path) -> None:
    """Prints the table and writes ``results.csv``, ``table.csv`` and ``table.md`` to a folder.

    Args:
        results: One dictionary per run, as :func:`summarise` takes them.
        scores: The numbers to show.
        reference: The row that the others are compared with.
        folder: Where the files are written, each whole or not at all.
    """
    runs = with_all_scores(results, scores)
    summary = summarise(runs, scores, reference)
    table = _text_table(summary, scores, reference)
    logged = [name for name in runs if "/" in name and runs[name].notna().any()]
    missing = [score.metric for score in scores if score.metric not in logged]
    remarks = [f"no run logged {metric}; there are {', '.join(logged)}" for metric in missing if logged]
    remarks += [
        f"{' · '.join(filter(None, (line['column'], line['row'])))}: {line['failed']} failed: {line['error']}"
        for line in summary.to_dict("records")
        if line["failed"]
    ]
    legend = [LEGEND] if reference is not None else []
    with atomic_write(folder / "results.csv") as draft:
        runs.to_csv(draft, index=False)
    with atomic_write(folder / "table.csv") as draft:
        summary.to_csv(draft, index=False)
    with atomic_write(folder / "table.md") as draft:
        draft.write_text(table.markdown([*(line.replace("*", r"\*") for line in legend), *remarks]))
    console = Console()
    console.print(table.rich(folder.name, sections="setting" in table.headings))
    for line in legend:
        console.print(line, markup=False)
    for remark in remarks:
        console.print(remark, style="red", markup=False)


def with_all_scores(results: list[dict[str, Any]], scores: list[Score]) -> pd.DataFrame:
    """One line per run, with an empty column for a score that no run has."""
    runs = pd.DataFrame(results)
    return runs.reindex(columns=[*runs, *(score.metric for score in scores if score.metric not in runs)])


def _text_table(summary: pd.DataFrame, scores: list[Score], reference: str | None) -> TextTable:
    first, *others = scores
    has_settings = any(summary["column"])
    headings = [*(["setting"] if has_settings else []), "run", first.heading]
    if reference is not None:
        headings += [f"vs. {reference}", INTERVAL]
    headings += ["paper"] if first.paper else []
    for score in others:
        headings += [score.heading, *(["paper"] if score.paper else [])]
    lines = []
    for line in summary.to_dict("records"):
        run = f"{line['row']} ({line['failed']} failed)" if line["failed"] else line["row"]
        cells = [*([line["column"]] if has_settings else []), run, _spread(line, first.metric, first)]
        if reference is not None:
            cells += [_spread(line, "difference", first, sign="+"), _interval(line, first)]
        place = (line["row"], line["column"])
        cells += [_printed(first, *place, reference)] if first.paper else []
        for score in others:
            cells += [_number(line[score.metric], score), *([_printed(score, *place)] if score.paper else [])]
        lines.append(cells)
    return TextTable(headings, lines, labels=range(headings.index("run") + 1))


def _spread(line: dict[str, Any], key: str, score: Score, sign: str = "") -> str:
    mean, std = _number(line.get(key), score, sign), _number(line.get(f"{key} std"), score)
    return mean if NONE in (mean, std) else f"{mean} ± {std}"


def _interval(line: dict[str, Any], score: Score) -> str:
    low, high = (float(line.get(f"difference {bound}", "nan")) for bound in ("low", "high"))
    if pd.isna(low) or pd.isna(high):
        return NONE
    mark = MARK if low > 0 or high < 0 else ""
    return f"[{_number(low, score, '+')}, {_number(high, score, '+')}]{mark}"


def _printed(score: Score, row: str, column: str, reference: str | None = None) -> str:
    """The paper's number with its digits, and its difference to the reference."""
    value = paper_value(score, row, column)
    if value is None:
        return NONE
    difference = None if reference is None else paper_difference(score, row, column, reference)
    digits = len(str(value).partition(".")[2])
    return str(value) if difference is None else f"{value} ({difference:+.{digits}f})"


def _number(value: Any, score: Score, sign: str = "") -> str:
    return NONE if pd.isna(value) else f"{value * score.scale:{sign}.{score.digits}f}"

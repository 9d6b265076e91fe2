"""The tables and the figure of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.special import stdtrit

from distill.atomic import written_whole

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
    """

    metric: str
    label: str | None = None
    scale: float = 1.0
    digits: int = 3

    @property
    def heading(self) -> str:
        """The label, or the metric without its stage."""
        return self.label or self.metric.rpartition("/")[2]


def summarise(results: pd.DataFrame, scores: list[Score], reference: str | None) -> pd.DataFrame:
    """One line for each column and row of the study: mean and standard deviation of its scores over the seeds.

    Args:
        results: One line a run: ``column``, ``row``, ``seed``, the metrics, and ``error`` for a run that failed.
        scores: What to summarise; the difference to ``reference`` is taken of the first.
        reference: A row of the study; differences are paired, over the seeds that both have.

    Returns:
        The columns ``column``, ``row``, ``runs``; for each metric ``<metric>`` and ``<metric> std`` (of the sample,
        empty for a single run); ``difference``, ``difference std``, and ``difference low`` and ``difference high``,
        the 95 % interval of its mean by Student's t; ``failed``, the number of runs that did, and ``error``, what
        ended the first of them.
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
    mean, std, pairs = differences.mean(), differences.std(), len(differences)
    margin = stdtrit(pairs - 1, (1 + CONFIDENCE) / 2) * std / pairs**0.5 if pairs > 1 else float("nan")
    bounds = {"difference low": mean - margin, "difference high": mean + margin}
    return {"difference": mean, "difference std": std, **bounds}


def write_tables(results: list[dict[str, Any]], scores: list[Score], reference: str | None, folder: Path) -> None:
    """Prints the table and writes ``results.csv``, ``table.csv``, ``table.md`` and ``figure.png`` to a folder.

    Args:
        results: One dictionary a run, as :func:`summarise` takes them.
        scores: The numbers to show.
        reference: The row that the others are compared with.
        folder: Where the files are written, each whole or not at all.
    """
    runs = pd.DataFrame(results)
    logged = [name for name in runs if "/" in name]
    missing = [score.metric for score in scores if score.metric not in runs]
    runs = runs.reindex(columns=[*runs, *missing])
    summary = summarise(runs, scores, reference)
    headings, lines = _cells(summary, scores, reference)
    remarks = [f"no run logged {metric}; there are {', '.join(logged)}" for metric in missing if logged]
    remarks += [
        f"{' · '.join(filter(None, (line['column'], line['row'])))}: {line['failed']} failed: {line['error']}"
        for line in summary.to_dict("records")
        if line["failed"]
    ]
    legend = [LEGEND] if reference is not None else []
    with written_whole(folder / "results.csv") as draft:
        runs.to_csv(draft, index=False)
    with written_whole(folder / "table.csv") as draft:
        summary.to_csv(draft, index=False)
    with written_whole(folder / "table.md") as draft:
        labels = headings.index("run") + 1
        rules = [*["---"] * labels, *["---:"] * (len(headings) - labels)]
        escaped = [[cell.replace("|", r"\|") for cell in cells] for cells in [headings, rules, *lines]]
        table = "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)
        notes = [*(line.replace("*", r"\*") for line in legend), *remarks]
        draft.write_text(table + "".join(f"\n{note}\n" for note in notes))
    with written_whole(folder / "figure.png") as draft:
        _figure(runs, summary, scores[0], reference).savefig(draft, dpi=150, bbox_inches="tight")
    console = Console()
    console.print(_rich_table(headings, lines, folder.name))
    for line in legend:
        console.print(line, markup=False)
    for remark in remarks:
        console.print(remark, style="red", markup=False)


def _cells(summary: pd.DataFrame, scores: list[Score], reference: str | None) -> tuple[list[str], list[list[str]]]:
    first, *others = scores
    has_settings = any(summary["column"])
    headings = [*(["setting"] if has_settings else []), "run", first.heading]
    if reference is not None:
        headings += [f"vs. {reference}", INTERVAL]
    headings += [score.heading for score in others]
    lines = []
    for line in summary.to_dict("records"):
        run = f"{line['row']} ({line['failed']} failed)" if line["failed"] else line["row"]
        cells = [*([line["column"]] if has_settings else []), run, _spread(line, first.metric, first)]
        if reference is not None:
            cells += [_spread(line, "difference", first, sign="+"), _interval(line, first)]
        cells += [_number(line[score.metric], score) for score in others]
        lines.append(cells)
    return headings, lines


def _spread(line: dict[str, Any], key: str, score: Score, sign: str = "") -> str:
    mean, std = _number(line.get(key), score, sign), _number(line.get(f"{key} std"), score)
    return mean if NONE in (mean, std) else f"{mean} ± {std}"


def _interval(line: dict[str, Any], score: Score) -> str:
    low, high = (float(line.get(f"difference {bound}", "nan")) for bound in ("low", "high"))
    if pd.isna(low) or pd.isna(high):
        return NONE
    mark = MARK if low > 0 or high < 0 else ""
    return f"[{_number(low, score, '+')}, {_number(high, score, '+')}]{mark}"


def _number(value: Any, score: Score, sign: str = "") -> str:
    return NONE if pd.isna(value) else f"{value * score.scale:{sign}.{score.digits}f}"


def _rich_table(headings: list[str], lines: list[list[str]], title: str) -> Table:
    table = Table(title=escape(title))
    for position, heading in enumerate(headings):
        table.add_column(escape(heading), justify="left" if position <= headings.index("run") else "right")
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        ends = "setting" in headings and (following is None or following[0] != line[0])
        table.add_row(*map(escape, line), end_section=ends)
    return table


def _figure(runs: pd.DataFrame, summary: pd.DataFrame, score: Score, reference: str | None) -> Figure:
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

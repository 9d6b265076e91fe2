"""The table and the figure of a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from distill.atomic import atomic_write
from distill.rank.bootstrap import MEASURES, Floats, Sums, divergences, interval, resampled
from distill.study.text_table import TextTable

NAMES = {"ncjsd": "NCJSD", "tcjsd": "TCJSD", "cmd": "CMD"}


@dataclass(frozen=True)
class Candidate:
    """The results of a candidate teacher, by seed."""

    name: str
    sums: dict[int, Sums]
    score_name: str
    score: dict[int, float]
    """The candidate's own score, on the validation split."""
    after: dict[int, float]
    """The score of the student that learned from it, on the test split."""
    error: str


def write_ranking(candidates: list[Candidate], confidence: float, resamples: int, folder: Path) -> None:
    """Prints the table and writes ``ranking.csv``, ``ranking.md`` and ``ranking.png``, each whole or not at all.

    Args:
        candidates: In any order; one without results is named with its error below the table.
        confidence: The level of the intervals.
        resamples: The number of bootstrap samples.
        folder: Where the files are written.
    """
    ranked = [candidate for candidate in candidates if candidate.sums]
    remarks = [f"{candidate.name} failed: {candidate.error}" for candidate in candidates if candidate.error]
    console = Console()
    if ranked:
        table, correlation = summarise(ranked, confidence, resamples)
        remarks = [*([correlation] if correlation else []), *remarks]
        text = _text_table(table)
        with atomic_write(folder / "ranking.csv") as draft:
            table.to_csv(draft, index=False)
        with atomic_write(folder / "ranking.md") as draft:
            draft.write_text(text.markdown(remarks))
        with atomic_write(folder / "ranking.png") as draft:
            _figure(table).savefig(draft, dpi=150)
        console.print(text.rich(folder.name))
    for remark in remarks:
        console.print(remark, markup=False)


def summarise(candidates: list[Candidate], confidence: float, resamples: int) -> tuple[pd.DataFrame, str]:
    """A line per candidate, in the order in which to try them: smaller NCJSD first (NTDH, Sec. IV-G).

    Intervals are bootstrapped: the seeds, if there are several, and the samples of each are drawn with replacement.

    Returns:
        The columns ``rank``, ``candidate``, ``score``, for each measure itself, ``<measure> low`` and ``high``,
        ``first`` (the share of the resamples in which the candidate's NCJSD is the smallest) and ``after`` (the score
        of the student that learned from it, if there is one); and a sentence on how well NCJSD predicted that score.
    """
    found = np.array([_estimate(candidate) for candidate in candidates])
    replicates, after = _replicates(candidates, resamples)
    first = np.bincount(replicates[:, :, 0].argmin(0), minlength=len(candidates)) / resamples
    lines = []
    for position, candidate in enumerate(candidates):
        line: dict[str, Any] = {"candidate": candidate.name, "score name": candidate.score_name}
        line["score"] = float(np.mean(list(candidate.score.values())))
        for number, measure in enumerate(MEASURES):
            estimate = found[position, number]
            low, high = interval(estimate, replicates[position, :, number], confidence)
            line |= {measure: estimate, f"{measure} low": low, f"{measure} high": high}
        line["first"] = first[position]
        if candidate.after:
            line["after"] = float(np.mean(list(candidate.after.values())))
        lines.append(line)
    table = pd.DataFrame(lines).sort_values("ncjsd", kind="stable", ignore_index=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    return table, _correlation(found[:, 0], candidates, replicates[:, :, 0], after, confidence)


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two lists; NaN where one has no order."""
    return float(pd.Series(a).rank().corr(pd.Series(b).rank()))


def _estimate(candidate: Candidate) -> Floats:
    per_seed = [divergences(sums, np.ones((1, len(sums.counted))))[0] for sums in candidate.sums.values()]
    mean: Floats = np.mean(per_seed, axis=0)
    return mean


def _replicates(candidates: list[Candidate], resamples: int) -> tuple[Floats, Floats]:
    """For M candidates and B resamples the divergences, ``(M, B, 3)``, and the student's scores, ``(M, B)``."""
    rng = np.random.default_rng(0)
    measures, scores = [], []
    drawn: dict[int, Any] = {}  # by the number of seeds: candidates with the same number have the same draws
    for candidate in candidates:
        seeds = list(candidate.sums)
        if len(seeds) not in drawn:
            drawn[len(seeds)] = rng.integers(len(seeds), size=(resamples, len(seeds)))
        chosen = drawn[len(seeds)]
        per_seed = np.stack([resampled(candidate.sums[seed], resamples, seed) for seed in seeds])
        measures.append(per_seed[chosen, np.arange(resamples)[:, None]].mean(1))
        after = np.array([candidate.after.get(seed, np.nan) for seed in seeds])
        scores.append(after[chosen].mean(1))
    return np.stack(measures), np.stack(scores)


def _correlation(
    found: Floats, candidates: list[Candidate], replicates: Floats, after: Floats, confidence: float
) -> str:
    if len(candidates) < 3 or not all(candidate.after for candidate in candidates):
        return ""
    scores = np.array([np.mean(list(candidate.after.values())) for candidate in candidates])
    estimate = spearman(found, scores)
    resampled = [spearman(x, y) for x, y in zip(replicates.T, after.T, strict=True)]
    low, high = np.nanquantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return (
        f"Spearman's rank correlation of NCJSD and the {candidates[0].score_name} of the student afterwards: "
        f"{estimate:.2f} [{low:.2f}, {high:.2f}]"
    )


def _text_table(table: pd.DataFrame) -> TextTable:
    name = str(table["score name"][0])
    headings = ["order", "teacher", f"its {name}", *(NAMES[measure] for measure in MEASURES), "first in"]
    headings += [f"student's {name} afterwards"] if "after" in table else []
    lines = []
    for line in table.to_dict("records"):
        cells = [str(line["rank"]), line["candidate"], f"{line['score']:.3f}"]
        cells += [f"{line[m]:.3f} [{line[f'{m} low']:.3f}, {line[f'{m} high']:.3f}]" for m in MEASURES]
        cells.append(f"{line['first']:.0%}")
        lines.append(cells + ([f"{line['after']:.3f}"] if "after" in table else []))
    return TextTable(headings, lines, labels=[headings.index("teacher")])


def _figure(table: pd.DataFrame) -> Figure:
    """A panel per measure with a bar per candidate and its interval, and a panel of the student's score afterwards."""
    panels = [*MEASURES, *(["after"] if "after" in table else [])]
    figure = Figure(figsize=(1.5 + 2.8 * len(panels), 1.2 + 0.4 * len(table)), layout="constrained")
    for panel, measure in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        bars = {}
        if measure != "after":
            ends = (table[measure] - table[f"{measure} low"], table[f"{measure} high"] - table[measure])
            bars = {"xerr": np.clip(ends, 0, None), "capsize": 3}
        panel.barh(range(len(table)), table[measure], color="0.6" if measure == "after" else "tab:blue", **bars)
        unit = "" if measure == "cmd" else " (nats)"
        after = f"student's {table['score name'][0]} afterwards"
        panel.set(xlabel=after if measure == "after" else NAMES[measure] + unit)
        panel.set(yticks=range(len(table)), yticklabels=table["candidate"])
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    figure.axes[0].invert_yaxis()
    return figure

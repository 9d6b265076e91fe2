"""The tables of ``docs/benchmarks.md`` and the last column of the one in ``docs/methods.md``."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import NamedTuple

import torch

from distill.atomic import atomic_write
from tests import methods_page

DOCS = Path(__file__).parents[2] / "docs"


class LossCost(NamedTuple):
    """Milliseconds and megabytes of a loss, forward and backward, and both over those of each rival."""

    loss: str
    workload: str
    time: float
    times: dict[str, float]
    memory: float
    memories: dict[str, float]

    @property
    def aims(self) -> tuple[float, float]:
        """The highest ratios of time and of memory to the better rival that meet the aim."""
        return (0.7, 0.6) if self.workload == "dense" else (1.0, 1.0)


class StepCost(NamedTuple):
    """Milliseconds of a step of a fit; over one by hand that step, the method's layers alone, and callbacks."""

    method: str
    on_logits: bool
    time: float
    over_hand: float
    layers: float
    callbacks: float

    @property
    def aim(self) -> float:
        """The highest ratio to a step by hand that meets the aim."""
        return 1.05 if self.on_logits else 1.2


def loss_table(costs: list[LossCost]) -> str:
    """One row a loss and workload; bold where the aim is missed by more than 0.05."""
    lines = [
        "| loss | workload | ms | / textbook | / torchdistill | MB | / textbook | / torchdistill |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cost in costs:
        cells = [cost.loss, cost.workload]
        for value, ratios, aim in ((cost.time, cost.times, cost.aims[0]), (cost.memory, cost.memories, cost.aims[1])):
            cells += [f"{value:.3g}", *(_ratio(ratios.get(name), aim) for name in ("textbook", "torchdistill"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def step_table(costs: list[StepCost]) -> str:
    """One row a method; bold where the aim is missed."""
    lines = ["| method | ms | / by hand | own layers | callbacks |", "| --- | ---: | ---: | ---: | ---: |"]
    for cost in costs:
        over_hand, callbacks = _bold(cost.over_hand, cost.aim), _bold(cost.callbacks, 0.05, "+.3f")
        lines.append(f"| {cost.method} | {cost.time:.0f} | {over_hand} | {cost.layers:.2f} | {callbacks} |")
    return "\n".join(lines)


def write(losses: list[LossCost], steps: list[StepCost]) -> None:
    """Puts the tables into the pages."""
    machine = f"torch {torch.__version__}, {_device()}"
    tables = ({"losses": loss_table(losses)} if losses else {}) | ({"steps": step_table(steps)} if steps else {})
    page = (DOCS / "benchmarks.md").read_text()
    for name, table in tables.items():
        before, rest = page.split(f"<!-- {name} -->\n")
        _, after = rest.split("<!-- end -->", 1)
        page = f"{before}<!-- {name} -->\n\nMeasured with {machine}.\n\n{table}\n\n<!-- end -->{after}"
    _write(DOCS / "benchmarks.md", page)
    of_kd = [cost.over_hand for cost in steps if cost.method == "KD"]
    if of_kd:
        methods_page.write({cost.method: f"{cost.over_hand / of_kd[0]:.2f}" for cost in steps})


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as draft:
        draft.write_text(text)


def _ratio(value: float | None, aim: float) -> str:
    return "-" if value is None else _bold(value, aim + 0.05)


def _bold(value: float, most: float, form: str = ".2f") -> str:
    text = f"{value:{form}}"
    return f"**{text}**" if round(value, 3) > most else text


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return f"one thread of {model[1] if model else platform.processor()}"

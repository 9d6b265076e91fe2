"""Gathers what the benchmarks measure, prints it, and writes the pages where asked to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.benchmarks import pages, workloads
from tests.benchmarks.pages import LossCost, StepCost

LOSSES = pytest.StashKey[list[LossCost]]()
STEPS = pytest.StashKey[list[StepCost]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--write-pages``."""
    parser.addoption("--write-pages", action="store_true", help="write the tables that are whole into docs/")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is measured yet."""
    config.stash[LOSSES], config.stash[STEPS] = [], []


@pytest.fixture
def keep(pytestconfig: pytest.Config) -> Callable[[LossCost | StepCost], None]:
    """Puts a row into its table."""

    def to_table(cost: LossCost | StepCost) -> None:
        if isinstance(cost, LossCost):
            pytestconfig.stash[LOSSES].append(cost)
        else:
            pytestconfig.stash[STEPS].append(cost)

    return to_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows the tables."""
    losses, steps = config.stash[LOSSES], config.stash[STEPS]
    for table in ([pages.loss_table(losses)] if losses else []) + ([pages.step_table(steps)] if steps else []):
        terminalreporter.write_line(f"\n{table}")
    if config.getoption("--write-pages"):
        whole_tables(terminalreporter, losses, steps)


def whole_tables(terminalreporter: pytest.TerminalReporter, losses: list[LossCost], steps: list[StepCost]) -> None:
    """Writes the tables of which every row was measured: a run that was stopped leaves the pages as they are."""
    from tests.benchmarks.test_steps import ARGUMENTS  # a module of tests, which pytest is the first to import

    no_loss = set(workloads.names()) - {(cost.loss, cost.workload) for cost in losses}
    no_step = set(ARGUMENTS) - {cost.method for cost in steps}
    for table, missing in (("losses", no_loss), ("steps", no_step)):
        if missing:
            terminalreporter.write_line(
                f"\nThe table of {table} in docs/ is left: {len(missing)} of its rows are missing"
            )
    pages.write([] if no_loss else losses, [] if no_step else steps)

"""The progress of runs that end in any order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

Ended = Callable[[object, str | None, str], None]


@contextmanager
def progress_bar(title: str, total: int, completed: int) -> Iterator[Ended]:
    """Shows a bar, or, where the output is no terminal, a line per item that has ended.

    Args:
        title: Stands before the bar until the first item ends.
        total: The number of items.
        completed: How many have ended already.

    Yields:
        A function that is called with each item that has ended, with its error or ``None``, and with what it gave, in
        a few words.
    """
    console = Console()
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(title, total, completed, console)
        return
    with Progress(SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task(title, total=total, completed=completed)

        def ended(item: object, error: str | None, _: str) -> None:
            progress.update(bar, advance=1, description=escape(str(item)))
            if error is not None:
                progress.console.print(f"{item} failed: {error}", style="red", markup=False)

        yield ended


def _lines(title: str, total: int, completed: int, console: Console) -> Ended:
    started = time.monotonic()
    done = completed

    def show(text: str) -> None:
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        console.print(f"{now} {text}", markup=False, highlight=False, soft_wrap=True)

    def ended(item: object, error: str | None, gave: str) -> None:
        nonlocal done
        done += 1
        what = f"{item} failed: {error}" if error is not None else f"{item}: {gave}" if gave else str(item)
        since = timedelta(seconds=int(time.monotonic() - started))
        show(f"{done} of {total} ({100 * done // total}%) {what} [{since} since the start]")

    show(f"{title}: {completed} of {total} are done")
    return ended

"""The progress bar of runs that end in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn


@contextmanager
def progress_bar(title: str, total: int, completed: int) -> Iterator[Callable[[object, str | None], None]]:
    """Shows a bar, and yields what to call with each item that has ended and with its error, if it has one.

    Args:
        title: Stands before the bar until the first item ends.
        total: The number of items.
        completed: How many have ended already.
    """
    with Progress(SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn()) as progress:
        bar = progress.add_task(title, total=total, completed=completed)

        def ended(item: object, error: str | None) -> None:
            progress.update(bar, advance=1, description=escape(str(item)))
            if error is not None:
                progress.console.print(f"{item} failed: {error}", style="red", markup=False)

        yield ended

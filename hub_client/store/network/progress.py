"""A progress bar for long transfers, on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG = 4 << 20
"""Bytes from which a transfer is long."""

Advance = Callable[[str], Callable[[int], object]]
"""Gives, for a file's name, the function that reports how many of its bytes have come."""


@contextmanager
def shown(total: int, *, what: str) -> Iterator[Advance]:
    """Give a function that, for a file's name, gives the one that reports how many of its bytes have come.

    Parameters
    ----------
    total
        Bytes of all files.
    what
        What is transferred, as in ``lab/kidney from https://hub.lab.example``.
    """
    if total < LONG:
        yield lambda name: lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task, sizes = bar.add_task(what, total=total), dict[str, int]()

        def advance(name: str) -> Callable[[int], object]:
            def report(size: int) -> None:
                sizes[name] = size
                bar.update(task, completed=sum(sizes.values()))

            return report

        yield advance

"""A file on its way, however it travels, and the bar that shows how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts, where the network or the server failed."""
LONG = 4 << 20
"""Bytes from which a transfer is long."""

Advance = Callable[[str], Callable[[int], object]]
"""Gives, for a file's name, the function that reports how many of its bytes have come."""


@dataclass(frozen=True)
class Stream:
    """A file on its way: the first byte that comes, the headers of the hub itself, and the pieces."""

    start: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class Dropped(Exception):
    """A connection broke off while a file was on its way; it can be resumed."""


@contextmanager
def progress(total: int, *, what: str) -> Iterator[Advance]:
    """Show a bar for a long transfer, on a terminal; give what reports how many bytes of each file have come.

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

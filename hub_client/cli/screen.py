"""What people see: tables that fit the terminal, and JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 240
"""Columns of a table that nobody's terminal has to hold."""

GAP = 3
"""Blanks between the columns of a table, as rich sets them."""


@dataclass(frozen=True)
class Column:
    """A column's heading; of columns that do not fit together, those with the highest ``rank`` are left out.

    ``text`` reads the column's text from a row's record; without it, rows are lists of texts. ``style`` is how a text
    looks on a terminal that has colours.
    """

    title: str
    justify: Literal["left", "right"] = "left"
    rank: int = 0
    text: Callable[[Any], str] | None = None
    style: Callable[[str], str] | None = None


def console() -> Console:
    """Return a console on standard output; wide when it is no terminal."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(highlight=False, width=width)


def say(text: str = "") -> None:
    """Write a line to standard output, as it is."""
    typer.echo(text)


def say_paragraph(text: str) -> None:
    """Write text to standard output, wrapped between words."""
    _print(console(), Text(harmless(text)))


def complain(text: str) -> None:
    """Write a line to standard error; what would steer the terminal is shown as its code."""
    typer.echo(harmless(text), err=True)


def harmless(text: str) -> str:
    """Return a text in which control characters are their codes: names in files can be a stranger's."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def say_json(value: Any) -> None:
    """Write a value as JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(columns: Sequence[Column], records: Sequence[Any]) -> None:
    """Write a table, without the least important columns where the terminal is too narrow for all."""
    out = console()
    rows = [[one.text(record) if one.text else record[i] for i, one in enumerate(columns)] for record in records]
    shown = _fitting(columns, rows, width=out.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index in shown:
        table.add_column(columns[index].title, justify=columns[index].justify, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(_cell(columns[index], row[index]) for index in shown))
    _print(out, table)


def _cell(column: Column, text: str) -> Text:
    return Text(harmless(text), style=column.style(text) if column.style else "")


def say_facts(facts: dict[str, str]) -> None:
    """Write one fact a line, names left, values wrapped at the right of them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(harmless(name)), Text(harmless(" ".join(value.split()))))
    _print(console(), table)


def _print(out: Console, shown: RenderableType) -> None:
    with out.capture() as captured:
        out.print(shown)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))  # tables are padded to their full width


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int) -> list[int]:
    widths = [max(map(len, [column.title, *(row[i] for row in rows)])) for i, column in enumerate(columns)]
    shown = list(range(len(columns)))
    while sum(widths[i] + GAP for i in shown) - GAP > width and (droppable := [i for i in shown if columns[i].rank]):
        shown.remove(max(droppable, key=lambda i: columns[i].rank))
    return shown

"""The results of benchmarks/label_transfer.py: a line of figures for each set, method, version and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.jsonl import read_lines, write_lines
from benchmarks.label_transfer_sets import TransferSet

Key: TypeAlias = tuple[str, str, str, int]
DIGITS = 4


@dataclass(frozen=True)
class Row:
    """What was measured. ``cells`` are those of the reference, of the query, and of the query's that are scored.

    ``version`` is that of this library's releases, ``""`` for opponents.
    """

    set: str
    title: str
    reference: str
    cells: tuple[int, int, int]
    genes: int
    method: str
    version: str
    seed: int
    figures: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        one: TransferSet,
        *,
        method: str,
        version: str,
        seed: int,
        figures: dict[str, float],
        seconds: Mapping[str, float],
    ) -> Row:
        """Return the row of a method on a set, with what is known of the set."""
        return cls(
            set=one.name,
            title=one.title,
            reference=one.reference_title,
            cells=(one.reference.n_obs, len(one.truth), int(one.scored.sum())),
            genes=len(one.shared_genes),
            method=method,
            version=version,
            seed=seed,
            figures={name: round(value, DIGITS) for name, value in figures.items()},
            seconds={name: round(value, 2) for name, value in seconds.items()},
        )

    @property
    def key(self) -> Key:
        """What a row is found by."""
        return self.set, self.method, self.version, self.seed

    def described(self) -> str:
        """The row as progress shows it."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in self.figures.items())
        return f"{self.set}  {' '.join((self.method, self.version)).strip()}  seed {self.seed}: {figures}"


def read_rows(path: Path) -> dict[Key, Row]:
    """Return the rows of a file, none if there is no such file."""
    rows = [Row(**fields | {"cells": tuple(fields["cells"])}) for fields in read_lines(path)]
    return {row.key: row for row in rows}


def write_rows(path: Path, rows: Mapping[Key, Row]) -> None:
    """Write the rows in the order of their keys: all of them, or, when killed, those that were there before."""
    write_lines(path, (asdict(rows[one]) for one in sorted(rows)))

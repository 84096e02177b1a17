"""The results of benchmarks/latents.py: a line of figures for each set, method, mode and seed."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.jsonl import read_lines, write_lines
from benchmarks.latents_sets import MappingSet

Key: TypeAlias = tuple[str, str, str, int]
DIGITS = 4


@dataclass(frozen=True)
class Row:
    """What was measured. ``cells`` are those of the reference, of the query, and of the query's that are scored."""

    set: str
    title: str
    family: str
    group: str
    cells: tuple[int, int, int]
    genes: int
    method: str
    mode: str
    seed: int
    figures: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        pair: MappingSet,
        *,
        method: str,
        mode: str,
        seed: int,
        figures: dict[str, float],
        seconds: Mapping[str, float],
    ) -> Row:
        """Return the row of a method on a set, with what is known of the set."""
        return cls(
            set=pair.name,
            title=pair.title,
            family=pair.family,
            group=pair.group,
            cells=(pair.reference.n_obs, pair.query.n_obs, int(pair.scored.sum())),
            genes=pair.reference.n_vars,
            method=method,
            mode=mode,
            seed=seed,
            figures=figures,
            seconds=dict(seconds),
        )

    @property
    def key(self) -> Key:
        return key(self.set, self.method, self.mode, self.seed)

    def described(self) -> str:
        """The row as progress shows it."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in self.figures.items() if "f1" not in name)
        cpu = sum(value for name, value in self.seconds.items() if name.endswith("_cpu"))
        return f"{self.set}  {self.method}  {self.mode}  seed {self.seed}: {figures}  {cpu:.1f} CPU seconds"


def key(set: str, method: str, mode: str, seed: int) -> Key:
    """Return what a row is found by."""
    return set, method, mode, seed


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name is asked for."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def read_rows(path: Path) -> dict[Key, Row]:
    """Return the rows of a file, none if there is no such file."""
    rows = [_row(fields) for fields in read_lines(path)]
    return {row.key: row for row in rows}


def _row(fields: dict[str, object]) -> Row:
    return Row(**fields | {"cells": tuple(fields["cells"])})  # type: ignore[arg-type]


def write_rows(path: Path, rows: Mapping[Key, Row]) -> None:
    """Write the rows in the order of their keys: all of them, or, when killed, those that were there before."""
    write_lines(path, (_rounded(asdict(rows[one])) for one in sorted(rows)))


def _rounded(fields: dict[str, object]) -> dict[str, object]:
    figures = {name: round(value, DIGITS) for name, value in fields["figures"].items()}  # type: ignore[attr-defined]
    seconds = {name: round(value, 2) for name, value in fields["seconds"].items()}  # type: ignore[attr-defined]
    return fields | {"figures": figures, "seconds": seconds}

"""Symbols that only human or only mouse genes have: what tells the two apart when both are in upper case.

The table is ``tables/species.tsv.xz``; ``tables/README.md`` states where it comes from. To replace it by a newer one::

    python -m hub_client.data.species genes_homo_sapiens.csv.gz genes_mus_musculus.csv.gz

"""

from __future__ import annotations

import csv
import gzip
import lzma
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hub_client.data import hgnc

TABLE = Path(__file__).parent / "tables" / "species.tsv.xz"
HUMAN, MOUSE = "human", "mouse"
_MOUSE_SERIES = re.compile(r"GM\d{3,5}|\d{7}[A-Z]\d\dRIK|H2-[A-Z0-9-]+")
"""Series of names that the mouse's nomenclature alone has, in upper case: predicted genes, RIKEN clones, its MHC."""
LEAST = 3
"""How many symbols of one organism alone it takes to name it."""


@dataclass(frozen=True)
class Evidence:
    """The symbols in a list of names that one organism alone has, in upper case."""

    human: tuple[str, ...]
    mouse: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Evidence:
        """Return the evidence in these names, whatever their case."""
        shown = dict.fromkeys(name.upper() for name in names)
        human = tuple(name for name in shown if name in only_in(HUMAN))
        return cls(human, tuple(name for name in shown if is_mouse(name)))

    @property
    def organism(self) -> str | None:
        """``human`` or ``mouse``; None where that is not clear."""
        human, mouse = len(self.human), len(self.mouse)
        if LEAST <= mouse > human:
            return MOUSE
        return HUMAN if LEAST <= human > mouse else None


def is_mouse(symbol: str) -> bool:
    """Return whether only the mouse has a gene of this symbol, which is in upper case."""
    return symbol in only_in(MOUSE) or _MOUSE_SERIES.fullmatch(symbol) is not None


@cache
def only_in(organism: str, table: Path = TABLE) -> frozenset[str]:
    """Return the symbols, in upper case, of protein-coding genes that only ``human`` or only ``mouse`` has."""
    with lzma.open(table, "rt", encoding="utf-8", newline="") as file:
        rows = [row.rstrip("\r\n").split("\t") for row in file]
    return frozenset(symbol for whose, symbol in rows if whose == organism)


def build_table(human: Path, mouse: Path, *, target: Path = TABLE) -> Path:
    """Write the shipped table from the gene tables of both organisms, and return its path.

    Parameters
    ----------
    human, mouse
        Gzipped comma-separated tables without a header: id, symbol, version, length, biotype, one gene a row.
    target
        The file to write. The same sources always give the same bytes.
    """
    ours, theirs = _genes(human), _genes(mouse)
    with lzma.open(hgnc.TABLE, "rt", encoding="utf-8") as file:  # with the names of several genes, too
        named = {name.upper() for row in file for field in row.rstrip("\n").split("\t") for name in field.split("|")}
    only = {
        HUMAN: {name for name, coding in ours.items() if coding and name not in theirs and name in named},
        MOUSE: {name for name, coding in theirs.items() if coding and name not in ours and name not in named},
    }
    named_by_series = _MOUSE_SERIES.fullmatch
    kept = [
        (whose, name) for whose in only for name in sorted(only[whose]) if len(name) > 1 and not named_by_series(name)
    ]
    text = "".join(f"{whose}\t{name}\n" for whose, name in kept)
    target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    return target


def _genes(table: Path) -> dict[str, bool]:
    """Return each symbol in upper case, and whether a gene of that name codes for a protein."""
    found: dict[str, bool] = {}
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        for _, symbol, _, _, biotype in csv.reader(file):
            found[symbol.upper()] = found.get(symbol.upper(), False) or biotype == "protein_coding"
    return found


if __name__ == "__main__":
    build_table(Path(sys.argv[1]), Path(sys.argv[2]))

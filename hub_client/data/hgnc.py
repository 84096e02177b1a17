"""Human gene names: a pinned, offline copy of HGNC's symbols, previous symbols, aliases and Ensembl ids.

The table is ``tables/hgnc.tsv.xz``; ``tables/README.md`` states where it comes from. To replace it by a newer one::

    python -m hub_client.data.hgnc hgnc_symbols.tsv.gz

"""

from __future__ import annotations

import csv
import gzip
import lzma
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from pathlib import Path

from hub_client import errors

TABLE = Path(__file__).parent / "tables" / "hgnc.tsv.xz"
COLUMNS = ("symbol", "ensembl_id", "prev_symbols", "alias_symbols")


class How(IntEnum):
    """How a query's name led to a gene; the smaller, the better the evidence."""

    EXACT = 0
    """The panel's own name."""
    VERSION = 1
    """The panel's own name after the id's version or the genome's prefix was taken off."""
    PAIR = 2
    """The gene's other name (id or symbol), as the panel pairs them."""
    APPROVED = 3
    """HGNC's approved symbol, or the Ensembl id HGNC gives for it."""
    SPELLING = 4
    """A name of exactly one gene but for punctuation, as R and Seurat change it (:func:`respelt`)."""
    PREVIOUS = 5
    """A previous symbol of exactly one gene."""
    ALIAS = 6
    """An alias of exactly one gene."""


def respelt(name: str) -> str:
    """Return a gene's name as R's ``make.names`` has it, with Seurat's hyphens for underscores undone.

    ``HLA-DRA``, ``HLA.DRA`` and ``HLA_DRA`` are all ``HLA.DRA``; ``7SK`` and ``X7SK`` are both ``7SK``.
    """
    return re.sub(r"^X(?=\d)", "", re.sub(r"[^A-Za-z0-9]", ".", name))


@dataclass(frozen=True)
class Hgnc:
    """Name to gene, where a gene is its row in the table; a name that could mean two genes is in no mapping."""

    names: Mapping[How, Mapping[str, int]]
    """One mapping for each kind of evidence, the best first."""

    def find(self, name: str) -> tuple[int, How] | None:
        """Return the gene this name means and how that is known; None for unknown or ambiguous names."""
        for how, genes in self.names.items():
            if (gene := genes.get(name)) is not None:
                return gene, how
        return None

    def find_respelt(self, name: str) -> tuple[int, How] | None:
        """Return the gene this name means but for punctuation; None for names that are unknown or ambiguous so."""
        return self._respelt.get(respelt(name))

    @cached_property
    def _respelt(self) -> dict[str, tuple[int, How]]:
        """Names with punctuation, or a digit in front, as :func:`respelt` has them; the best evidence counts."""
        found: dict[str, tuple[int, How]] = {}
        seen: set[str] = set()
        for how, genes in self.names.items():
            rows: dict[str, set[int]] = {}
            for name, row in genes.items():
                if (key := respelt(name)) != name or key[:1].isdigit():
                    rows.setdefault(key, set()).add(row)
            certain = {key: min(group) for key, group in rows.items() if len(group) == 1 and key not in seen}
            found |= {key: (row, max(how, How.SPELLING)) for key, row in certain.items()}
            seen |= rows.keys()
        return found


@cache
def hgnc(table: Path = TABLE) -> Hgnc:
    """Return a table that :func:`build_table` wrote: the one shipped with the package."""
    with lzma.open(table, "rt", encoding="utf-8", newline="") as file:
        return _indexed([row.rstrip("\r\n").split("\t") for row in file][1:])


def _indexed(rows: list[list[str]]) -> Hgnc:
    symbols, ids, previous, aliases = ([row[i].split("|") for row in rows] for i in range(len(COLUMNS)))
    approved = _unambiguous(symbols) | _unambiguous(ids)
    return Hgnc(
        {
            How.APPROVED: approved,
            How.PREVIOUS: _unambiguous(previous, taken=approved),
            How.ALIAS: _unambiguous(aliases, taken=approved),
        }
    )


def _unambiguous(names: Iterable[Iterable[str]], *, taken: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return name to row for the names of exactly one row that are not ``taken`` already."""
    found: dict[str, int] = {}
    several = {"", *(taken or ())}
    for row, group in enumerate(names):
        several.update(name for name in group if found.setdefault(name, row) != row)
    return {name: row for name, row in found.items() if name not in several}


def build_table(source: Path, *, target: Path = TABLE) -> Path:
    """Write the shipped table from HGNC's complete set, and return its path.

    Parameters
    ----------
    source
        A tab-separated file, plain or ``.gz``, with the columns ``symbol``, ``ensembl_id``, ``prev_symbols`` and
        ``alias_symbols``; several symbols in one field are separated by ``|``. Other columns are left out.
    target
        The file to write. The same source always gives the same bytes.

    Raises
    ------
    InvalidInput
        If the source lacks one of the columns.
    """
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise errors.InvalidInput(
                f"{source} lacks the columns {errors.names(lacking)}; give HGNC's table, tab-separated, with "
                f"the columns {errors.names(COLUMNS)}.",
                facts={"source": str(source)},
            )
        rows = sorted([row[name] for name in COLUMNS] for row in reader)
    text = "".join("\t".join(row) + "\n" for row in [list(COLUMNS), *rows])
    target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    return target


if __name__ == "__main__":
    build_table(Path(sys.argv[1]))

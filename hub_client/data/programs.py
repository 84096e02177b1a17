"""Gene programs: sets of genes from GMT files or data frames, matched to a model's genes by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hub_client import errors
from hub_client.data.genes import Panel
from hub_client.manifest.v1 import Term

_ID = re.compile(r"[A-Za-z][\w.-]*[:_-]?\w*\d\w*")
"""What counts as an id in a GMT's second column: one word with a digit that is no address, such as R-HSA-913531."""


@dataclass(frozen=True)
class Program:
    """One gene program as its source has it.

    Attributes
    ----------
    id
        Its id in the source; its name where it has none.
    name
        Its full name.
    genes
        Its genes' names, in the source's order, each once.
    """

    id: str
    name: str
    genes: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """Programs as a model's terms.

    Attributes
    ----------
    terms
        The programs that were kept, in the source's order, with unique ids and names.
    report
        One row for each program: ``id``, ``name``, ``genes`` (in the source), ``measured`` (by the model), ``kept`` and
        ``why`` it was not.
    """

    terms: tuple[Term, ...]
    report: pd.DataFrame

    def __str__(self) -> str:
        kept = int(self.report["kept"].sum())
        reasons = self.report.loc[~self.report["kept"], "why"].value_counts()
        dropped = "; ".join(f"{count:,} dropped: {why}" for why, count in reasons.items())
        return f"{kept:,} of {len(self.report):,} programs kept" + (f"; {dropped}" if dropped else "")


def read_gmt(path: str | Path) -> tuple[Program, ...]:
    """Return the programs of a GMT file: one a line, with its name, a description and its genes, separated by tabs.

    The description is the id where it looks like one (``R-HSA-913531``, ``GO:0006955``); addresses and texts are not
    kept, and the name is the id then. A file without any tab is read as scArches reads it: words between blanks, of
    which the first is the name and the others are genes.

    Raises
    ------
    NotFound
        If there is no such file.
    InvalidInput
        If a line does not have a name and a description, or the file has no line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise errors.NotFound(f"there is no gene program file at {path}.", name=str(path)) from None
    parsed = _tabbed if any("\t" in line for line in lines) else _spaced
    found = tuple(parsed(line, number, path) for number, line in enumerate(lines, start=1) if line.strip())
    if not found:
        raise errors.InvalidInput(f"{path} is empty; a GMT file has a gene program on each line.", facts={"path": path})
    return found


def _tabbed(line: str, number: int, path: str | Path) -> Program:
    name, *rest = (part.strip() for part in line.split("\t"))
    if not name or not rest:
        raise _no_program(line, number, path, expected="a name, a description and genes, separated by tabs")
    description, *genes = rest
    return Program(description if _ID.fullmatch(description) else name, name, _distinct(genes))


def _spaced(line: str, number: int, path: str | Path) -> Program:
    name, *genes = line.split()
    if not genes:
        raise _no_program(line, number, path, expected="a name and genes, separated by tabs or blanks")
    return Program(name, name, _distinct(gene for gene in genes if "://" not in gene))


def _distinct(genes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(gene for gene in genes if gene))


def _no_program(line: str, number: int, path: str | Path, *, expected: str) -> errors.InvalidInput:
    return errors.InvalidInput(
        f"line {number} of {path} is no gene program: expected {expected}; it begins {line[:40]!r}.",
        facts={"path": path, "line": number},
    )


def from_frame(
    frame: pd.DataFrame, *, source: str = "source", target: str = "target", weight: str | None = "weight"
) -> tuple[Program, ...]:
    """Return the programs of a network table, as decoupler and omnipath give them: a row for each program and gene.

    Parameters
    ----------
    frame
        The table.
    source, target
        Its columns of program names and gene names.
    weight
        Its column of weights: genes of weight 0 are left out; the sign is not used, for expiMap learns it. None, or a
        table without the column, takes every row.

    Raises
    ------
    VocabularyError
        If the table lacks a column.
    InvalidInput
        If no row is left.
    """
    if lost := [column for column in (source, target) if column not in frame]:
        raise errors.VocabularyError(
            f"the table of gene programs lacks columns {errors.names(lost)}; it has {errors.names(frame.columns)}. "
            "Name them with source= and target=.",
            field="columns",
            unknown=lost,
            known=[str(column) for column in frame],
        )
    rows = frame.dropna(subset=[source, target])
    rows = rows[rows[weight] != 0] if weight is not None and weight in rows else rows
    if rows.empty:
        raise errors.InvalidInput("the table of gene programs has no rows with a program and a gene.", facts={})
    groups = rows.groupby(rows[source].astype(str), sort=False)[target]
    return tuple(Program(str(name), str(name), _distinct(map(str, genes))) for name, genes in groups)


def genes_of(programs: Iterable[Program], panel: Panel) -> set[int]:
    """Return the indices of the panel's genes that any program has."""
    return {found[0] for gene in {g for p in programs for g in p.genes} if (found := panel.find(gene)) is not None}


def as_terms(
    programs: Sequence[Program],
    panel: Panel,
    *,
    min_genes: int = 12,
    max_genes: int | None = None,
    source: str | None = None,
    release: str | None = None,
    license: str | None = None,
) -> Chosen:
    """Return programs as terms over a model's genes, and a report of those that were dropped.

    Genes are matched by name: symbols or Ensembl ids, previous symbols and aliases of human genes.

    Parameters
    ----------
    programs
        From :func:`read_gmt` or :func:`from_frame`.
    panel
        The model's genes.
    min_genes, max_genes
        How many of the model's genes a program must have at least, and may have at most.
    source, release, license
        Where the programs come from; kept with every term.

    Raises
    ------
    AlignmentError
        If no program is left.
    """
    index = {gene: panel.find(gene) for gene in {gene for program in programs for gene in program.genes}}
    found = [tuple(sorted({hit[0] for gene in p.genes if (hit := index[gene]) is not None})) for p in programs]
    why = _reasons(programs, found, min_genes=min_genes, max_genes=max_genes)
    report = _report(programs, found, why)
    kept = [(p, genes) for p, genes, reason in zip(programs, found, why, strict=True) if not reason]
    if not kept:
        raise errors.AlignmentError(
            f"no gene program is left: of {len(programs):,}, the one with the most measured genes has "
            f"{max(map(len, found), default=0)}, and at least {min_genes} are asked for. Lower min_genes, or look at "
            "the genes' names.",
            coverage=0.0,
        )
    often = Counter(program.name for program, _ in kept)
    said = {"source": source, "release": release, "license": license}
    return Chosen(
        tuple(
            Term.model_validate(
                {"id": p.id, "name": p.name if often[p.name] == 1 else f"{p.name} ({p.id})", "genes": genes} | said
            )
            for p, genes in kept
        ),
        report,
    )


def _reasons(
    programs: Sequence[Program], found: Sequence[tuple[int, ...]], *, min_genes: int, max_genes: int | None
) -> list[str]:
    """Return why each program is dropped; ``""`` for those that are kept."""
    seen: set[str] = set()
    reasons = []
    for program, genes in zip(programs, found, strict=True):
        repeated = program.id in seen
        seen.add(program.id)
        reasons.append(_repeated(program) if repeated else _fault(program, len(genes), min_genes, max_genes))
    return reasons


def _repeated(program: Program) -> str:
    return f"an earlier one has the same {'name' if program.id == program.name else 'id'}"


def _fault(program: Program, measured: int, min_genes: int, max_genes: int | None) -> str:
    if not program.genes:
        return "no genes"
    if measured < min_genes:
        return f"fewer than {min_genes} measured genes"
    if max_genes is not None and measured > max_genes:
        return f"more than {max_genes} measured genes"
    return ""


def _report(programs: Sequence[Program], found: Sequence[tuple[int, ...]], why: Sequence[str]) -> pd.DataFrame:
    columns = {
        "id": [program.id for program in programs],
        "name": [program.name for program in programs],
        "genes": [len(program.genes) for program in programs],
        "measured": [len(genes) for genes in found],
        "kept": [not reason for reason in why],
        "why": list(why),
    }
    return pd.DataFrame(columns)

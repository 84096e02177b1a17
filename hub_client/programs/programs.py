"""Gene programs: sets of genes from GMT files or network tables, matched to a model's genes by name.

This is how terms get into an expiMap: a recipe names a file, and :class:`hub_client.Extensions` takes what
:func:`as_terms` makes of programs for a model that is there already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hub_client import errors
from hub_client.data.genes import Panel
from hub_client.manifest.v1 import Term
from hub_client.models.model import Model

_ID = re.compile(r"[A-Za-z][\w.-]*[:_-]?\w*\d\w*")
"""What counts as an id in a GMT's second column: one word with a digit that is no address, such as R-HSA-913531."""

ALIKE = "nearly the genes of a larger one"
"""Why a program is dropped that shares too many genes with another."""


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
        One row for each program: ``id``, ``name``, ``genes`` (in the source), ``measured`` (by the model), ``kept``,
        ``why`` it was not, and the id of a program that is there ``instead``, where it was too much like that one.
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
    frame: pd.DataFrame,
    *,
    source: str = "source",
    target: str = "target",
    weight: str | None = "weight",
    id: str | None = None,
) -> tuple[Program, ...]:
    """Return the programs of a network table, as decoupler and omnipath give them: a row for each program and gene.

    A weight only decides whether a gene belongs to a program: one of 0 does not. Sign and size are not used, for
    expiMap learns from the cells how much each gene weighs and which way. To keep, for one, only what a transcription
    factor activates, give those rows: ``from_frame(frame[frame["weight"] > 0])``.

    Parameters
    ----------
    frame
        The table.
    source, target
        Its columns of program names and gene names.
    weight
        Its column of weights; a missing weight leaves the gene in. None, or a table without the column, takes every
        row.
    id
        Its column of the programs' ids; None: the names are the ids.

    Raises
    ------
    VocabularyError
        If the table lacks a column.
    InvalidInput
        If no row is left, a weight is no number, or a program has several names.

    Examples
    --------
    >>> from_frame(decoupler.op.collectri())  # doctest: +SKIP
    """
    ids = source if id is None else id
    _check_columns(frame, [source, target, ids])
    rows = frame.dropna(subset=[source, target, ids])
    rows = rows[_numbers(rows[weight]) != 0] if weight is not None and weight in rows else rows
    if rows.empty:
        raise errors.InvalidInput("the table of gene programs has no rows with a program and a gene.", facts={})
    return tuple(_grouped(rows.astype({source: str, target: str, ids: str}), ids, source, target))


def _check_columns(frame: pd.DataFrame, wanted: Sequence[str]) -> None:
    if lost := [column for column in dict.fromkeys(wanted) if column not in frame]:
        raise errors.VocabularyError(
            f"the table of gene programs lacks columns {errors.names(lost)}; it has {errors.names(frame.columns)}. "
            "Name them with source=, target= and id=.",
            field="columns",
            unknown=lost,
            known=[str(column) for column in frame],
        )


def _numbers(weights: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(weights)
    except (ValueError, TypeError) as error:
        raise errors.InvalidInput(
            f"the weights of the gene programs are no numbers ({error}); name their column with weight=, or pass "
            "weight=None to take every row.",
            facts={"weight": weights.name},
        ) from None


def _grouped(rows: pd.DataFrame, ids: str, source: str, target: str) -> Iterator[Program]:
    for key, part in rows.groupby(ids, sort=False):
        names = list(dict.fromkeys(part[source]))
        if len(names) > 1:
            raise errors.InvalidInput(
                f"the gene program {key!r} has several names: {errors.names(names)}; an id has one.",
                facts={"id": key, "names": names},
            )
        yield Program(str(key), names[0], _distinct(part[target]))


def read_table(path: str | Path) -> tuple[Program, ...]:
    """Return the programs of a network table in a file: ``source``, ``target`` and, where there is, ``weight``, ``id``.

    A ``.csv`` file is separated by commas, any other by tabs; the columns mean what they do in :func:`from_frame`.

    Raises
    ------
    NotFound
        If there is no such file.
    VocabularyError, InvalidInput
        As :func:`from_frame`.
    """
    try:
        frame = pd.read_csv(path, sep="," if Path(path).suffix == ".csv" else "\t")
    except FileNotFoundError:
        raise errors.NotFound(f"there is no gene program file at {path}.", name=str(path)) from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise errors.InvalidInput(f"{path} is no table of gene programs: {error}.", facts={"path": path}) from None
    return from_frame(frame, id="id" if "id" in frame else None)


def read(path: str | Path) -> tuple[Program, ...]:
    """Return the programs of a file: a ``.gmt`` one as :func:`read_gmt`, others as :func:`read_table`."""
    return (read_gmt if Path(path).suffix == ".gmt" else read_table)(path)


def genes_of(programs: Iterable[Program], panel: Panel) -> set[int]:
    """Return the indices of the panel's genes that any program has."""
    return {found[0] for gene in {g for p in programs for g in p.genes} if (found := panel.find(gene)) is not None}


def as_terms(
    programs: Sequence[Program],
    model: Model | Panel,
    *,
    min_genes: int = 12,
    max_genes: int | None = None,
    max_overlap: float | None = None,
    source: str | None = None,
    release: str | None = None,
    license: str | None = None,
) -> Chosen:
    """Return programs as terms over a model's genes, and a report of those that were dropped.

    Genes are matched by name: symbols or Ensembl ids, previous symbols and aliases of human genes.

    Parameters
    ----------
    programs
        From :func:`read_gmt`, :func:`read_table` or :func:`from_frame`.
    model
        The model whose terms they are to be, or its genes.
    min_genes, max_genes
        How many of the model's genes a program must have at least, and may have at most.
    max_overlap
        Which share of genes, the Jaccard index in [0, 1], a program may have in common with a larger one that is kept;
        of equally large ones the first is kept. None lets programs be as alike as they are.
    source, release, license
        Where the programs come from; kept with every term.

    Raises
    ------
    AlignmentError
        If no program is left.

    Examples
    --------
    >>> chosen = as_terms(read_gmt("own.gmt"), reference, source="our lab", license="CC-BY-4.0")  # doctest: +SKIP
    >>> print(chosen)  # doctest: +SKIP
    >>> hub_client.surgery(reference, cells, extensions=Extensions(constrained=chosen.terms))  # doctest: +SKIP
    """
    panel = model if isinstance(model, Panel) else Panel.of(model.manifest)
    index = {gene: panel.find(gene) for gene in {gene for program in programs for gene in program.genes}}
    found = [tuple(sorted({hit[0] for gene in p.genes if (hit := index[gene]) is not None})) for p in programs]
    why = _reasons(programs, found, min_genes=min_genes, max_genes=max_genes)
    instead = {} if max_overlap is None else _redundant(found, why, max_overlap)
    why = [ALIKE if place in instead else reason for place, reason in enumerate(why)]
    report = _report(programs, found, why, instead)
    kept = [(p, places) for p, places, reason in zip(programs, found, why, strict=True) if not reason]
    if not kept:
        raise errors.AlignmentError(
            f"no gene program is left: of {len(programs):,}, the one with the most measured genes has "
            f"{max(map(len, found), default=0)}, and at least {min_genes} are asked for. Lower min_genes, or look at "
            "the genes' names.",
            coverage=0.0,
        )
    often = Counter(program.name for program, _ in kept)
    origin = {"source": source, "release": release, "license": license}
    return Chosen(
        tuple(
            Term.model_validate(
                {
                    "id": p.id,
                    "name": p.name if often[p.name] == 1 else f"{p.name} ({p.id})",
                    "genes": tuple(panel.names[place] for place in places),
                }
                | origin
            )
            for p, places in kept
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
        faults = {
            f"an earlier one has the same {'name' if program.id == program.name else 'id'}": program.id in seen,
            "no genes": not program.genes,
            f"fewer than {min_genes} measured genes": len(genes) < min_genes,
            f"more than {max_genes} measured genes": max_genes is not None and len(genes) > max_genes,
        }
        seen.add(program.id)
        reasons.append(next((fault for fault, there in faults.items() if there), ""))
    return reasons


def _redundant(found: Sequence[tuple[int, ...]], why: Sequence[str], max_overlap: float) -> dict[int, int]:
    """Return the place of each program that is too much like a larger one, and that one's place."""
    order = sorted((place for place, reason in enumerate(why) if not reason), key=lambda place: -len(found[place]))
    kept: list[int] = []
    instead = {}
    for place in order:
        shared = [len(set(found[place]).intersection(found[larger])) for larger in kept]
        unions = [len(found[place]) + len(found[larger]) for larger in kept]
        overlaps = [common / (both - common) for common, both in zip(shared, unions, strict=True)]  # Jaccard indices
        if overlaps and max(overlaps) > max_overlap:
            instead[place] = kept[overlaps.index(max(overlaps))]
        else:
            kept.append(place)
    return instead


def _report(
    programs: Sequence[Program], found: Sequence[tuple[int, ...]], why: Sequence[str], instead: dict[int, int]
) -> pd.DataFrame:
    columns = {
        "id": [program.id for program in programs],
        "name": [program.name for program in programs],
        "genes": [len(program.genes) for program in programs],
        "measured": [len(genes) for genes in found],
        "kept": [not reason for reason in why],
        "why": list(why),
        "instead": [programs[instead[place]].id if place in instead else "" for place in range(len(programs))],
    }
    return pd.DataFrame(columns)

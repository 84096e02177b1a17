"""Name expiMap's gene programs, whose names scArches does not save: in their order, or by their genes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hub_client import errors
from hub_client.manifest.v1 import Manifest, Term
from hub_client.programs.programs import Program, read_gmt

Names = Sequence[str] | Sequence[Program]
"""Names in the order of the terms, or gene programs in any order."""


def named(manifest: Manifest, names: Names) -> tuple[Term, ...]:
    """Return a manifest's terms under names that are given for them.

    Parameters
    ----------
    manifest
        Of an expiMap.
    names
        The annotated terms' names in their order, or those of all terms; or gene programs, in any order and number:
        each annotated term is called by the one that has, of the model's genes, exactly its own. Genes are compared in
        upper case, as scArches does when it makes the mask.

    Raises
    ------
    InvalidInput
        If the model has no terms, the names are not as many, or no program has the genes of a term.
    """
    if not manifest.terms:
        raise errors.InvalidInput(
            f"a {manifest.architecture.kind} has no gene programs to name; leave term_names out.",
            facts={"term_names": len(names)},
        )
    annotated = [term for term in manifest.terms if term.kind == "annotated"]
    programs = [program for program in names if isinstance(program, Program)]
    pairs = _by_genes(manifest, annotated, programs) if programs else [(str(name), str(name)) for name in names]
    if len(pairs) not in (len(annotated), len(manifest.terms)):
        raise errors.InvalidInput(
            f"term_names has {len(pairs):,} names, the model {len(annotated):,} annotated terms of "
            f"{len(manifest.terms):,}. Give one for each, in the order of the mask's rows, or the gene programs.",
            facts={"term_names": len(pairs), "terms": len(annotated)},
        )
    named = zip(manifest.terms, pairs, strict=False)
    renamed = [term.model_copy(update={"id": id, "name": name}) for term, (id, name) in named]
    return (*renamed, *manifest.terms[len(renamed) :])


def read(file: Path) -> Names:
    """Return what a file has: one name a line, or gene programs where it has tabs, as the GMT format does.

    Raises
    ------
    NotFound
        If there is no such file.
    InvalidInput
        If a line with tabs is no gene program.
    """
    if not file.is_file():
        raise errors.NotFound(f"{file}: no such file of term names.", name=str(file))
    text = file.read_text(encoding="utf-8-sig")
    return read_gmt(file) if "\t" in text else [line.strip() for line in text.split("\n") if line.strip()]


def _by_genes(manifest: Manifest, terms: Sequence[Term], programs: Sequence[Program]) -> list[tuple[str, str]]:
    """Return id and name of each term's program: of programs with the same of the model's genes, the next one."""
    known: dict[frozenset[str], list[Program]] = {}
    for program in programs:
        members = {gene.upper() for gene in program.genes}
        own = frozenset(gene for gene in manifest.genes.names if gene.upper() in members)
        known.setdefault(own, []).append(program)
    found = [matching.pop(0) if (matching := known.get(frozenset(term.genes))) else None for term in terms]
    if lost := [term.name for term, program in zip(terms, found, strict=True) if program is None]:
        raise errors.InvalidInput(
            f"no gene program has the genes of {len(lost):,} of {len(terms):,} terms: {errors.names(lost)}. "
            "Give the file that the model was trained with, or the names in the order of the mask's rows.",
            facts={"term_names": len(programs), "unmatched": lost},
        )
    named = [program for program in found if program is not None]
    often = Counter(program.name for program in named)
    return [(p.id, p.name if often[p.name] == 1 else f"{p.name} ({p.id})") for p in named]

"""The names of expiMap's gene programs, which scArches does not save: given in order, or found by their genes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hub_client import errors
from hub_client.manifest.v1 import Manifest, Term

Names = Sequence[str] | Mapping[str, Iterable[str]]
"""Names in the order of the terms, or name to genes."""


def named(manifest: Manifest, names: Names) -> tuple[Term, ...]:
    """Return a manifest's terms under names that are given for them.

    Parameters
    ----------
    manifest
        Of an expiMap.
    names
        The annotated terms' names in their order, or those of all terms; or gene sets by name, as in a GMT file, in any
        order and number: each annotated term is called by the set that has, of the model's genes, exactly its own.
        Genes are compared in upper case, as scArches does.

    Raises
    ------
    InvalidInput
        If the model has no terms, the names are not as many, or a term's genes are in no set.
    """
    if not manifest.terms:
        raise errors.InvalidInput(
            f"a {manifest.architecture.kind} has no gene programs to name; leave term_names out.",
            facts={"term_names": len(names)},
        )
    annotated = [term for term in manifest.terms if term.kind == "annotated"]
    found = _by_genes(manifest, annotated, names) if isinstance(names, Mapping) else list(names)
    if len(found) not in (len(annotated), len(manifest.terms)):
        raise errors.InvalidInput(
            f"term_names has {len(found):,} names, the model {len(annotated):,} annotated terms of "
            f"{len(manifest.terms):,}. Give one for each, in the order of the mask's rows, or the gene sets by name.",
            facts={"term_names": len(found), "terms": len(annotated)},
        )
    renamed = [
        term.model_copy(update={"id": name, "name": name}) for term, name in zip(manifest.terms, found, strict=False)
    ]
    return (*renamed, *manifest.terms[len(renamed) :])


def read(file: Path) -> Names:
    """Return the names in a file: one a line; or gene sets by name where it has tabs, which is the GMT format.

    Raises
    ------
    NotFound
        If there is no such file.
    InvalidInput
        If two gene sets have one name.
    """
    if not file.is_file():
        raise errors.NotFound(f"{file}: no such file of term names.", name=str(file))
    lines = [line.rstrip("\r") for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not any("\t" in line for line in lines):
        return [line.strip() for line in lines]
    rows = [line.split("\t") for line in lines]
    sets = {row[0].strip(): row[1:] for row in rows}
    if len(sets) < len(rows):
        raise errors.InvalidInput(f"{file}: two gene sets have the same name.", facts={"file": str(file)})
    return sets


def _by_genes(manifest: Manifest, terms: Sequence[Term], sets: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the name of each term: sets with the same of the model's genes are taken in their order."""
    panel = [name.upper() for name in manifest.genes.names]
    known: dict[frozenset[int], list[str]] = {}
    for name, genes in sets.items():
        members = {gene.upper() for gene in genes}
        known.setdefault(frozenset(i for i, gene in enumerate(panel) if gene in members), []).append(name)
    found = [names.pop(0) if (names := known.get(frozenset(term.genes))) else None for term in terms]
    if lost := [term.name for term, name in zip(terms, found, strict=True) if name is None]:
        raise errors.InvalidInput(
            f"{len(lost):,} of {len(terms):,} terms have genes that no gene set has: {errors.names(lost)}. "
            "Give the file that the model was trained with, or the names in the order of the mask's rows.",
            facts={"term_names": len(sets), "unmatched": lost},
        )
    return [name for name in found if name is not None]

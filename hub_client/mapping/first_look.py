"""Whether a model could fit a query, by its manifest alone: organism, tissue, values and genes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data import coverage as coverages
from hub_client.data import genes, sources
from hub_client.data.coverage import Case, Coverage
from hub_client.data.genes import Panel
from hub_client.data.sources import Source
from hub_client.manifest.v1 import Manifest

HIDDEN: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FirstLook:
    """What a manifest tells about a query.

    Attributes
    ----------
    coverage
        Share of the model's genes that the query measured; None where its genes could not be read.
    target
        The place in the model's panel of each of the query's genes, -1 for none, ``(query genes,)``.
    against
        Why the model cannot fit, in a clause; empty where nothing is against it.
    """

    coverage: float | None
    target: NDArray[np.int64]
    against: str = ""


def first_look(query: AnnData, manifest: Manifest, *, layer: str | None, tissue: str | None) -> FirstLook:
    """Return what a model's manifest tells about a query.

    Parameters
    ----------
    query
        Some of its cells.
    manifest
        The model's.
    layer
        The matrix to read, as for :func:`hub_client.align`.
    tissue
        What the user looks for: part of a tissue's name, or its ontology id; None for any.
    """
    try:
        source = sources.choose_source(query, layer=layer, hint=manifest.input.layer)
        panel = Panel.of(manifest)
        match = genes.resolve_duplicates(genes.match(source.var, panel), policy=manifest.genes.duplicates)
    except errors.AlignmentError as error:
        return FirstLook(None, HIDDEN, str(error).rstrip("."))
    coverage, case = Coverage.of(match, None), Case(source, manifest, panel)
    foreign = _organism(case) or "".join(coverages.check_organism(match, case, coverage)[:1]).rstrip(".")
    against = foreign or _tissue(manifest, tissue) or _genes(coverage, case) or _values(source, manifest)
    return FirstLook(coverage.plain, match.target, against)


def _organism(case: Case) -> str:
    """Return that the query is another organism's; other names than human and mouse are written in several ways."""
    ours, theirs = genes.organism_of(case.manifest), genes.organism(case.names)
    if ours not in ("human", "mouse") or theirs in (None, ours):
        return ""
    return f"its genes are {ours}, and the query's look like {theirs} genes"


def _tissue(manifest: Manifest, wanted: str | None) -> str:
    if wanted is None or not manifest.tissue or of_tissue(manifest, wanted):
        return ""
    return f"its reference is {errors.names(term.label for term in manifest.tissue)}, not {wanted}"


def of_tissue(manifest: Manifest, wanted: str) -> bool:
    """Return whether a model states this tissue: by part of its name, in any case, or by its ontology id."""
    word = wanted.strip().casefold()
    return any(word in term.label.casefold() or word == term.id.casefold() for term in manifest.tissue)


def _genes(coverage: Coverage, case: Case) -> str:
    least = case.manifest.genes.coverage_refuse
    if coverage.measured and coverage.plain >= least:
        return ""
    said = f"the query measures {coverage.plain:.0%} of its genes, and it asks for {least:.0%} at least"
    why = coverages.likely_reason(coverage, case).strip().rstrip(".")
    return f"{said}. {why}" if why else said


def _values(source: Source, manifest: Manifest) -> str:
    if manifest.input.kind != "counts" or source.holds_counts:
        return ""
    others = [one for one in sources.every(source.adata) if one.name != source.name and one.holds_counts]
    where = "".join(f"; {one.name} does: pass layer={one.argument!r}" for one in others[:1])
    return f"it reads counts, and {source.name} does not hold counts{where}"

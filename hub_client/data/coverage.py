"""How much of a model's panel a query measured, and why so little where it is little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data import genes
from hub_client.data.genes import Match, Panel
from hub_client.data.sources import Source
from hub_client.data.species import HUMAN, MOUSE, Evidence, only_in
from hub_client.manifest.v1 import Manifest

_LIKE_GENES = 0.1
"""Share of the panel that obs_names, or names in another case, must find to be taken for its genes."""
_ENOUGH, _MOST, _HARDLY = 20, 0.6, 0.1
"""How many genes that only humans have say something by their absence; the least share of other genes that has to be
there; and the most of those, as a share of it."""


@dataclass(frozen=True)
class Coverage:
    """Which of a model's genes a query measured."""

    plain: float
    """Share of the genes, in [0, 1]."""
    weighted: float | None
    """Share of the encoder's use of genes, in [0, 1]; None without weights."""
    measured: int
    """How many genes."""
    missing: tuple[str, ...]
    """The other genes, the most used first (in panel order without weights)."""

    @classmethod
    def of(cls, match: Match, usage: NDArray[np.float32] | None) -> Coverage:
        """Return the coverage of a match; ``usage`` is how much the encoder uses each gene, ``(genes,)``."""
        absent = np.ones(match.panel.size, dtype=bool)
        absent[match.found] = False
        weights = np.zeros(absent.size) if usage is None else usage.astype(np.float64)
        order = np.flatnonzero(absent)[np.argsort(-weights[absent], kind="stable")]
        weighted = float(weights[~absent].sum() / weights.sum()) if weights.any() else None
        return cls(float((~absent).mean()), weighted, int((~absent).sum()), tuple(match.panel[order]))

    def __str__(self) -> str:
        total = self.measured + len(self.missing)
        used = "" if self.weighted is None else f", {self.weighted:.1%} weighted by use"
        return f"{self.measured:,} of the model's {total:,} genes ({self.plain:.1%}{used})"


@dataclass(frozen=True)
class Case:
    """The matrix of a query that was read, and the model it was read for."""

    source: Source
    manifest: Manifest
    panel: Panel

    @property
    def names(self) -> list[str]:
        """The names of the query's genes."""
        return [str(name) for name in self.source.features.names[self.source.features.genes]]


def check_organism(match: Match, case: Case, coverage: Coverage) -> tuple[str, ...]:
    """Return a warning where a query that was taken looks like another organism's, its symbols in upper case."""
    known = {HUMAN, MOUSE}
    names = [genes.plain(name) for name in match.names[case.source.features.genes] if name]
    ours, theirs = genes.organism_of(case.manifest), genes.organism(names)
    if {ours, theirs} == known:
        shown = Evidence.of(names)
        only, other = (shown.mouse, shown.human) if theirs == MOUSE else (shown.human, shown.mouse)
        return (
            f"the query's genes look like {theirs} genes, the model's are {ours}: {len(only):,} have names that only "
            f"{theirs} genes have ({errors.names(only)}), {len(other):,} names that only {ours} genes have. Symbols "
            f"in another case are no orthologues: map the genes to these first, or choose a {theirs} model.",
        )
    return _no_human_genes(case, coverage) if ours == HUMAN else ()


def _no_human_genes(case: Case, coverage: Coverage) -> tuple[str, ...]:
    """Return a warning where a query has most genes of a human model, but hardly any that the mouse has not."""
    symbols = {gene.symbol: name for gene, name in zip(case.manifest.genes.panel, case.panel.names, strict=True)}
    human = {name for symbol, name in symbols.items() if symbol and symbol.upper() in only_in(HUMAN)}
    others, missing = len(case.panel.names) - len(human), set(coverage.missing)
    found, rest = len(human - missing), 1 - len(missing - human) / max(others, 1)
    if len(human) < _ENOUGH or rest < _MOST or found > _HARDLY * rest * len(human):
        return ()
    return (
        f"the query measures {rest:.0%} of the model's other genes, but {found:,} of the {len(human):,} that only "
        f"humans have, such as {errors.names(sorted(human & missing), shown=3)}: so do a mouse's genes whose symbols "
        "were put in upper case, and data that were cut to what both have. Map a mouse's genes to their orthologues.",
    )


def check(coverage: Coverage, case: Case, *, minimum: float | None) -> tuple[str, ...]:
    """Return a warning where coverage is below the manifest's ``coverage_warn``; refuse below ``coverage_refuse``.

    Parameters
    ----------
    minimum
        Takes the place of both thresholds, if given.

    Raises
    ------
    AlignmentError
        If coverage is below ``coverage_refuse``, or no gene is shared; with the likely reason.
    """
    policy = case.manifest.genes
    refuse, warn = (policy.coverage_refuse, policy.coverage_warn) if minimum is None else (minimum, minimum)
    if coverage.measured == 0 or coverage.plain < refuse:
        raise errors.AlignmentError(
            f"{_refusal(coverage, case, refuse)}{likely_reason(coverage, case)}",
            coverage=coverage.plain,
            missing=coverage.missing,
        )
    if coverage.plain >= warn:
        return ()
    most = "Missing" if coverage.weighted is None else "Missing, the most used first"
    return (f"the query measures {coverage}, below {warn:.0%}. {most}: {errors.names(coverage.missing)}.",)


def likely_reason(coverage: Coverage, case: Case) -> str:
    """Return why so few of a model's genes were found, in a sentence after a blank; nothing where that is not clear."""
    return next(filter(None, (why(coverage, case) for why in _REASONS)), "")


def _refusal(coverage: Coverage, case: Case, refuse: float) -> str:
    if not case.names:
        return f"the query has no genes: {' '.join(case.source.features.notes)}"
    if coverage.measured == 0:
        return (
            f"the query shares no gene with the model {case.manifest.name}, which reads "
            f"{errors.names(case.panel.names)}; the query has {errors.names(case.names)}."
        )
    return (
        f"the query measures {coverage}; the model {case.manifest.name} asks for at least {refuse:.0%}. Missing, the "
        f"most used first: {errors.names(coverage.missing)}. Pass min_coverage= to map it all the same."
    )


def _other_organism(coverage: Coverage, case: Case) -> str:
    theirs, ours = genes.organism(case.names), genes.organism_of(case.manifest)
    if theirs is None or theirs == ours:
        return ""
    return (
        f" Its genes look like {theirs} genes, the model's {f'are {ours}' if ours else 'do not'}: map them to their "
        f"orthologues first, or choose a model for {theirs}."
    )


def _transposed(coverage: Coverage, case: Case) -> str:
    found = sum(case.panel.find(str(name)) is not None for name in case.source.adata.obs_names)
    if found / len(case.panel.names) <= max(_LIKE_GENES, coverage.plain):
        return ""
    return " Its obs_names are genes: cells belong in rows, so pass adata.T."


def _numbered(coverage: Coverage, case: Case) -> str:
    if not case.names or not all(name.isdigit() for name in case.names):
        return ""
    return " Its var_names are numbers: put the genes' names back into adata.var_names or a column of adata.var."


def _more_in_raw(coverage: Coverage, case: Case) -> str:
    if case.source.adata.raw is None or case.source.name == "raw":
        return ""
    found = int(genes.match(case.source.adata.raw.var, case.panel).found.size)
    return f" adata.raw measures {found:,} of them: pass layer='raw'." if found > coverage.measured else ""


def _other_case(coverage: Coverage, case: Case) -> str:
    known = {name.upper() for name in case.panel.names}
    found = sum(name.upper() in known for name in case.names)
    if found <= max(_LIKE_GENES * len(known), coverage.measured):
        return ""
    return " But for upper and lower case the names are the model's: correct the case of adata.var_names."


def _other_ids(coverage: Coverage, case: Case) -> str:
    theirs, ours = genes.id_type(case.names), case.panel.id_type
    if coverage.measured or theirs == ours:
        return ""
    return (
        f" It names genes by {_KINDS[theirs]}, the model by {_KINDS[ours]}, and no table at hand pairs them: put the "
        f"{_KINDS[ours]} into a column of adata.var."
    )


_REASONS = (_other_organism, _transposed, _numbered, _more_in_raw, _other_case, _other_ids)
_KINDS = {"ensembl": "Ensembl ids", "symbol": "symbols"}

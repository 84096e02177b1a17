"""rank_references(): which model of your hubs fits a query, with the reasons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data import open_query
from hub_client.data.open_query import Needed, Query
from hub_client.data.sources import choose_source
from hub_client.hub.client import Address, Hub
from hub_client.hub.newest import Broken, Offered
from hub_client.labels.verdict import ORDER, Colour
from hub_client.mapping.first_look import FirstLook, first_look
from hub_client.mapping.zero_shot import ZeroShot, zero_shot

MOST = 3
"""How many models are pulled and tried, at most."""
MAX_BYTES = 500_000_000
"""How much is pulled for that, at most, all models together."""
SAMPLE = 1_000
"""How many of the query's cells are mapped, at most."""
STEP = 0.05
"""Shares that are closer than this do not put one model before another."""
FEW = 100
"""Cells of a query whose figures are rough."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceFit:
    """How well one model fits a query.

    Attributes
    ----------
    rank
        From 1.
    name, version, hub, digest
        Which release: the newest version that was not yanked.
    architecture, organism, tissue
        What its manifest states.
    cells, size
        Cells that it was trained on, and bytes of the release.
    coverage
        Share of its genes that the query measured; None where the query's genes could not be read.
    weighted_coverage
        Share of what its encoder reads; None before it was pulled.
    tried
        Whether it was pulled and the query's sample mapped onto it.
    suits
        Whether it was, and nothing forbids the mapping: the verdict is not red, and the query not foreign to it.
    novel, declared, foreign_score, beyond_atlas, uncertainty, verdict, reconstruction
        Of the sample, mapped without training; None where it was not tried or cannot be known. See
        :class:`hub_client.mapping.zero_shot.ZeroShot`.
    reason
        Why it is where it is, in a sentence.
    """

    rank: int
    name: str
    version: str | None
    hub: str
    digest: str
    architecture: str
    organism: str | None
    tissue: tuple[str, ...]
    cells: int
    size: int
    coverage: float | None
    weighted_coverage: float | None = None
    tried: bool = False
    suits: bool = False
    novel: float | None = None
    declared: float | None = None
    foreign_score: float | None = None
    beyond_atlas: float | None = None
    uncertainty: float | None = None
    verdict: Colour | None = None
    reconstruction: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class References:
    """Every model of some hubs, the best for a query first.

    Attributes
    ----------
    rows
        One for each model.
    left_out
        What could not be read, and why, a sentence each.
    sampled
        How many of the query's cells were mapped.
    downloaded
        Bytes of the releases that were pulled.
    """

    rows: tuple[ReferenceFit, ...]
    left_out: tuple[str, ...]
    sampled: int
    downloaded: int

    @property
    def best(self) -> ReferenceFit | None:
        """The model to take; None where none of those that were tried suits the query."""
        return self.rows[0] if self.rows and self.rows[0].suits else None

    @property
    def stated(self) -> str:
        """Which model to take, or that none fits, and why."""
        tried = sum(row.tried for row in self.rows)
        if self.best:
            return f"Take {self.best.name}: of {tried} tried it fits best, and its verdict is {self.best.verdict}."
        if not self.rows:
            return "None fits: there is no model to choose from."
        scope = f"none of the {tried} tried" if tried < len(self.rows) else f"none of {tried}"
        if not tried:
            scope = f"none of {len(self.rows)} by its manifest" if len(self.rows) > 1 else "not the one there is"
        nearest = self.rows[0]
        return f"None fits ({scope}). The nearest, {nearest.name}, {nearest.reason}"

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table, indexed by rank."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("rank") if self.rows else pd.DataFrame()

    def as_json(self) -> dict[str, Any]:
        """Return the ranking in types that JSON has."""
        rows = [asdict(row) | {"tissue": list(row.tissue)} for row in self.rows]
        best = self.best.name if self.best else None
        stated = {"best": best, "stated": self.stated, "references": rows, "left_out": list(self.left_out)}
        return stated | {"sampled": self.sampled, "downloaded": self.downloaded}


def rank_references(
    adata: Query,
    *,
    hub: Hub | Address | None = None,
    layer: str | None = None,
    tissue: str | None = None,
    most: int = MOST,
    max_bytes: int = MAX_BYTES,
    seed: int = 0,
    device: str = "auto",
) -> References:
    """Return every model of the configured hubs, the one that fits the query best first, with the reasons.

    First manifests alone are read: organism, tissue, values, and the share of the model's genes that the query measured
    (genes are matched as :func:`hub_client.align` matches them). The best few are pulled, and up to 1,000 of the
    query's cells mapped onto each without training: which of them are novel, how unsure labels are, the mapping's
    verdict, and how near what the model expects is to what was counted. docs/which.md states what the order is made of.

    Parameters
    ----------
    adata
        The query, ``(cells, genes)``: AnnData, MuData or a path. It is not written to.
    hub
        Where to look, as for :class:`hub_client.Hub`: None is the models that come with archzoo and the configured
        hubs.
    layer
        The matrix to read, as for :func:`hub_client.align`.
    tissue
        Only models whose manifest names this tissue, by a part of its label or by ontology id, or names none.
    most
        How many models are pulled and tried, at most; 0 for none.
    max_bytes
        How much is pulled, at most, all models together; releases in a local folder or in the cache count, too.
    seed
        Of the cells that are drawn, and of all that is computed on them.
    device
        Where models run: ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    found : References
        ``.best``, ``.stated``, ``.rows``, ``.to_frame()``. What could not be read is in ``.left_out``, and logged.

    Raises
    ------
    InvalidInput, NotFound
        If the query cannot be read, or a limit is below 0.
    VocabularyError
        If the query has no such layer.
    AlignmentError
        If the query has no cells.
    TransportError
        If the one hub that was named cannot be reached.

    Examples
    --------
    >>> found = hub_client.rank_references(adata)  # doctest: +SKIP
    >>> found.best.name  # doctest: +SKIP
    'pbmc-scpoli'
    """
    _check(most=most, max_bytes=max_bytes)
    query = _sample(adata, layer=layer, seed=seed)
    place = hub if isinstance(hub, Hub) else Hub(hub)
    offered, broken = place.newest()
    if broken and len(place.stores) == 1 and not broken[0].name:
        raise errors.TransportError(broken[0].reason)
    found = [_Candidate(one, first_look(query, one.manifest, layer=layer, tissue=tissue)) for one in offered]
    tries = _tried(found, query, _Limits(most, max_bytes), layer=layer, seed=seed, device=device)
    for one in broken:
        _log.warning("%s", one)
    return _ranked(found, tries, broken, sampled=query.n_obs, limits=_Limits(most, max_bytes))


def _check(**limits: int) -> None:
    for name, value in limits.items():
        if value < 0:
            raise errors.InvalidInput(f"{name} is {value}; it is 0 or more.", facts={name: value})


def _sample(adata: Query, *, layer: str | None, seed: int) -> AnnData:
    """Return some cells of a query, in memory, in their order."""
    query = open_query.opened(adata, needed=Needed(layer=layer))
    if not query.n_obs or not query.n_vars:
        raise errors.AlignmentError("the query has no cells or no genes; check the filter that made it.")
    if layer is not None:
        choose_source(query, layer=layer, hint=None)  # a layer that is not there is no model's fault
    rows = np.sort(np.random.default_rng(seed).permutation(query.n_obs)[:SAMPLE])
    return open_query.in_memory(query[rows])


# --- which are tried -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    most: int
    max_bytes: int


@dataclass(frozen=True)
class _Candidate:
    offered: Offered
    look: FirstLook

    @property
    def cells(self) -> int:
        return sum(data.cells for data in self.offered.manifest.training.datasets)

    @property
    def promise(self) -> tuple[Any, ...]:
        """What candidates are sorted by before anything is pulled.

        That is: how far the share of genes is below what the model asks for without a warning, or, of those that cannot
        fit, that share; cells of the reference; whether novelty and labels are known; and the name.
        """
        manifest, ref = self.offered.manifest, self.offered.ref
        share = -1.0 if self.look.coverage is None else self.look.coverage
        lacking = _step(1 - share if self.look.against else max(manifest.genes.coverage_warn - share, 0.0))
        untold = (manifest.trust.novelty is None, not manifest.labels)
        return (bool(self.look.against), lacking, -self.cells, *untold, ref.repo, ref.hub)


@dataclass
class _Tries:
    """What came of the candidates that were chosen: a result, or why there is none."""

    results: dict[int, ZeroShot] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    downloaded: int = 0


def _tried(
    found: Sequence[_Candidate], query: AnnData, limits: _Limits, *, layer: str | None, seed: int, device: str
) -> _Tries:
    """Pull and try the most promising, within the limits; one that fails makes room for the next."""
    tries = _Tries()
    order = sorted((at for at, one in enumerate(found) if not one.look.against), key=lambda at: found[at].promise)
    shared = _shared([found[at].look.target for at in order[: limits.most]])
    for at in order:
        one = found[at]
        if len(tries.results) >= limits.most:
            tries.refused[at] = _crowded(limits.most)
        elif one.offered.size > limits.max_bytes - tries.downloaded:
            tries.refused[at] = _too_large(one.offered.size, limits.max_bytes, used=tries.downloaded)
        else:
            tries.downloaded += one.offered.size
            columns = one.look.target[shared] if len(shared) else shared
            columns = columns if (columns >= 0).all() else columns[:0]  # of one that came in another's place
            try:
                model = one.offered.pull()
                tries.results[at] = zero_shot(model, query, layer=layer, columns=columns, seed=seed, device=device)
            except errors.HubClientError as error:
                tries.refused[at] = f"it could not be tried: {str(error).rstrip('.')}"
    return tries


def _shared(targets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return which of the query's genes all of some panels have, each by one gene of its own."""
    if not targets or len({len(target) for target in targets}) > 1:
        return np.empty(0, dtype=np.int64)
    kept = [np.isin(np.arange(len(one)), _first(one)) for one in targets]
    return np.flatnonzero(np.logical_and.reduce(kept))


def _first(target: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the query's genes that are the first of a gene of the panel."""
    places, first = np.unique(target, return_index=True)
    found: NDArray[np.int64] = first[places >= 0]
    return found


def _crowded(most: int) -> str:
    if not most:
        return "not downloaded: no model was to be tried"
    return f"not downloaded: {'another fits' if most == 1 else f'{most} others fit'} better by their manifests"


def _too_large(size: int, limit: int, *, used: int) -> str:
    said = f"not downloaded: its release of {megabytes(size)} is above "
    return said + (f"what is left of the limit of {megabytes(limit)}" if used else f"the limit of {megabytes(limit)}")


def megabytes(size: int) -> str:
    """Return a number of bytes in megabytes."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


# --- their order -----------------------------------------------------------------------------------------------------


def _ranked(
    found: Sequence[_Candidate], tries: _Tries, broken: Sequence[Broken], *, sampled: int, limits: _Limits
) -> References:
    tried = sorted(tries.results, key=lambda at: (*_order(tries.results[at]), found[at].promise))
    others = sorted(set(range(len(found))) - set(tried), key=lambda at: found[at].promise)
    rows = [
        _row(found[at], rank, tries.results.get(at), tries.refused.get(at, ""), sampled=sampled)
        for rank, at in enumerate([*tried, *others], start=1)
    ]
    return References(tuple(rows), tuple(map(str, broken)), sampled, tries.downloaded)


def _order(result: ZeroShot) -> tuple[float, ...]:
    """Return what tried models are sorted by: fit, new cells, unsure labels, verdict, genes, reconstruction."""
    expected = result.declared or 0.0
    unsure = 1.0 if result.uncertainty is None else result.uncertainty
    genes = 0.0 if result.weighted_coverage is None else result.weighted_coverage
    return (
        not result.suits,
        _step(max(result.apart - expected, 0.0)),
        _step(unsure),
        ORDER.index(result.verdict),
        -_step(genes),
        0.0 if result.reconstruction is None else -result.reconstruction,
    )


def _step(share: float) -> float:
    return round(share / STEP)


def _row(one: _Candidate, rank: int, result: ZeroShot | None, refused: str, *, sampled: int) -> ReferenceFit:
    manifest, ref = one.offered.manifest, one.offered.ref
    fit = ReferenceFit(
        rank=rank,
        name=ref.repo,
        version=ref.version,
        hub=ref.hub,
        digest=ref.digest,
        architecture=manifest.architecture.kind,
        organism=manifest.organism.label if manifest.organism else None,
        tissue=tuple(term.label for term in manifest.tissue),
        cells=one.cells,
        size=one.offered.size,
        coverage=one.look.coverage,
        reason=f"{(f'does not fit: {one.look.against}' if one.look.against else refused)}.",
    )
    return fit if result is None else _with_result(fit, result, sampled=sampled)


def _with_result(fit: ReferenceFit, result: ZeroShot, *, sampled: int) -> ReferenceFit:
    known = {name: value for name, value in vars(result).items() if name != "objections"}
    more = {"tried": True, "suits": result.suits, "reason": _reason(fit, result, sampled=sampled)}
    return ReferenceFit(**{**vars(fit), **known, **more})


def _reason(fit: ReferenceFit, result: ZeroShot, *, sampled: int) -> str:
    parts = [f"the query measures {fit.coverage:.0%} of its genes"] if fit.coverage is not None else []
    if result.novel is not None:
        parts.append(f"{result.novel:.0%} of cells are novel where {result.declared:.0%} of known ones would be")
    elif result.beyond_atlas is not None:
        parts.append(f"{result.beyond_atlas:.0%} of cells are beyond its atlas")
    if result.uncertainty is not None:
        parts.append(f"labels are {result.uncertainty:.2f} unsure")
    against = ", ".join(f"{check.name} ({check.colour})" for check in result.objections)
    if result.reconstruction is not None:
        than = "nearer to a cell than" if result.reconstruction > 0 else "no nearer to a cell than"
        parts.append(f"what it expects is {than} the query's average ({result.reconstruction:+.2f})")
    parts.append(f"the verdict is {result.verdict}" + (f" by {against}" if against else ""))
    foreign = f"most of the query differs from its cells (a score of {result.foreign_score or 0:.2f})"
    parts = [foreign, *parts] if result.foreign else parts
    rough = f"; {sampled} cells are few to judge by" if sampled < FEW else ""
    return f"{'' if result.suits else 'does not fit: '}{'; '.join(parts)}{rough}."

"""novelty(): which cells are of no type of the reference; with_novelty(): a model that can tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.data.cells import Cells, aligned
from hub_client.labels import expression_space
from hub_client.labels.expression_neighbors import incomplete, kept_space
from hub_client.labels.expression_space import Codes, ExpressionSpace, Numbers
from hub_client.labels.novelty_score import LEAST_CELLS, Scored, score
from hub_client.labels.predict import Predictions
from hub_client.manifest.calibration import FalsePositives, NoveltyRecord
from hub_client.manifest.v1 import TensorSpec
from hub_client.models.model import Model

PREFIX = "novelty."
RANKS = "ranks"
DECLARED = 0.05
"""The share of known cells that is called novel, where nothing else is asked for."""
FOREIGN_ABOVE = 0.12
"""Median raw score above which most of a query differs from the reference: blood had .08 at most on a reference of
blood, lung, mouse and shuffled genes .16 at least (docs/novelty.md)."""
LEAST_GENES = 10
"""Genes that a query has to have measured for its expression to be compared."""
LEAST_KNOWN = 20
"""Cells of known labels that a batch needs for a quantile of theirs."""
LEAST_REFERENCE = 100
"""Cells that a reference needs."""
MOST_LEFT_OUT = 20
"""Batches that are left out in turn, at most: the largest."""
FOLDS = 5
"""Random parts that stand in for batches."""
LEVELS = np.concatenate([np.linspace(0, 0.9, 91), 1 - np.geomspace(0.099, 0.0005, 109)])
"""The ranks whose scores a release holds: finer where cells are called novel."""
FLOOR = 0.05
"""Added to the scale of scores: below that, differences are noise."""
ALLOWANCES = np.geomspace(0.5, 10, 100)
"""Factors of known cells' scores that are tried until a batch's cells are called novel as often as declared by a
threshold from other batches: a batch is more unlike others than its cells are unlike each other."""
PARTLY, MOSTLY = 0.2, 0.5
"""Share of novel cells from which a cluster is called partly novel, or novel."""
GENES_NAMED = 10
"""Genes named of each cluster, in each direction."""
UNTOLD = "the release carries no expression of its reference to tell them by"
"""Why nothing is known of novelty in a model without."""


@dataclass(frozen=True)
class Novelty:
    """How new a query's cells are to a reference.

    Attributes
    ----------
    novelty
        The rank of each cell in [0, 1] among known cells of studies that a reference like this one had not seen,
        ``(cells,)``: .98 is more than 98 % of these.
    novel
        Which cells are called novel, ``(cells,)``: those above ``1 - declared``.
    score
        How broadly each cell's expression differs from the reference beyond what the whole query does, ``(cells,)``:
        the mean over genes of by how many of the gene's tolerances its neighbourhood is off, beyond a quarter.
    cluster
        The cluster of each cell, ``(cells,)``; clusters are numbered from the largest down.
    declared
        The share of known cells that is called novel.
    foreign_score
        The median over cells of the same score with what the whole query has in common: how far the query as a whole is
        from the reference. Large too where only the technology is another one.
    clusters
        One row for each cluster: ``cells``, ``share`` of them that is novel, mean ``novelty``, the ``label`` they are
        likeliest given (None without predictions), ``verdict`` (``known``, ``partly novel`` or ``novel``), and the
        genes that are farthest ``up`` and ``down`` against the reference beyond the rest of the query.
    """

    novelty: NDArray[np.float64]
    novel: NDArray[np.bool_]
    score: NDArray[np.float64]
    cluster: NDArray[np.int64]
    declared: float
    foreign_score: float
    clusters: pd.DataFrame

    @property
    def foreign(self) -> bool:
        """Whether most of the query differs from the reference; another technology alone can do that."""
        return self.foreign_score > FOREIGN_ABOVE

    @property
    def record(self) -> dict[str, Any]:
        """What is reported of the query and its clusters, ready for JSON."""
        return {
            "novel": int(self.novel.sum()),
            "declared": self.declared,
            "foreign_score": self.foreign_score,
            "clusters": [dict(row) | {"cluster": int(number)} for number, row in self.clusters.T.to_dict().items()],
        }


def novelty(model: Model, cells: Cells, *, predictions: Predictions | None = None, seed: int = 0) -> Novelty | None:
    """Return which of a query's cells are of no type of the reference.

    The latent does not tell: it lays cells of a new type onto types that it knows. So expression itself is compared, in
    the space of the reference's principal components: each cell's neighbourhood in the query with the reference cells
    next to it, gene by gene, in units of how much the gene varies among cells and between batches. What all of the
    query's clusters have in common is the study's and taken out, and what is left is held against the query's own bulk:
    a cell is novel if it differs from the reference far more than most of its own study does. What far more means was
    measured on the reference's batches, each left out in turn. So a query in which most cells are new has few that are
    called novel; it is told by ``foreign_score``.

    Labels are not changed by it, and nothing is trained. Docs/novelty.md has figures and limits.

    Parameters
    ----------
    model
        A model whose release carries its reference's expression (:func:`with_novelty`).
    cells
        The query, from :func:`hub_client.align`.
    predictions
        From :func:`hub_client.predict`, for the label that each cluster's cells are given.
    seed
        Of the cells that are looked at in a query of over 10,000, and of clusters.

    Returns
    -------
    Novelty or None
        None for a model without, as those are that were released before there was novelty; and for a query without
        cells, or that measured fewer than 10 of the model's genes.

    Raises
    ------
    InvalidInput
        If the cells are not aligned.
    IntegrityError
        If the release's tensors are not those of such a space.

    Examples
    --------
    >>> found = novelty(model, cells)  # doctest: +SKIP
    >>> found.clusters[found.clusters.verdict != "known"]  # doctest: +SKIP
    """
    cells, record, genes = aligned(cells), model.manifest.trust.novelty, model.vocabulary.genes
    measured = cells.measured(genes)
    if record is None or not len(cells) or len(measured) < LEAST_GENES:
        return None
    space, ranks = _kept(model, record)
    scored = _by_size(score(space.over(measured), cells.x, _batches(model, cells), seed=seed))
    found = np.interp(_relative(scored, typical=record.typical), ranks[1], ranks[0], left=0.0, right=1.0)
    novel = found > 1 - record.declared
    table = _table(scored, found, novel, genes=np.array(genes)[measured], labels=_likeliest(predictions))
    return Novelty(found, novel, scored.score, scored.cluster, record.declared, float(np.median(scored.raw)), table)


def with_novelty(model: Model, cells: Cells, *, declared: float = DECLARED, seed: int | None = None) -> Model:
    """Return the model with its reference's expression, by which cells of no type of the reference are recognised.

    A release holds it in tensors under ``novelty.``, about 1.5 MB: for each gene mean, spread and share of counts, 30
    principal components, the places of up to 10,000 reference cells in them, and how known cells score. These are cells
    of the reference's own batches, each scored by a space of the others; the share of them that is called novel by a
    threshold of the other batches is stated in the manifest. The first condition of the model is taken for the batch,
    together with its others.

    Parameters
    ----------
    model
        A model of counts.
    cells
        The reference, with labels if the model has any, from :func:`hub_client.align`.
    declared
        The share of known cells that is called novel, above 0 and below 1.
    seed
        Of the cells that are drawn; None: the seed that the model was trained with.

    Raises
    ------
    Unsupported
        If the model does not read counts.
    InvalidInput
        If ``declared`` is no such share, or there are too few cells.

    Examples
    --------
    >>> model = with_novelty(model, cells)  # doctest: +SKIP
    """
    cells = aligned(cells)
    _check(model, cells, declared)
    seed = (model.manifest.training.seed or 0) if seed is None else seed
    labels, batches = _labels(model, cells), np.unique(_batches(model, cells), return_inverse=True)[1].reshape(-1)
    space, kept = expression_space.fit(cells.x, labels, batches, seed=seed)
    known = _left_out(cells.x, labels, batches, seed=seed)
    allowance = _allowance(known, declared)
    tensors = {part: getattr(space, part) for part in expression_space.PARTS}
    tensors[RANKS] = np.stack([LEVELS, _widened(_quantiles(known.scores, LEVELS), allowance)]).astype(np.float32)
    levels = _codes(model, cells, kept)
    record = NoveltyRecord(
        tensors={part: PREFIX + part for part in tensors},
        labels={level: f"{PREFIX}labels.{index}" for index, level in enumerate(levels)},
        components=space.loadings.shape[1],
        declared=declared,
        typical=known.typical,
        left_out=known.what,
        count=len(known.scores),
        false_positives=_false_positives(known, declared, allowance),
    )
    return _carrying(model, record, tensors | dict(zip(record.labels.values(), levels.values(), strict=True)))


# --- what a release holds --------------------------------------------------------------------------------------------


def _check(model: Model, cells: Cells, declared: float) -> None:
    if model.manifest.input.kind != "counts":
        raise errors.Unsupported(
            f"{model.manifest.name} reads {model.manifest.input.kind} values; expression is compared in counts.",
            kind=model.manifest.architecture.kind,
            verb="with_novelty",
        )
    if not 0 < declared < 1:
        raise errors.InvalidInput(
            f"declared is {declared}; it is the share of known cells that may be called novel, above 0 and below 1.",
            facts={"declared": declared},
        )
    if len(cells) < LEAST_REFERENCE:
        raise errors.InvalidInput(
            f"the reference has {len(cells)} cells; {LEAST_REFERENCE} are needed to tell how known cells score.",
            facts={"cells": len(cells)},
        )


def _codes(model: Model, cells: Cells, kept: Codes) -> dict[str, Codes]:
    """Return the place of each kept cell's label among a level's categories, -1 for none, by level."""
    own = [level.key for level in model.manifest.own_levels if level.key in cells.labels]
    found = {}
    for key in own:
        names = cells.labels[key][kept]
        found[key] = np.full(len(kept), -1, dtype=np.int64)
        found[key][names != ""] = model.vocabulary.labels[key].codes(names[names != ""])
    return found


def _labels(model: Model, cells: Cells) -> Codes:
    """Return the label of each cell of the first level that cells have labels of, -1 for none, ``(cells,)``."""
    for key, axis in model.vocabulary.labels.items():
        names = cells.labels.get(key, np.empty(0))
        if (names != "").any():
            found = np.full(len(cells), -1, dtype=np.int64)
            found[names != ""] = axis.codes(names[names != ""])
            return found
    return np.full(len(cells), -1, dtype=np.int64)


def _batches(model: Model, cells: Cells) -> NDArray[np.object_]:
    """Return the batch of each cell, ``(cells,)``: its conditions in one text."""
    parts = [cells.conditions[key] for key in model.vocabulary.conditions if key in cells.conditions]
    frame = pd.DataFrame(dict(enumerate(parts)), index=range(len(cells)))
    found: NDArray[np.object_] = (
        frame.astype(str).agg("\n".join, axis=1).to_numpy(dtype=object) if parts else _one(cells)
    )
    return found


def _one(cells: Cells) -> NDArray[np.object_]:
    return np.full(len(cells), "", dtype=object)


def _carrying(model: Model, record: NoveltyRecord, tensors: dict[str, NDArray[Any]]) -> Model:
    described = replace(model)
    described.describe()
    kept = tuple(spec for spec in described.manifest.tensors if not spec.name.startswith(PREFIX))
    specs = tuple(_spec(record.tensors.get(part, part), value, part) for part, value in tensors.items())
    extras = {name: value for name, value in model.extras.items() if not name.startswith(PREFIX)}
    extras |= {record.tensors.get(part, part): torch.from_numpy(value) for part, value in tensors.items()}
    trust = model.manifest.trust.model_copy(update={"novelty": record})
    return replace(model, manifest=described.manifest.changed(trust=trust, tensors=(*kept, *specs)), extras=extras)


def _spec(name: str, value: NDArray[Any], part: str) -> TensorSpec:
    """Describe a tensor; cells and components are counted, for no axis of the model's has them."""
    counted = tuple(map(str, value.shape))
    if value.dtype == np.int64:
        return TensorSpec(name=name, dtype="I64", shape=counted)
    shape = counted if part in ("scores", RANKS) else ("genes", *counted[1:])
    return TensorSpec(name=name, dtype="F32", shape=shape)


def _kept(model: Model, record: NoveltyRecord) -> tuple[ExpressionSpace, NDArray[np.float32]]:
    """Return the space, and ranks with the scores that have them, ``(2, points)``."""
    space, name = kept_space(model, record), record.tensors.get(RANKS, "")
    if name not in model.extras:
        raise incomplete(model, f"lacks {RANKS} of what novelty is told by")
    ranks: NDArray[np.float32] = model.extras[name].numpy()
    if ranks.ndim != 2 or len(ranks) != 2 or not ranks.size or not (np.diff(ranks) >= 0).all():
        raise incomplete(model, "has ranks of novelty that do not rise with the score")
    return space, ranks


# --- how known cells score -------------------------------------------------------------------------------------------


def _relative(scored: Scored, *, typical: float) -> Numbers:
    """Return scores against the query's own bulk; of few cells, against what is typical, ``(cells,)``."""
    bulk = float(np.quantile(scored.score, 0.25)) if len(scored.score) >= LEAST_CELLS else typical
    found: Numbers = (scored.score - bulk) / (bulk + FLOOR)
    return found


class _Known(NamedTuple):
    """How known cells score that the reference had not seen."""

    what: Literal["batches", "folds"]
    scores: list[Numbers]
    """Against their own bulk, of each batch or fold."""
    typical: float


def _left_out(counts: csr_matrix, labels: Codes, batches: Codes, *, seed: int) -> _Known:
    """Return how cells score by the rest of the reference, where the rest has their label."""
    if len(np.unique(batches)) > 1:
        names, cells = np.unique(batches, return_counts=True)
        largest = names[np.argsort(-cells, kind="stable")][:MOST_LEFT_OUT]
        found = [part for name in largest if (part := _part(counts, labels, batches, batches == name, seed=seed))]
        if len(found) > 1:
            return _Known("batches", [part.scores for part in found], _typical(found))
    count = min(FOLDS, max(len(labels) // (2 * LEAST_CELLS), 2))
    folds = np.random.default_rng(seed).permutation(len(labels)) % count
    parts = [_part(counts, labels, batches, folds == fold, seed=seed) for fold in range(count)]
    found = [part for part in parts if part]
    if not found:
        raise errors.InvalidInput(
            f"no part of the reference has {LEAST_KNOWN} cells whose label the rest has too: how known cells score "
            "cannot be told. Build it of more cells of each label.",
            facts={"cells": len(labels)},
        )
    return _Known("folds", [part.scores for part in found], _typical(found))


class _Part(NamedTuple):
    scores: Numbers
    typical: float


def _typical(parts: list[_Part]) -> float:
    return float(np.median([part.typical for part in parts]))


def _part(counts: csr_matrix, labels: Codes, batches: Codes, inside: NDArray[np.bool_], *, seed: int) -> _Part | None:
    """Return how the known cells of one part score by all others; None if there are too few to tell."""
    known = np.isin(labels[inside], labels[~inside]) & ((labels[inside] >= 0) | (labels < 0).all())
    if known.sum() < LEAST_KNOWN or inside.sum() < LEAST_CELLS or (~inside).sum() < LEAST_CELLS:
        return None
    space, _ = expression_space.fit(counts[~inside], labels[~inside], batches[~inside], seed=seed)
    view = space.over(np.arange(counts.shape[1]))
    scored = score(view, counts[inside], np.full(int(inside.sum()), "", dtype=object), seed=seed)
    return _Part(_relative(scored, typical=0.0)[known], float(np.quantile(scored.raw, 0.25)))


def _quantiles(scores: list[Numbers], levels: Numbers) -> Numbers:
    """Return quantiles of several sets of scores in which each set weighs the same, ``(levels,)``."""
    values = np.concatenate(scores)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in scores])
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(weights[order]) - weights[order] / 2
    found: Numbers = np.interp(levels, ranks / weights.sum(), values[order])
    return found


def _widened(scores: Numbers, allowance: float) -> Numbers:
    """Return scores with those above the bulk multiplied."""
    found: Numbers = np.where(scores > 0, scores * allowance, scores)
    return found


def _allowance(known: _Known, declared: float) -> float:
    """Return the smallest factor under which batches have at most the declared share of false positives in the mean."""
    if known.what == "folds":
        return 1.0
    rates = (np.mean(_rates(known, declared, allowance)) for allowance in ALLOWANCES)
    return float(next((one for one, rate in zip(ALLOWANCES, rates, strict=True) if rate <= declared), ALLOWANCES[-1]))


def _rates(known: _Known, declared: float, allowance: float) -> list[float]:
    """Return what share of each batch is above a threshold from the others."""
    scores, level = known.scores, np.array([1 - declared])
    others = ([*scores[:index], *scores[index + 1 :]] for index in range(len(scores)))
    thresholds = (_widened(_quantiles(rest, level), allowance) for rest in others)
    return [float((own > threshold).mean()) for own, threshold in zip(scores, thresholds, strict=True)]


def _false_positives(known: _Known, declared: float, allowance: float) -> FalsePositives | None:
    if known.what == "folds":
        return None
    rates = _rates(known, declared, allowance)
    return FalsePositives(mean=float(np.mean(rates)), worst=max(rates))


# --- clusters of the query -------------------------------------------------------------------------------------------


def _by_size(scored: Scored) -> Scored:
    """Return scores with clusters numbered from the largest down, those without cells left out."""
    cells = np.bincount(scored.cluster, minlength=len(scored.apart))
    order = np.argsort(-cells, kind="stable")[: int((cells > 0).sum())]
    number = np.zeros(len(cells), dtype=np.int64)
    number[order] = np.arange(len(order))
    return replace(scored, cluster=number[scored.cluster], apart=scored.apart[order])


def _likeliest(predictions: Predictions | None) -> pd.DataFrame | None:
    """Return the probabilities of the first level's labels, ``(cells, labels)``; None where nothing is predicted."""
    levels = [] if predictions is None else list(predictions.levels.values())
    return levels[0].probabilities if levels else None


def _table(
    scored: Scored, found: Numbers, novel: NDArray[np.bool_], *, genes: NDArray[Any], labels: pd.DataFrame | None
) -> pd.DataFrame:
    rows = []
    for number, apart in enumerate(scored.apart):
        members = scored.cluster == number
        share, order = float(novel[members].mean()), np.argsort(-apart, kind="stable")
        rows.append(
            {
                "cells": int(members.sum()),
                "share": share,
                "novelty": float(found[members].mean()),
                "label": None if labels is None else str(labels.columns[labels.to_numpy()[members].mean(0).argmax()]),
                "verdict": _verdict(share),
                "up": tuple(map(str, genes[[gene for gene in order[:GENES_NAMED] if apart[gene] > 0]])),
                "down": tuple(map(str, genes[[gene for gene in order[::-1][:GENES_NAMED] if apart[gene] < 0]])),
            }
        )
    return pd.DataFrame(rows)


def _verdict(share: float) -> str:
    bounds = ((0.0, "known"), (PARTLY, "partly novel"), (MOSTLY, "novel"), (2.0, ""))
    return next(word for (low, word), (high, _) in pairwise(bounds) if low <= share < high)

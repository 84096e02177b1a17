"""What a mapping is judged by: one function for each measure, a number or why there is none.

A measure over neighbours looks at some of the cells, drawn under the mapping's seed, so that its cost does not grow
with the query, and the same mapping gets the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.data.cells import Cells
from hub_client.data.depth import LEAST_MEASURED, outside
from hub_client.labels.expression import normalised
from hub_client.labels.predict import LabelPrediction, Predictions
from hub_client.labels.transfer import calibration_of
from hub_client.manifest.axes import Markers
from hub_client.models.architectures import Array
from hub_client.models.model import Model
from hub_client.release.atlas_file import LATENT

SAMPLE = 2_000
"""How many of the query's cells are looked at where neighbours are searched, at most."""
ATLAS_CELLS = 20_000
"""How many of the atlas's cells take part, at most; an atlas is in random order."""
NEIGHBORS = 15
NEAR = 50
"""How many nearest cells of the latent count as near a cell."""
LEAST_OF_A_BATCH, MOST_OF_A_BATCH = 60, 500
"""Of a batch with fewer cells too many would be near by chance; of more, the same number near is a narrower place."""
COMPONENTS, MOST_GENES = 30, 2_000
"""Principal components of the query's expression, and how many of its genes they are of, the most variable."""
LEAST_OF_A_LABEL = 20
"""Cells of a label that each side needs for mixing within it to be told."""
MOST_OF_A_LABEL = 200
"""Cells of a label that each side takes part with, at most."""
BEYOND = 0.95
"""The quantile of the reference's own distances beyond which a cell is beyond the atlas."""
LEAST_GENES = 100
"""Genes with a count that a cell needs for its counts to be told from other values."""
CONFIDENT = 0.25
"""Uncertainty up to which a label is held against its markers."""
LEAST_JUDGED = 20
"""Confidently labelled cells with markers that a share of them needs."""
DEEP = 500
"""Counts over the model's genes from which a cell without any count of its label's markers contradicts the label."""
UNKNOWN_ABOVE = 0.5
"""The threshold of levels whose release ships none."""


class Novelty(Protocol):
    """What is known of how new a query's cells are."""

    @property
    def novelty(self) -> NDArray[np.float64]:
        """How new each cell is, ``(cells,)``, in [0, 1]."""
        ...

    @property
    def novel(self) -> NDArray[np.bool_]:
        """Which cells are novel, ``(cells,)``."""
        ...

    @property
    def declared(self) -> float:
        """The share of known cells that are called novel."""
        ...

    @property
    def foreign(self) -> bool:
        """Whether the query as a whole is foreign to the reference."""
        ...

    @property
    def foreign_score(self) -> float:
        """The number that this was decided by."""
        ...


NO_EXPRESSION = "the release carries no expression of its reference"
"""Why novelty is not checked."""


@dataclass(frozen=True)
class NotChecked:
    """A measure that could not be computed, and why."""

    reason: str


Found = float | NotChecked


@dataclass(frozen=True)
class Mapped:
    """What a mapping has to judge it by.

    Attributes
    ----------
    model
        The model that knows the query's conditions.
    cells
        The query as the model read it.
    predictions
        Latent and labels of all cells.
    sample
        The cells that measures over neighbours look at, sorted, ``(sampled cells,)``.
    seed
        The mapping's.
    untrained
        Latent and labels of the sampled cells before training; None where nothing was trained.
    novelty
        How new the cells are; None for a release that cannot tell.
    """

    model: Model
    cells: Cells
    predictions: Predictions
    sample: NDArray[np.int64]
    seed: int = 0
    untrained: Predictions | None = None
    novelty: Novelty | None = None

    @cached_property
    def latent(self) -> Array:
        """Where the sampled cells lie, in the dimensions that the atlas has, ``(sampled cells, latent)``."""
        latent = self.predictions.latent[self.sample]
        return latent if self.atlas is None else latent[:, : self.atlas.shape[1]]

    @cached_property
    def atlas(self) -> Array | None:
        """Where cells of the reference lie, ``(reference cells, latent)``; None for a release without an atlas."""
        if self.model.atlas is None:
            return None
        return np.asarray(self.model.atlas.obsm[LATENT][:ATLAS_CELLS], dtype=np.float32)

    @cached_property
    def batches(self) -> NDArray[np.int64]:
        """The batch of each sampled cell as a number, ``(sampled cells,)``: its combination of conditions."""
        keys = [c.key for c in self.model.manifest.conditions if c.role != "donor"]
        columns = [self.cells.conditions[key][self.sample] for key in keys]
        if not columns:
            return np.zeros(len(self.sample), dtype=np.int64)
        codes: NDArray[np.int64] = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)
        return codes

    @cached_property
    def finest(self) -> str | None:
        """The label level with the most labels among those that were predicted; None without any."""
        levels = self.predictions.levels
        return max(levels, key=lambda key: len(self.model.vocabulary.labels[key].names), default=None)

    @property
    def labels(self) -> NDArray[np.object_] | None:
        """The likeliest label of each sampled cell on the finest level, ``(sampled cells,)``."""
        return None if self.finest is None else likeliest(self.predictions.levels[self.finest], self.sample)


def likeliest(level: LabelPrediction, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.object_]:
    """Return the likeliest label of some cells, also where that was too unsure to be named, ``(cells,)``."""
    best = level.probabilities.to_numpy()[rows].argmax(axis=1)
    found: NDArray[np.object_] = level.probabilities.columns.to_numpy(dtype=object)[best]
    return found


def sampled(cells: int, *, seed: int) -> NDArray[np.int64]:
    """Return which cells measures over neighbours look at, sorted: all, or :data:`SAMPLE` of them."""
    if cells <= SAMPLE:
        return np.arange(cells)
    return np.sort(np.random.default_rng(seed).choice(cells, SAMPLE, replace=False))


NO_LABELS = NotChecked("the model predicts no labels")
NO_ATLAS = NotChecked("the release carries no atlas of its reference")


# --- what went in ------------------------------------------------------------------------------------------------


def coverage(mapped: Mapped) -> Found:
    """Return the share of the model's genes that the query measured."""
    return mapped.cells.report.coverage


def weighted_coverage(mapped: Mapped) -> Found:
    """Return the share of what the encoder reads that the query measured."""
    found = mapped.cells.report.weighted_coverage
    return NotChecked("the model's use of its genes is not known") if found is None else found


def doubts(mapped: Mapped) -> Found:
    """Return how many doubts alignment has that values or organism are the model's."""
    return float(len(mapped.cells.report.doubts))


def skew(mapped: Mapped) -> Found:
    """Return how many times the mean of its counts above zero a cell's largest count is, in the median cell.

    A few genes make up much of a cell's counts, and most others have one or two. Logarithms lose that, also where they
    were rounded to whole numbers and so pass for counts.
    """
    if mapped.model.manifest.input.kind != "counts":
        return NotChecked(f"the model reads {mapped.model.manifest.input.kind} values, not counts")
    missing = mapped.cells.unmeasured(mapped.model.vocabulary.genes)
    x = _measured(mapped.cells.x[mapped.sample], missing)
    genes = np.diff(x.indptr)
    kept = genes >= LEAST_GENES
    if not kept.any():
        return NotChecked(f"no cell has counts in {LEAST_GENES} of the model's genes")
    largest, totals = x.max(axis=1).toarray().reshape(-1), np.asarray(x.sum(axis=1), dtype=np.float64).reshape(-1)
    return float(np.median((largest * genes / np.maximum(totals, 1))[kept]))


def depth(mapped: Mapped) -> Found:
    """Return the share of cells whose counts are below the reference's 5 % or above its 95 % quantile."""
    known, kind = mapped.model.manifest.trust.depth, mapped.model.manifest.input.kind
    if kind != "counts":
        return NotChecked(f"the model reads {kind} values, not counts")
    if known is None:
        return NotChecked("the release does not state how deep its reference's cells are")
    missing = mapped.cells.unmeasured(mapped.model.vocabulary.genes)
    means = mapped.model.gene_means()
    share = mapped.cells.report.coverage if means is None else 1 - float(means[missing].sum() / means.sum())
    if share < LEAST_MEASURED:
        return NotChecked(f"the query measures too few of the model's genes to compare counts ({share:.0%})")
    counted = np.ones(mapped.cells.x.shape[1])
    counted[missing] = 0  # these may hold the reference's means
    return outside(mapped.cells.x @ counted / share, known)


def _measured(x: sparse.csr_matrix, missing: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return the columns of genes that were measured: the others may hold the reference's means."""
    if not len(missing):
        return x
    kept = np.setdiff1d(np.arange(x.shape[1]), missing)
    return sparse.csr_matrix(x[:, kept])


# --- where cells lie ---------------------------------------------------------------------------------------------


def beyond_atlas(mapped: Mapped) -> Found:
    """Return the share of cells farther from the atlas than 95 % of the reference's own are from the others.

    The distance of a cell is the mean over its 15 nearest cells of the reference.
    """
    from sklearn.neighbors import NearestNeighbors

    atlas = mapped.atlas
    if atlas is None:
        return NO_ATLAS
    if len(atlas) <= NEIGHBORS:
        return NotChecked(f"the atlas has {len(atlas)} cells, and {NEIGHBORS + 1} are needed")
    search = NearestNeighbors().fit(atlas)
    own = search.kneighbors(atlas[:SAMPLE], n_neighbors=NEIGHBORS + 1)[0][:, 1:].mean(axis=1)
    distances = search.kneighbors(mapped.latent, n_neighbors=NEIGHBORS)[0].mean(axis=1)
    return float((distances > np.quantile(own, BEYOND)).mean())


def novel(mapped: Mapped) -> Found:
    """Return the share of cells that are called novel."""
    return NotChecked(NO_EXPRESSION) if mapped.novelty is None else float(mapped.novelty.novel.mean())


def foreign_score(mapped: Mapped) -> Found:
    """Return how far the query as a whole is from the reference in expression (:class:`hub_client.labels.novelty`)."""
    return NotChecked(NO_EXPRESSION) if mapped.novelty is None else float(mapped.novelty.foreign_score)


def neighborhoods_kept(mapped: Mapped) -> Found:
    """Return how many of a cell's nearest cells by expression are near it in the latent: 1 is all, 0 as by chance.

    Nearest by expression are the 15 with the smallest distance in principal components of the query's own log counts;
    near are the 50 with the smallest in the latent, or a quarter of the batch. Both are searched within a batch, since
    the latent brings batches together that expression keeps apart.
    """
    groups = [_some(rows, MOST_OF_A_BATCH) for rows in _groups(mapped.batches) if len(rows) >= LEAST_OF_A_BATCH]
    if not groups:
        return NotChecked(f"no batch of the query has {LEAST_OF_A_BATCH} cells")
    components = _components(mapped)
    if components is None:
        return NotChecked("too few genes vary in the query")
    kept = [_kept(components[rows], mapped.latent[rows]) for rows in groups]
    return float(np.average(kept, weights=[len(rows) for rows in groups]))


def _components(mapped: Mapped) -> NDArray[np.float64] | None:
    """Return principal components of the sampled cells' expression; None where too few genes vary."""
    from sklearn.decomposition import PCA

    missing = mapped.cells.unmeasured(mapped.model.vocabulary.genes)
    x = _measured(mapped.cells.x[mapped.sample], missing)
    values = normalised(x) if mapped.model.manifest.input.kind == "counts" else sparse.csr_matrix(x, dtype=np.float64)
    spread = np.asarray(values.multiply(values).mean(axis=0) - np.square(values.mean(axis=0))).reshape(-1)
    varying = np.flatnonzero(spread > 0)
    if len(varying) <= COMPONENTS:
        return None
    chosen = varying[np.argsort(-spread[varying], kind="stable")[:MOST_GENES]]
    pca = PCA(COMPONENTS, svd_solver="arpack", random_state=mapped.seed)
    found: NDArray[np.float64] = pca.fit_transform(values[:, np.sort(chosen)])
    return found


def _kept(components: NDArray[np.float64], latent: Array) -> float:
    near = min(NEAR, max((len(latent) - 1) // 4, NEIGHBORS))
    nearest, close = _nearest(components, NEIGHBORS), _nearest(latent, near)
    cells = np.arange(len(latent))[:, None] * len(latent)
    kept = float(np.isin(nearest + cells, close + cells).mean())
    chance = near / (len(latent) - 1)
    return (kept - chance) / (1 - chance)


def _nearest(points: NDArray[Any], neighbors: int) -> NDArray[np.int64]:
    """Return each point's nearest others, ``(points, neighbors)``."""
    from sklearn.neighbors import NearestNeighbors

    found: NDArray[np.int64] = NearestNeighbors(n_neighbors=neighbors).fit(points).kneighbors(return_distance=False)
    return found


def batches_mixed(mapped: Mapped) -> Found:
    """Return how well the query's batches mix within a label: 1 is as by chance, 0 is not at all.

    It is the share of a cell's nearest cells that are another batch's, over what chance would give, of a sample with as
    many cells of each batch; the mean over labels, weighted by cells.
    """
    if mapped.labels is None:
        return NO_LABELS
    if len(np.unique(mapped.batches)) < 2:
        return NotChecked("the query has one batch")
    parts = []
    for rows in _groups(_codes(mapped.labels)):
        sides = [rows[mapped.batches[rows] == batch] for batch in np.unique(mapped.batches[rows])]
        parts.append((len(rows), [mapped.latent[side] for side in sides]))
    return _mixed(parts, "no label has enough cells of two batches")


def reference_mixed(mapped: Mapped) -> Found:
    """Return how well the query mixes with the reference within a label, as :func:`batches_mixed` has it."""
    if mapped.labels is None:
        return NO_LABELS
    atlas, level = mapped.model.atlas, mapped.finest
    if atlas is None or mapped.atlas is None or level not in atlas.obs:
        return NO_ATLAS
    theirs = atlas.obs[level].astype(object).to_numpy()[: len(mapped.atlas)]
    parts = []
    for label in sorted(set(mapped.labels)):
        rows = np.flatnonzero(mapped.labels == label)
        parts.append((len(rows), [mapped.latent[rows], mapped.atlas[theirs == label]]))
    return _mixed(parts, "no label has enough cells of the query and of the reference")


def _mixed(parts: list[tuple[int, list[Array]]], lacking: str) -> Found:
    """Return the mean over labels of how well sides mix, each given with how many cells it stands for."""
    found = [(weight, mixing(sides)) for weight, sides in parts]
    known = [(weight, value) for weight, value in found if value is not None]
    if not known:
        return NotChecked(f"{lacking} ({LEAST_OF_A_LABEL})")
    weights, values = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


def mixing(sides: list[Array]) -> float | None:
    """Return the share of cells' nearest cells that are of another side, over what chance gives; None of one side.

    Sides with fewer than 20 cells are left out, and all are cut to the size of the smallest: otherwise a large one
    would look unmixed.
    """
    large = [side for side in sides if len(side) >= LEAST_OF_A_LABEL]
    if len(large) < 2:
        return None
    size = min(MOST_OF_A_LABEL, *map(len, large))
    points = np.concatenate([_some(side, size) for side in large])
    codes = np.repeat(np.arange(len(large)), size)
    others = float((codes[_nearest(points, NEIGHBORS)] != codes[:, None]).mean())
    return others / (1 - (size - 1) / (len(points) - 1))


def _some(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """Return so many rows, evenly spaced; all where there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, num=min(count, len(rows)), dtype=np.int64)]


def _groups(codes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (np.flatnonzero(codes == code) for code in np.unique(codes))


def _codes(names: NDArray[np.object_]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.unique(names.astype(str), return_inverse=True)[1]
    return codes


# --- labels ------------------------------------------------------------------------------------------------------


def mean_uncertainty(mapped: Mapped) -> Found:
    """Return the mean uncertainty of the surest level that has labels of its own: a stranger is unsure on each.

    Levels that are derived from a finer one are surer by their nature.
    """
    own = [level.key for level in mapped.model.manifest.own_levels]
    means = [float(level.uncertainty.mean()) for key, level in mapped.predictions.levels.items() if key in own]
    return min(means) if means else NO_LABELS


def unknown(mapped: Mapped) -> Found:
    """Return the share of cells that are unsure by the release's own threshold, whatever threshold was asked for."""
    if mapped.finest is None:
        return NO_LABELS
    calibration = calibration_of(mapped.model, mapped.finest)
    threshold = UNKNOWN_ABOVE if calibration is None else calibration.unknown_above
    return float((mapped.predictions.levels[mapped.finest].uncertainty > threshold).mean())


def contradicted(mapped: Mapped) -> Found:
    """Return the share of confidently labelled cells that their label's markers contradict.

    A cell does so by a count of a gene that must not be there, or, from 500 counts over the model's genes, by having
    none of those of which one must be there, where the query measures them all.
    """
    levels = {level.key: level.markers for level in mapped.model.manifest.labels if level.markers}
    if not levels:
        return NotChecked("the release names no markers of its labels")
    judged = [found for key in levels if key in mapped.predictions.levels for found in _judged(mapped, key)]
    against = np.concatenate([np.empty(0, dtype=bool), *judged])
    if len(against) < LEAST_JUDGED:
        return NotChecked(f"{len(against)} confidently labelled cells have markers to go by; {LEAST_JUDGED} are needed")
    return float(against.mean())


def _judged(mapped: Mapped, key: str) -> Iterator[NDArray[np.bool_]]:
    """Return, for each label of a level with markers that can be checked, which of its confident cells contradict."""
    level = mapped.predictions.levels[key]
    labels, sure = likeliest(level, mapped.sample), level.uncertainty[mapped.sample] <= CONFIDENT
    x = mapped.cells.x[mapped.sample].tocsc()
    places, counted = _places(mapped), mapped.model.manifest.input.kind == "counts"
    deep = (np.asarray(x.sum(axis=1)).reshape(-1) >= DEEP) & counted
    for label, markers in next(one.markers for one in mapped.model.manifest.labels if one.key == key).items():
        rows = np.flatnonzero((labels == label) & sure)
        found = _against(x, rows, markers, places=places, deep=deep)
        if found is not None and len(rows):
            yield found


def _places(mapped: Mapped) -> dict[str, int]:
    """Return the column of each gene that the query measured, by its id and by its symbol."""
    genes = mapped.model.manifest.genes
    lacking = {*mapped.cells.report.missing}
    kept = [
        (at, gene) for at, (gene, name) in enumerate(zip(genes.panel, genes.names, strict=True)) if name not in lacking
    ]
    return {name: at for at, gene in kept for name in (gene.id, gene.symbol) if name}


def _against(
    x: sparse.csc_matrix, rows: NDArray[np.int64], markers: Markers, *, places: dict[str, int], deep: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Return which cells markers contradict; None where the query measures too few of them to tell."""
    absent = [places[name] for name in markers.absent if name in places]
    present = [places[name] for name in markers.present if name in places]
    whole = bool(markers.present) and len(present) == len(markers.present)
    if not absent and not whole:
        return None
    wrong = np.asarray(x[:, absent].sum(axis=1)).reshape(-1)[rows] > 0
    if whole:
        wrong |= (np.asarray(x[:, present].sum(axis=1)).reshape(-1)[rows] == 0) & deep[rows]
    return wrong


# --- training ----------------------------------------------------------------------------------------------------

UNTRAINED = NotChecked("nothing was trained")


def labels_changed(mapped: Mapped) -> Found:
    """Return the share of cells that training gave another label than they had with 0 epochs."""
    if mapped.untrained is None:
        return UNTRAINED
    if mapped.finest is None or mapped.finest not in mapped.untrained.levels:
        return NO_LABELS
    before = likeliest(mapped.untrained.levels[mapped.finest])
    return float((before != mapped.labels).mean())


def shift(mapped: Mapped) -> Found:
    """Return how far training moved cells in the mean, as a share of their mean distance from their centre."""
    if mapped.untrained is None:
        return UNTRAINED
    before = mapped.untrained.latent
    moved = float(np.linalg.norm(mapped.predictions.latent[mapped.sample] - before, axis=1).mean())
    spread = float(np.linalg.norm(before - before.mean(axis=0), axis=1).mean())
    return moved / spread if spread else NotChecked("all cells lie in one point")

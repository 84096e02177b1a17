"""How broadly cells' expression differs from that of the reference cells they lie next to.

A type that the reference lacks lies, in the space of a few components, beside the types that are most alike; what sets
it apart are many genes at once that its neighbours do not express as much. So the score is a breadth: by how much the
mean of each gene over a cell's own neighbourhood is off, beyond what studies differ by, in the mean over all genes.
What all of a query's clusters have in common is the study's, not a type's, and is taken out first (docs/novelty.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.labels.expression_space import BLOCK, Codes, Numbers, Projection, Values
from hub_client.labels.neighbors import nearest
from hub_client.nn.clusters import clusters

SAMPLED = 10_000
"""Cells of a query that are looked at themselves, at most; others take the mean of those next to them."""
NEIGHBORS = 20
"""The query's own cells, the cell itself among them, over which expression is averaged."""
REFERENCE_NEIGHBORS = 15
"""Reference cells next to each of them that state what to expect."""
LENDERS = 5
"""Cells of the sample whose mean the others take."""
MARGIN = 0.25
"""Differences up to this, in a gene's tolerances, count as none; of 20 cells the mean is off by .22 by chance."""
LEAST_CELLS = 30
"""Of fewer cells it cannot be told what they have in common."""
PARTS, CELLS_A_PART, LEAST_PARTS = 6, 10, 2
"""Into how many clusters the query is parted to see what all have in common, fewer where cells are few."""
RESOLUTION = 1.0
"""Of the Leiden clusters that are reported."""


@dataclass(frozen=True)
class Scored:
    """How broadly each cell of a query differs from the reference, and each of its clusters."""

    score: Numbers
    """Without what all of the query has in common, ``(cells,)``: mean tolerances over the measured genes."""
    raw: Numbers
    """With it, ``(cells,)``: large in all cells of a foreign query."""
    cluster: Codes
    """The cluster of each cell, ``(cells,)``."""
    apart: Numbers
    """By how many tolerances each cluster's genes differ beyond what all do, ``(clusters, measured genes)``."""


def score(view: Projection, counts: sparse.csr_matrix, groups: NDArray[np.object_], *, seed: int) -> Scored:
    """Return how broadly each cell differs from the reference.

    Parameters
    ----------
    view
        The reference's space over the genes that the query measured.
    counts
        The query, ``(cells, genes)``.
    groups
        The batch of each cell, ``(cells,)``: of a large query so many cells of each are looked at as it has.
    seed
        Of the cells that are drawn, and of clusters.
    """
    points = view.points(counts)
    drawn = _drawn(points, groups, seed=seed)
    found = _Sample.of(view, points[drawn], counts[drawn], seed=seed).scored()
    rows, weights = _lenders(points, drawn)
    lent = [np.einsum("cl,cl->c", values[rows], weights) for values in (found.score, found.raw)]
    return Scored(lent[0], lent[1], found.cluster[rows[:, 0]], found.apart)


def _drawn(points: Values, groups: NDArray[np.object_], *, seed: int) -> Codes:
    """Return which cells are looked at, in an order of their own: results do not depend on the order of the query's."""
    order: Codes = np.lexsort(points.T[:3])
    if len(order) <= SAMPLED:
        return order
    generator = np.random.default_rng(seed)
    names, codes = np.unique(groups[order].astype(str), return_inverse=True)
    members = (np.flatnonzero(codes == code) for code in range(len(names)))
    chosen = [generator.permutation(own)[: max(len(own) * SAMPLED // len(order), 1)] for own in members]
    found: Codes = order[np.sort(np.concatenate(chosen))]
    return found


def _lenders(points: Values, drawn: Codes) -> tuple[Codes, Numbers]:
    """Return from which cells of the sample each cell takes its values, ``(cells, lenders)``, and their weights."""
    count = min(LENDERS, len(drawn))
    rows, weights = np.zeros((len(points), count), dtype=np.int64), np.full((len(points), count), 1 / count)
    rows[drawn], weights[drawn] = np.arange(len(drawn))[:, None], np.eye(1, count)
    others = np.setdiff1d(np.arange(len(points)), drawn)
    if len(others):
        rows[others] = nearest(points[drawn], points[others], neighbors=count).indices
    return rows, weights


@dataclass(frozen=True)
class _Sample:
    """Some cells, each with its neighbours' mean expression beside what the reference has there."""

    view: Projection
    smooth: sparse.csr_matrix
    """``(cells, cells)``: averages over each cell's neighbours."""
    values: sparse.csr_matrix
    """Log1p counts, ``(cells, measured genes)``."""
    places: Numbers
    """Mean place of the reference cells next to a cell's neighbours, ``(cells, components)``."""
    points: Values
    seed: int

    @classmethod
    def of(cls, view: Projection, points: Values, counts: sparse.csr_matrix, *, seed: int) -> _Sample:
        own = nearest(points, points, neighbors=min(NEIGHBORS, len(points))).indices
        smooth = _means(own, over=len(points))
        neighbors = min(REFERENCE_NEIGHBORS, len(view.reference))
        theirs = nearest(view.reference, points, neighbors=neighbors).indices
        places = np.stack([view.space.scores[row].mean(axis=0, dtype=np.float64) for row in theirs])
        return cls(view, smooth, view.log_counts(counts), smooth @ places, smooth @ points, seed)

    def scored(self) -> Scored:
        tolerance, common, parts = self.view.space.tolerance, self._common(), self._reported()
        scores = np.empty((2, len(self.points)))
        for start in range(0, len(self.points), BLOCK):
            rows = slice(start, start + BLOCK)
            differences = self._differences(self.smooth[rows], self.places[rows]) / tolerance
            for index, shared in enumerate((common, np.zeros_like(common))):
                scores[index, rows] = np.maximum(np.abs(differences - shared) - MARGIN, 0).mean(axis=1)
        return Scored(scores[0], scores[1], parts, self._by_part(parts) - common)

    def _differences(self, smooth: sparse.csr_matrix, places: Numbers) -> Numbers:
        """Return how far expression is from where it is expected; a mean over fewer cells counts for less."""
        weight = np.sqrt(min(NEIGHBORS, len(self.points)) / NEIGHBORS)
        found: Numbers = weight * ((smooth @ self.values).toarray() - self.view.expression(places))
        return found

    def _common(self) -> Numbers:
        """Return by how much all clusters differ from the reference in the same direction, ``(measured genes,)``."""
        parts = self._parts()
        if parts.max() == 0:
            return np.zeros(self.values.shape[1])
        means = self._by_part(parts)
        low, high = means.min(axis=0), means.max(axis=0)
        found: Numbers = np.where(low > 0, low, np.where(high < 0, high, 0.0))
        return found

    def _by_part(self, parts: Codes) -> Numbers:
        """Return the mean difference of each cluster, in tolerances, ``(clusters, measured genes)``."""
        order = np.argsort(parts, kind="stable")
        starts = np.searchsorted(parts[order], np.arange(parts.max() + 2))
        weights = 1 / np.repeat(np.diff(starts), np.diff(starts))
        members = sparse.csr_matrix((weights, order, starts), shape=(len(starts) - 1, len(parts)))
        found: Numbers = self._differences(members @ self.smooth, members @ self.places) / self.view.space.tolerance
        return found

    def _parts(self) -> Codes:
        """Return a few large clusters, ``(cells,)``; one, where it cannot be told what clusters have in common."""
        count = max(LEAST_PARTS, min(PARTS, len(self.points) // CELLS_A_PART))
        if len(self.points) < LEAST_CELLS or len(np.unique(self.points, axis=0)) < count:
            return np.zeros(len(self.points), dtype=np.int64)
        return clusters(self.points, method="kmeans", count=count, resolution=RESOLUTION, seed=self.seed)

    def _reported(self) -> Codes:
        if len(self.points) < LEAST_CELLS:
            return np.zeros(len(self.points), dtype=np.int64)
        return clusters(self.points, method="leiden", count=None, resolution=RESOLUTION, seed=self.seed)


def _means(rows: Codes, *, over: int) -> sparse.csr_matrix:
    """Return the matrix that averages over the given rows, ``(means, over)``."""
    means, count = rows.shape
    starts = np.arange(0, rows.size + 1, count)
    return sparse.csr_matrix((np.full(rows.size, 1 / count), rows.reshape(-1), starts), shape=(means, over))

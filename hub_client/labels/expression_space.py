"""The space of expression: principal components of a reference's normalised counts, and a query's cells in it.

The latent of a model pulls cells of a type that the reference lacks onto types that it has; principal components were
asked for nothing, and keep them apart (docs/novelty.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.labels.expression import LEAST_SPREAD, moments, normalised

COMPONENTS = 30
"""Principal components that span the space; fewer where there are fewer genes or cells."""
FITTED_ON = 20_000
"""Reference cells that moments and components are taken over, at most: of more, some are drawn."""
KEPT = 10_000
"""Reference cells whose places are kept, at most, as evenly as can be of every label in every batch."""
LEAST_OF_A_LABEL = 10
"""Cells of a label that a batch needs for its mean to count among the means of batches."""
MOST_WHOLE = 4_000
"""Up to so many genes components are those of the whole matrix of products of genes; of more, Lanczos finds them."""
RIDGE = 1e-3
"""Added to the squared lengths of loadings over the measured genes: components that none of these shows come out at
zero, not anywhere."""
BLOCK = 2_000
"""Cells that are dense at a time."""
Values = NDArray[np.float32]
Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class ExpressionSpace:
    """What a release keeps of its reference's expression: nothing of a single cell but its place in 30 dimensions."""

    mean: Values
    """Mean log1p of counts scaled to 1,000 over the model's genes, ``(genes,)``."""
    spread: Values
    """Their standard deviation, ``(genes,)``."""
    share: Values
    """Each gene's share of all counts, ``(genes,)``."""
    between: Values
    """By how much batches' means of the same label differ: the standard deviation, ``(genes,)``."""
    loadings: Values
    """Principal axes of the values scaled by their spread, ``(genes, components)``."""
    scores: Values
    """Places of reference cells, ``(cells, components)``, in no order."""

    @property
    def scale(self) -> Numbers:
        """What centred values are multiplied by, ``(genes,)``; genes that hardly vary are not blown up."""
        found: Numbers = 1 / np.maximum(self.spread.astype(np.float64), LEAST_SPREAD)
        return found

    @property
    def tolerance(self) -> Numbers:
        """How far a gene's mean over some cells may lie from where it is expected, ``(genes,)``, log1p counts.

        It is the spread among cells and twice that of batches' means: what differs between studies is no news.
        """
        between = 2 * self.between.astype(np.float64)
        found: Numbers = np.sqrt(np.maximum(self.spread.astype(np.float64), LEAST_SPREAD) ** 2 + between**2)
        return found

    def over(self, measured: Codes) -> Projection:
        """Return the space as far as some of the genes show it."""
        parts = {part: getattr(self, part) for part in PARTS}
        some = {part: value if part == "scores" else value[measured] for part, value in parts.items()}
        return Projection(ExpressionSpace(**some), measured)


PARTS = tuple(field.name for field in fields(ExpressionSpace))
"""What of the space is kept, by the names of its fields."""


@dataclass(frozen=True)
class Projection:
    """The space over the genes that a query measured, and how the query's cells get into it."""

    space: ExpressionSpace
    """With those genes alone."""
    measured: Codes
    """Which genes they are, ``(measured genes,)``."""

    def log_counts(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return log1p of counts at the depth that cells would have with all genes, ``(cells, measured genes)``.

        Parameters
        ----------
        counts
            ``(cells, genes)``.
        """
        own = counts if len(self.measured) == counts.shape[1] else counts[:, self.measured]
        return normalised(own, share=float(self.space.share.sum(dtype=np.float64)))

    def points(self, counts: sparse.csr_matrix) -> Values:
        """Return where cells lie, ``(cells, components)``, in units in which measured genes alone make distances.

        That is the least-squares fit of the loadings to the measured genes, in the metric of their products. So a
        component that these genes hardly show hardly counts.
        """
        blocks = (self._points(counts[start : start + BLOCK]) for start in range(0, counts.shape[0], BLOCK))
        return np.concatenate([np.empty((0, self.space.loadings.shape[1]), np.float32), *blocks])

    @cached_property
    def reference(self) -> Values:
        """Where the reference's cells lie in these units, ``(reference cells, components)``."""
        found: Values = (self.space.scores.astype(np.float64) @ self._metric).astype(np.float32)
        return found

    def expression(self, scores: Numbers) -> Numbers:
        """Return the log1p counts that places in the whole space stand for, ``(cells, measured genes)``.

        Parameters
        ----------
        scores
            ``(cells, components)``, as a reference's :attr:`ExpressionSpace.scores`.
        """
        found: Numbers = scores @ self._loadings.T / self.space.scale + self.space.mean.astype(np.float64)
        return found

    @cached_property
    def _loadings(self) -> Numbers:
        return self.space.loadings.astype(np.float64)

    @cached_property
    def _metric(self) -> Numbers:
        """The Cholesky factor of the loadings' products over the measured genes."""
        products = self._loadings.T @ self._loadings
        return np.asarray(np.linalg.cholesky(products + RIDGE * np.eye(len(products))), dtype=np.float64)

    def _points(self, counts: sparse.csr_matrix) -> Values:
        from scipy.linalg import solve_triangular

        weighted = self._loadings * self.space.scale[:, None]
        products = self.log_counts(counts) @ weighted - self.space.mean.astype(np.float64) @ weighted
        found: Values = solve_triangular(self._metric, products.T, lower=True).T.astype(np.float32)
        return found


def fit(counts: sparse.csr_matrix, labels: Codes, batches: Codes, *, seed: int) -> tuple[ExpressionSpace, Codes]:
    """Return the space of a reference's expression, and which cells' places are kept in it.

    Parameters
    ----------
    counts
        ``(cells, genes)``.
    labels
        The label of each cell as a number, ``(cells,)``; cells without one have -1. Without labels all are -1.
    batches
        The batch of each cell as a number, ``(cells,)``.
    seed
        Of the cells that are drawn.
    """
    generator = np.random.default_rng(seed)
    drawn = _drawn(len(labels), generator)
    counts, labels, batches = counts[drawn], labels[drawn], batches[drawn]
    values = normalised(counts)
    mean, spread = moments(values)
    scale = 1 / np.maximum(spread, LEAST_SPREAD)
    loadings = _components(values, mean, scale)
    kept = balanced(labels, batches, most=KEPT, generator=generator)
    scores = (values[kept] @ (loadings * scale[:, None])) - (mean * scale) @ loadings
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).reshape(-1)
    between = _between(values, labels, batches)
    parts = (mean, spread, total / max(total.sum(), 1.0), between, loadings, scores)
    return ExpressionSpace(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts)), drawn[kept]


def _drawn(cells: int, generator: np.random.Generator) -> Codes:
    found: Codes = np.sort(generator.permutation(cells)[:FITTED_ON])
    return found


def balanced(labels: Codes, batches: Codes, *, most: int, generator: np.random.Generator) -> Codes:
    """Return some cells in random order, as evenly as can be of every label in every batch, ``(drawn cells,)``."""
    _, group = np.unique(np.stack([labels, batches]), axis=1, return_inverse=True)
    order = generator.permutation(len(labels))
    group = group.reshape(-1)[order]
    within = np.empty(len(group), dtype=np.int64)  # how many of its group come before a cell
    by_group = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[by_group], np.arange(group.max(initial=-1) + 1))
    within[by_group] = np.arange(len(group)) - starts[group[by_group]]
    found: Codes = order[np.sort(np.argsort(within, kind="stable")[:most])]
    return found


def _components(values: sparse.csr_matrix, mean: Numbers, scale: Numbers) -> Numbers:
    """Return the principal axes of the scaled, centred values, ``(genes, components)``, the largest first."""
    cells, genes = values.shape
    count = max(min(COMPONENTS, genes - 1, cells - 1), 1)
    vectors = (_by_products if genes <= MOST_WHOLE else _by_lanczos)(values, mean, scale, count)
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(count)]
    found: Numbers = vectors * np.where(largest < 0, -1.0, 1.0)  # an axis has no sign of its own
    return found


def _by_products(values: sparse.csr_matrix, mean: Numbers, scale: Numbers, count: int) -> Numbers:
    from scipy.linalg import eigh

    cells, genes = values.shape
    products = -cells * np.outer(mean, mean)
    for start in range(0, cells, BLOCK):
        block = values[start : start + BLOCK].toarray()
        products += block.T @ block
    products *= np.outer(scale, scale)
    found: Numbers = eigh(products, subset_by_index=[genes - count, genes - 1])[1][:, ::-1]
    return found


def _by_lanczos(values: sparse.csr_matrix, mean: Numbers, scale: Numbers, count: int) -> Numbers:
    from scipy.sparse.linalg import LinearOperator, eigsh

    cells, genes = values.shape

    def product(vector: Numbers) -> Numbers:
        scaled = scale * vector.reshape(-1)
        found: Numbers = scale * (values.T @ (values @ scaled) - cells * mean * (mean @ scaled))
        return found

    operator = LinearOperator((genes, genes), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=genes)  # ARPACK would draw another every time
    found: Numbers = eigsh(operator, k=count, v0=start, tol=1e-6)[1][:, ::-1]
    return found


def _between(values: sparse.csr_matrix, labels: Codes, batches: Codes) -> Numbers:
    """Return the standard deviation of batches' means of a label, in the mean over labels, ``(genes,)``."""
    names = np.unique(labels[labels >= 0]) if (labels >= 0).any() else np.array([-1])
    found = [_variance(values[labels == name], batches[labels == name]) for name in names]
    variances = [variance for variance in found if variance is not None]
    mean: Numbers = np.mean(variances, axis=0) if variances else np.zeros(values.shape[1])
    return np.sqrt(mean)


def _variance(values: sparse.csr_matrix, batches: Codes) -> Numbers | None:
    """Return the variance of the means of batches, ``(genes,)``; None if fewer than two have cells enough."""
    names, cells = np.unique(batches, return_counts=True)
    means = [np.asarray(values[batches == name].mean(axis=0)).reshape(-1) for name in names[cells >= LEAST_OF_A_LABEL]]
    return np.var(means, axis=0, ddof=1) if len(means) > 1 else None

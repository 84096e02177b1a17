"""Two simple ways to label cells that a model has to beat: logistic regression, and neighbours after PCA.

Both read counts alone: log1p of counts scaled to 10,000 a cell, each gene z-scored by the reference's cells. A gene
that the query did not measure is at the reference's mean, where its z-score is 0. Matrices stay sparse: what centring
would fill in is one number for each gene, which is taken off behind the products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.expression import moments
from hub_client.models.model import Model

TARGET_SUM = 1e4
"""Counts that every cell is scaled to."""
MOST = 10.0
"""The largest z-score; higher ones are cut."""
NEIGHBOURS, COMPONENTS = 15, 50
TOLERANCE = 1e-5
"""Of the regression's gradient. scikit-learn's default, which CellTypist has, is 1e-4: far from the optimum of labels
that separate well, and where it stops then depends on how genes are centred."""
LARGE = 50_000
"""From so many cells on CellTypist's regression is fitted by stochastic average gradients, in fewer steps."""
DENSE_GENES = 500
"""Up to so many genes principal components are those of the covariance matrix; of more they are found one by one, by
Arnoldi's iteration."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Counts of cells, and what they were scaled by."""

    values: csr_matrix
    """``(cells, genes)``, the same genes in the same order for reference and query."""
    totals: NDArray[Any] | None = None
    """Counts of each cell in all genes that were measured, ``(cells,)``; None is the sum over these genes."""
    missing: NDArray[np.int64] | None = None
    """The genes that were not measured, their positions; None for none."""


def counts_of(model: Model, cells: Cells) -> Counts:
    """Return aligned cells as the opponents read them: counts, also of a model that reads log1p values.

    Genes that the cells' data did not measure have no part in their totals.
    """
    values = csr_matrix(cells.x, dtype=np.float64)
    if model.manifest.input.kind == "log1p":
        values.data = np.expm1(values.data)
    missing = cells.unmeasured(model.manifest.genes.names)
    measured = np.ones(values.shape[1])
    measured[missing] = 0
    return Counts(values, values @ measured, missing)


def logistic_regression(reference: Counts, labels: NDArray[Any], query: Counts) -> tuple[NDArray[Any], Array]:
    """Return the labels, sorted, and the probability of each for every cell of the query, ``(cells, labels)``.

    One regression for each label against the rest with the settings that CellTypist 1.7 trains with: L2 penalty, C = 1,
    lbfgs with at most 1,000 steps, and from 50,000 cells on stochastic average gradients with at most 500 (Domínguez
    Conde 2022, doi 10.1126/science.abl5197). CellTypist gives each label a sigmoid of its own; here these are divided
    by their sum, so that they can be judged as probabilities.

    Parameters
    ----------
    reference, query
        Counts of the same genes; what the reference states as missing is not used.
    labels
        The label of each cell of the reference, ``(cells,)``.

    Raises
    ------
    InvalidInput
        If reference and labels, or reference and query, do not go together.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    scale = _checked(reference, labels, query)
    names = np.unique(labels)
    if len(names) == 1:
        return names, np.ones((query.values.shape[0], 1))
    large = len(labels) > LARGE
    one = LogisticRegression(C=1.0, tol=TOLERANCE, solver="sag" if large else "lbfgs", max_iter=500 if large else 1000)
    fitted = OneVsRestClassifier(one).fit(scale.scaled(reference), labels)
    probabilities: Array = fitted.predict_proba(scale.scaled(query))
    return names, probabilities


def neighbours_after_pca(reference: Counts, labels: NDArray[Any], query: Counts) -> tuple[NDArray[Any], Array]:
    """Return the labels, sorted, and the share of each among a cell's neighbours, ``(cells, labels)``.

    The 15 nearest cells of the reference in 50 principal components of it vote, each with the same weight. Parameters
    and errors as for :func:`logistic_regression`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    scale = _checked(reference, labels, query)
    components = principal_components(reference, scale=scale)
    voters = KNeighborsClassifier(min(NEIGHBOURS, len(labels))).fit(components.of(reference), labels)
    probabilities: Array = voters.predict_proba(components.of(query))
    return np.unique(labels), probabilities


def _checked(reference: Counts, labels: NDArray[Any], query: Counts) -> Scale:
    """Return the reference's scale, once the arguments go together."""
    if not len(labels) or reference.values.shape[0] != len(labels):
        raise errors.InvalidInput(
            f"the reference has {reference.values.shape[0]:,} cells and {len(labels):,} labels; give one label for "
            "each cell, and at least one cell.",
            facts={"cells": reference.values.shape[0], "labels": len(labels)},
        )
    if reference.values.shape[1] != query.values.shape[1]:
        raise errors.InvalidInput(
            f"the reference has {reference.values.shape[1]:,} genes and the query {query.values.shape[1]:,}; bring "
            "both to the same genes in the same order, as hub_client.align() does.",
            facts={"reference": reference.values.shape[1], "query": query.values.shape[1]},
        )
    return Scale.of(reference)


# --- z-scores, and principal components of them -------------------------------------------------------------------


def logged(counts: Counts) -> csr_matrix:
    """Return log1p of counts scaled to 10,000 a cell, ``(cells, genes)``; sparse stays sparse."""
    values = csr_matrix(counts.values, dtype=np.float64)
    totals = np.asarray(values.sum(axis=1)).reshape(-1) if counts.totals is None else counts.totals
    found = csr_matrix(diags(TARGET_SUM / np.maximum(totals, 1.0)) @ values)
    found.data = np.log1p(found.data)
    return found


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each gene's log counts over a reference."""

    mean: Array
    """``(genes,)``"""
    spread: Array
    """``(genes,)``; 1 for a gene that does not vary."""

    @classmethod
    def of(cls, reference: Counts) -> Scale:
        """Return those of a reference's cells."""
        mean, spread = moments(logged(reference))
        return cls(mean, np.where(spread > 1e-10, spread, 1.0))

    def scaled(self, counts: Counts) -> csr_matrix:
        """Return z-scores plus :attr:`offset`, ``(cells, genes)``: sparse, for where a count is 0 the sum is 0.

        Genes that were not measured are at the offset, where their z-score is 0.
        """
        found = csr_matrix(logged(counts) @ diags(1 / self.spread))
        found.data = np.minimum(found.data, MOST + self.offset[found.indices])
        return _at_mean(found, self.offset, counts.missing)

    @property
    def offset(self) -> Array:
        """What :meth:`scaled` has more than the z-scores, ``(genes,)``; linear models take it up in their bias."""
        return self.mean / self.spread


def _at_mean(values: csr_matrix, mean: Array, missing: NDArray[np.int64] | None) -> csr_matrix:
    """Return values with the columns of some genes at their mean."""
    if missing is None or not len(missing):
        return values
    measured = np.ones(values.shape[1])
    measured[missing] = 0
    rows = csr_matrix((mean[missing], missing, [0, len(missing)]), shape=(1, values.shape[1]))
    return csr_matrix(values @ diags(measured) + csr_matrix(np.ones((values.shape[0], 1))) @ rows)


@dataclass(frozen=True)
class Components:
    """Principal components of a reference's z-scores."""

    scale: Scale
    directions: Array
    """``(genes, components)``"""

    def of(self, counts: Counts) -> Array:
        """Return where cells lie in them, ``(cells, components)``."""
        found: Array = self.scale.scaled(counts) @ self.directions - self._origin
        return found

    @property
    def _origin(self) -> Array:
        found: Array = self.scale.offset @ self.directions
        return found


def principal_components(reference: Counts, *, scale: Scale | None = None, count: int = COMPONENTS) -> Components:
    """Return principal components of a reference, at most as many as there are cells less one.

    Parameters
    ----------
    reference
        Its counts.
    scale
        What genes are z-scored by; None is the reference's own.
    count
        How many.
    """
    from sklearn.decomposition import PCA

    scale = scale or Scale.of(reference)
    values = scale.scaled(reference)
    cells, genes = values.shape
    count = min(count, cells - 1, genes - 1)
    if count < 1:
        return Components(scale, np.zeros((genes, 1)))
    solver = "covariance_eigh" if genes <= DENSE_GENES else "arpack"
    fitted = PCA(count, svd_solver=solver, random_state=0).fit(values)
    return Components(scale, np.ascontiguousarray(fitted.components_.T))

"""Label transfer by expression: a linear classifier of normalised counts, beside the latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

TARGET_SUM = 1e3
"""Counts per cell, over the model's genes, that cells are scaled to before log1p."""
LEAST_SPREAD = 0.2
"""Genes whose log counts spread less than this (standard deviation) are not blown up to it."""
PENALTY = 0.02
"""Weight of half the squared coefficients against the mean loss of a cell (nats)."""
NEVER = -30.0
"""Bias of a label that no cell has."""


@dataclass(frozen=True)
class LinearClassifier:
    """Logits of labels as a linear map of log-normalised counts."""

    weight: NDArray[np.float32]
    """``(labels, genes)``."""
    bias: NDArray[np.float32]
    """``(labels,)``."""
    centre: NDArray[np.float32]
    """Mean log-normalised counts of the cells it was fitted on, ``(genes,)``: what a missing gene counts as."""

    def logits(self, counts: csr_matrix, *, missing: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the logit of each label, ``(cells, labels)``.

        Parameters
        ----------
        counts
            ``(cells, genes)``, genes in the model's order.
        missing
            Which genes were not measured; they are taken to be at the mean of the cells it was fitted on.
        """
        weight = self.weight.astype(np.float64)
        absent = self.bias + weight[:, missing] @ self.centre[missing]
        weight[:, missing] = 0  # where the model fills them with means, they count once, at the mean
        found: NDArray[np.float64] = normalised(counts) @ weight.T + absent
        return found


def normalised(counts: csr_matrix, *, share: float = 1.0) -> csr_matrix:
    """Return log1p of counts scaled to ``TARGET_SUM`` in every cell, ``(cells, genes)``; sparse stays sparse.

    Where these are not all genes, ``share`` is the share of a cell's counts that they are taken to hold.
    """
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1)
    scaled = csr_matrix(diags(share * TARGET_SUM / np.maximum(totals, 1.0)) @ counts, dtype=np.float64)
    scaled.data = np.log1p(scaled.data)
    return scaled


def moments(values: csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each gene's mean and standard deviation over cells, ``(genes,)`` both; sparse stays sparse."""
    mean = np.asarray(values.mean(axis=0)).reshape(-1)
    square = np.asarray(values.multiply(values).mean(axis=0)).reshape(-1)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def fit(counts: csr_matrix, codes: NDArray[np.int64], groups: NDArray[np.int64], *, labels: int) -> LinearClassifier:
    """Return the multinomial logistic regression of labels on log-normalised counts, with an L2 penalty.

    Each label in each condition weighs the same, so that neither rare labels nor small studies drown (logistic
    regression on normalised counts is how CellTypist labels cells: Domínguez Conde 2022, doi 10.1126/science.abl5197).

    Parameters
    ----------
    counts
        Labelled cells, ``(cells, genes)``.
    codes, groups
        Their labels and conditions, ``(cells,)``.
    labels
        How many labels there are; one without cells is never named.
    """
    values = normalised(counts)
    centre, spread = moments(values)
    scale = 1 / np.maximum(spread, LEAST_SPREAD)
    weight = np.zeros((labels, counts.shape[1]), np.float32)
    bias = np.full(labels, NEVER, np.float32)
    seen = np.unique(codes)
    weight[seen], bias[seen] = _regression(csr_matrix(values @ diags(scale)), codes, _balanced(codes, groups))
    return LinearClassifier(weight * scale.astype(np.float32), bias, centre.astype(np.float32))


def _regression(
    values: csr_matrix, codes: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(codes)) == 1:
        return np.zeros((1, values.shape[1])), np.zeros(1)
    fitted = LogisticRegression(C=1 / (PENALTY * len(codes)), max_iter=1000).fit(values, codes, sample_weight=weights)
    if len(fitted.classes_) == 2:  # scikit-learn gives the second label's log-odds alone
        return np.vstack([-fitted.coef_, fitted.coef_]) / 2, np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    return fitted.coef_, fitted.intercept_


def _balanced(codes: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights of mean 1 under which each label in each condition weighs the same, ``(cells,)``."""
    _, member, cells = np.unique(np.stack([codes, groups]), axis=1, return_inverse=True, return_counts=True)
    weights = 1 / cells[member.reshape(-1)]
    found: NDArray[np.float64] = weights / weights.mean()
    return found

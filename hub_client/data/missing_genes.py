"""Genes that a query did not measure, at the reference's mean: what that is, and how it is put into the query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.data import matrix as matrices

LEAST_SHARE = 0.01
"""The smallest share of a cell's counts that the measured genes are taken to hold: no depth rises a hundredfold."""


def gene_means(x: sparse.csr_matrix, *, kind: str) -> NDArray[np.float32]:
    """Return the mean of each gene over a reference's cells, ``(genes,)``.

    Of counts it is the mean of the gene's share of the cell's counts, so that every cell weighs the same however deeply
    it was sequenced; the shares of all genes add up to 1, and cells without counts are left out. Of log1p values it is
    the mean value.

    Parameters
    ----------
    x
        What the network reads of the reference, ``(cells, genes)``.
    kind
        ``counts`` or ``log1p``, as in a manifest's ``input``.
    """
    totals = matrices.row_sums(x) if kind == "counts" else np.ones(x.shape[0])
    weights = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
    found: NDArray[np.float32] = (x.T @ weights / max(int((totals > 0).sum()), 1)).astype(np.float32)
    return found


def filled(
    x: sparse.csr_matrix, *, missing: NDArray[np.int64], means: NDArray[np.float32], kind: str
) -> sparse.csr_matrix:
    """Return a query's cells with the genes that it did not measure at the reference's mean.

    Counts are those that the cell would have at its own depth. Let ``p`` be the means and ``M`` the measured genes: a
    cell of ``t`` counts in ``M`` has about ``t / sum_(g in M) p_g * sum_g p_g`` over all genes, of which gene ``g``
    has the share ``p_g / sum_g p_g``. So only the ratios of means count, a cell of half the depth is given half the
    counts, and its size factor, the sum over all genes, is that of a cell in which all were measured. Log1p values are
    of one depth already and take the mean as it is.

    Parameters
    ----------
    x
        What the network reads of the query, ``(cells, genes)``, nothing in the columns ``missing``.
    missing
        The genes that the query did not measure.
    means
        From :func:`gene_means`, ``(genes,)``.
    kind
        ``counts`` or ``log1p``.
    """
    seen = missing[means[missing] > 0]
    if not seen.size:
        return x
    profile = means.astype(np.float64)
    depths = np.ones(x.shape[0])
    if kind == "counts":
        profile /= profile.sum()
        depths = matrices.row_sums(x) / max(1 - profile[missing].sum(), LEAST_SHARE)
    rows = max(matrices.BLOCK // seen.size, 1)
    starts = range(0, x.shape[0], rows)
    blocks = [x[start : start + rows] + _outer(depths[start : start + rows], profile, seen) for start in starts]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))


def _outer(depths: NDArray[np.float64], profile: NDArray[np.float64], genes: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return depth times profile in the columns of some genes, ``(cells, genes)``."""
    values = np.outer(depths, profile[genes]).astype(np.float32).ravel()
    starts = np.arange(len(depths) + 1) * genes.size
    return sparse.csr_matrix((values, np.tile(genes, len(depths)), starts), shape=(len(depths), len(profile)))

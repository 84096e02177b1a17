"""Labels against genes: which cells lack every marker of their label, and which have counts that it forbids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client.manifest.axes import Markers

SURPRISING = 0.01
"""Probability of no count at all, for a cell of its label, below which a zero counts against the label."""


@dataclass(frozen=True)
class MarkerCheck:
    """One label's cells against its markers.

    Attributes
    ----------
    rows
        The label's cells, ``(cells of the label,)``.
    deep
        Which of them are deep enough for a zero to be surprising; None for a label without markers to be present.
    without
        Which of the deep ones have no count of any marker.
    forbidden
        Which have a count of a marker that the label does not have; None for a label without such markers.
    background
        Share of other labels' cells that have such a count: what ambient RNA and doublets give.
    """

    rows: NDArray[np.int64]
    deep: NDArray[np.bool_] | None
    without: NDArray[np.bool_] | None
    forbidden: NDArray[np.bool_] | None
    background: float | None


def check_markers(
    counts: csr_matrix,
    genes: Sequence[str],
    *,
    depth: NDArray[np.float64],
    names: NDArray[np.str_],
    markers: Mapping[str, Markers],
) -> dict[str, MarkerCheck]:
    """Return each label's cells against the label's markers; markers that were not measured are left out.

    Parameters
    ----------
    counts
        ``(cells, genes)``, of the markers at least.
    genes
        Names of its columns.
    depth
        Counts per cell over all genes, ``(cells,)``.
    names
        The label of each cell, ``(cells,)``.
    markers
        Label to its markers.
    """
    place = {gene: column for column, gene in enumerate(genes)}
    sums = {
        label: (_summed(counts, rule.present, place), _summed(counts, rule.absent, place))
        for label, rule in markers.items()
    }
    found = {}
    for label, (present, absent) in sums.items():
        rows = np.flatnonzero(names == label)
        if not len(rows):
            continue
        deep = None if present is None else _surprising(present[rows], depth[rows])
        without = None if deep is None or present is None else deep & (present[rows] == 0)
        forbidden = None if absent is None else absent[rows] > 0
        background = None if absent is None else _background(absent, names, label, markers)
        found[label] = MarkerCheck(rows, deep, without, forbidden, background)
    return found


def _summed(counts: csr_matrix, genes: Sequence[str], place: Mapping[str, int]) -> NDArray[np.float64] | None:
    """Return each cell's counts of some genes together, ``(cells,)``; None where none was measured."""
    columns = [place[gene] for gene in genes if gene in place]
    return np.asarray(counts[:, columns].sum(axis=1), dtype=np.float64).reshape(-1) if columns else None


def _surprising(counts: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for which cells of a label a zero is surprising, ``(cells,)``.

    Counts are negative binomial about the label's mean share of counts, with a dispersion by the method of moments:
    P(0) = (1 + phi * mu) ** (-1 / phi). Both are those of its cells that have a count, since mislabelled cells have
    none; where zeros are rare enough to surprise, leaving them out changes little.
    """
    seen = counts > 0
    mean = depth * counts[seen].sum() / max(depth[seen].sum(), 1.0)
    excess = ((counts[seen] - mean[seen]) ** 2 - mean[seen]).sum()
    dispersion = max(float(excess) / max(float((mean[seen] ** 2).sum()), 1e-12), 1e-6)
    zero: NDArray[np.float64] = (1 + dispersion * mean) ** (-1 / dispersion)
    return zero < SURPRISING


def _background(
    absent: NDArray[np.float64], names: NDArray[np.str_], label: str, markers: Mapping[str, Markers]
) -> float | None:
    """Return the lower quartile, over other labels, of the share of cells with counts of a label's forbidden genes.

    Labels that the genes are markers of are above it.
    """
    others = sorted(set(names.tolist()) - {"", label})
    shares = [float((absent[names == other] > 0).mean()) for other in others]
    return float(np.quantile(shares, 0.25)) if shares else None

"""Is this matrix counts? And if not: what does it look like?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.data import matrix as matrices

SAMPLE = 256
"""How many rows are read to guess what a matrix holds."""
LOG_LARGEST = 20.0
"""log1p of a count can hardly exceed this: exp(20) is 5e8."""
_PIECE = 1 << 17


@dataclass
class Tally:
    """What is known of the values seen so far."""

    smallest: float = 0.0
    largest: float = 0.0
    """The bounds of the finite values and of the zeros that are not stored."""
    whole: bool = True
    """Whether all values are integers."""
    nan: bool = False
    """Whether any value is NaN."""
    infinite: bool = False
    """Whether any value is."""

    def add(self, values: NDArray[Any]) -> None:
        """Take in more values, ``(entries,)``, of any number type."""
        for start in range(0, values.size, _PIECE):
            piece = values[start : start + _PIECE]
            low, high = float(piece.min()), float(piece.max())
            self.nan |= low != low
            self.infinite |= bool(np.isinf(low) or np.isinf(high))
            self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)
            self.whole &= piece.dtype.kind in "iub" or bool((np.rint(piece) == piece).all())

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return not (self.nan or self.infinite)

    @property
    def counts(self) -> bool:
        """Whether the values are counts: finite, not negative, whole."""
        return self.whole and self.finite and self.smallest >= 0


def are_counts(matrix: Any) -> bool:
    """Return whether the first rows of a matrix are counts, and not all of them zero."""
    tally = Tally()
    tally.add(matrices.head(matrix, rows=SAMPLE).data)
    return tally.counts and tally.largest > 0


def described(tally: Tally, sample: sparse.csr_matrix) -> str:
    """Return what values that are not counts look like, as the end of "it holds ...".

    Parameters
    ----------
    tally
        Of the whole matrix.
    sample
        Some of its rows, ``(cells, query genes)``, all columns.
    """
    if tally.nan:
        return "NaN"
    if tally.infinite:
        return "infinite values"
    if tally.smallest < 0:
        return f"negative values (down to {tally.smallest:.3g}), like scaled data (z-scores)"
    return _described_fractions(tally, sample)


def _described_fractions(tally: Tally, sample: sparse.csr_matrix) -> str:
    logged = tally.largest <= LOG_LARGEST
    exponentials = sample.copy()
    if logged:
        exponentials.data = np.expm1(exponentials.data.astype(np.float64))
    if logged and _nearly_whole(exponentials.data):
        return "log1p of counts (np.expm1 gives them back)"
    if logged and _proportional(exponentials):
        return "log-normalised counts (log1p of counts scaled to a common total)"
    if _proportional(sample):
        return "counts scaled to a common total (normalised)"
    if logged:
        return f"fractions no larger than {tally.largest:.3g}, like log-transformed data"
    return f"fractions up to {tally.largest:.3g}, like estimated or ambient-corrected counts"


def _nearly_whole(values: NDArray[Any]) -> bool:
    return bool(values.size) and bool(np.allclose(values, np.rint(values), rtol=1e-5, atol=1e-2))


def _proportional(sample: sparse.csr_matrix) -> bool:
    """Return whether most rows are whole multiples of their smallest value, as counts times a factor are."""
    rows = [row for row in np.split(sample.data, sample.indptr[1:-1]) if row.size > 1]
    return bool(rows) and float(np.mean([_nearly_whole(row / row.min()) for row in rows])) > 0.5

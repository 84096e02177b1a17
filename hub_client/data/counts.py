"""Is this matrix counts? And if not: what does it look like?"""

from __future__ import annotations

from collections.abc import Callable
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
FLOAT32_LARGEST = float(np.finfo(np.float32).max)
_PIECE = 1 << 17
_SHARP = 1e4
"""Below this, exponentials of float32 logs show whether they are whole."""
_FEWEST = 3
"""Of how many cells it is said that they share one total; of fewer if it is one of ``_TOTALS``."""
_TOTALS = (1e4, 1e5, 1e6)
"""What cells are scaled to: fewer than ``_FEWEST`` hardly have it by chance."""
_SHOWING, _MOST = 20, 0.8
"""How many values a cell needs for its smallest to show what it was multiplied by, and at most, as a share of genes."""


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
    def fits(self) -> bool:
        """Whether float32, in which networks compute, holds the values."""
        return max(self.largest, -self.smallest) <= FLOAT32_LARGEST

    @property
    def counts(self) -> bool:
        """Whether the values are counts: finite, not negative, whole."""
        return self.whole and self.finite and self.smallest >= 0


def are_counts(matrix: Any) -> bool:
    """Return whether the first rows of a matrix are counts, and not all of them zero."""
    tally = Tally()
    tally.add(matrices.head(matrix, rows=SAMPLE).data)
    return tally.counts and tally.fits and tally.largest > 0


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
    if not tally.fits:
        return f"values that float32 cannot hold (up to {max(tally.largest, -tally.smallest):.3g})"
    if tally.smallest < 0:
        return f"negative values (down to {tally.smallest:.3g}), like scaled data (z-scores)"
    return _described_fractions(tally, sample)


def _described_fractions(tally: Tally, sample: sparse.csr_matrix) -> str:
    total = common_total(sample)
    if total is None and (transformed := _transformed(tally, sample)):
        return transformed
    if _proportional(sample):
        return "counts scaled to a common total (normalised)"
    if total is not None:
        return f"values scaled to a common total, {total:,.6g} in each cell (normalised, as TPM and CPM are)"
    if tally.largest <= LOG_LARGEST and not _looks_corrected(sample):
        return f"fractions no larger than {tally.largest:.3g}, like log-transformed data"
    if _stretched(sample):
        return f"fractions up to {tally.largest:.3g}, in most cells from {gap(sample):.3g} on, like normalised values"
    return f"fractions up to {tally.largest:.3g}, like estimated or ambient-corrected counts"


@dataclass(frozen=True)
class _Transform:
    """What counts, or counts scaled to a common total, may have been put through."""

    name: str
    back: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    largest: float = LOG_LARGEST
    """What values of it can hardly exceed."""

    def undone(self, tally: Tally, sample: sparse.csr_matrix) -> sparse.csr_matrix | None:
        """Return the values put back, if these are counts or normalised."""
        if tally.largest > self.largest:
            return None
        before = sample.astype(np.float64)
        before.data = self.back(before.data)
        shown = _nearly_whole(before.data) or _proportional(before) or common_total(before) is not None
        return before if shown else None


_LOG1P = _Transform("log1p", np.expm1)
_OTHERS = (
    _Transform("log2", lambda values: np.exp2(values) - 1),
    _Transform("log10", lambda values: np.power(10, values) - 1, largest=9),
    _Transform("square roots", np.square, largest=1e4),
    _Transform("arcsinh", np.sinh),
    _Transform("log1p of log1p", lambda values: np.expm1(np.expm1(values)), largest=3),
)


def _transformed(tally: Tally, sample: sparse.csr_matrix) -> str | None:
    """Return what was done to counts to get the values, if undoing it shows."""
    if (before := _LOG1P.undone(tally, sample)) is not None:
        if _nearly_whole(before.data):
            return "log1p of counts (np.expm1 gives them back)"
        return "log-normalised counts (log1p of counts scaled to a common total)"
    if _proportional(sample):  # as their squares are
        return None
    found = next((other for other in _OTHERS if other.undone(tally, sample) is not None), None)
    return None if found is None else f"{found.name} of counts or of normalised counts"


def may_be_logs(tally: Tally, sample: sparse.csr_matrix) -> bool:
    """Return whether values can be log1p of counts: not too large, and neither normalised nor corrected counts."""
    wrong = tally.smallest < 0 or tally.largest > LOG_LARGEST or not tally.finite
    if wrong or common_total(sample) is not None:
        return False
    if _LOG1P.undone(tally, sample) is not None:
        return True
    return not (_transformed(tally, sample) or _proportional(sample) or _near_whole(sample))


def may_be_rounded(tally: Tally, sample: sparse.csr_matrix) -> bool:
    """Return whether rounding values makes counts of them: not of those that are normalised, logged or wrong."""
    if not tally.finite or not tally.fits or tally.smallest < 0 or common_total(sample) is not None:
        return False
    logs = tally.largest <= LOG_LARGEST and not _looks_corrected(sample)
    normalised = _proportional(sample) or _stretched(sample)
    return not (logs or normalised or _transformed(tally, sample))


def common_total(sample: sparse.csr_matrix) -> float | None:
    """Return the total that nearly all cells of a sample share, to 2 %, as normalised values do; None without one."""
    totals = matrices.row_sums(sample)
    totals = totals[totals > 0]
    if not len(totals):
        return None
    total = float(np.median(totals))
    if len(totals) < _FEWEST and not np.isclose(total, _TOTALS, rtol=1e-3).any():
        return None
    return total if float(np.mean(np.abs(totals - total) <= 0.02 * total)) >= 0.95 else None


def gap(sample: sparse.csr_matrix) -> float:
    """Return the smallest value above zero that a cell usually has: in counts, of which many are 0, some are 1.

    0 where cells have too few values to show it, or hardly a zero, as bulk samples.
    """
    rows = [row[row > 0] for row in np.split(sample.data, sample.indptr[1:-1])]
    smallest = [float(row.min()) for row in rows if _SHOWING <= row.size <= _MOST * sample.shape[1]]
    return float(np.median(smallest)) if smallest else 0.0


def _stretched(sample: sparse.csr_matrix) -> bool:
    """Return whether fractions begin above one, and are not whole numbers of which a little was taken off."""
    return gap(sample) > 1 and not _near_whole(sample)


def _looks_corrected(sample: sparse.csr_matrix) -> bool:
    """Return whether values look like counts of which a part was taken off: near whole numbers, or most below one."""
    values = sample.data[sample.data > 0]
    return _near_whole(sample) or bool(values.size and np.median(values) <= 1)


def _near_whole(sample: sparse.csr_matrix) -> bool:
    """Return whether values lie at whole numbers, or below them, more often than chance has it."""
    values = sample.data[sample.data > 0].astype(np.float64)
    if not values.size:
        return False
    near = (np.abs(values - np.rint(values)) <= 0.1) & (np.rint(values) > 0)  # a fifth by chance
    below = np.ceil(values) - values <= 0.25  # a quarter by chance
    return float(near.mean()) > 0.35 or float(below.mean()) > 0.45


def _nearly_whole(values: NDArray[Any]) -> bool:
    """Return whether values are whole but for rounding; those too large for rounding to show are left out."""
    shown = values[(values > 0) & (values < _SHARP)]
    whole = np.rint(shown)
    return bool(shown.size) and bool((np.abs(shown - whole) <= 1e-2 + 1e-5 * whole).all() and (whole > 0).all())


def _proportional(sample: sparse.csr_matrix) -> bool:
    """Return whether most rows are whole multiples of their smallest value, as counts times a factor are."""
    rows = [row for row in np.split(sample.data, sample.indptr[1:-1]) if row.size > 1]
    return bool(rows) and float(np.mean([_nearly_whole(row / row.min()) for row in rows])) > 0.5

"""How deep cells were sequenced: counts of each over a model's genes, as quantiles of the reference's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hub_client.data import matrix as matrices
from hub_client.data.cells import Cells
from hub_client.manifest.calibration import Depth

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
LEAST_MEASURED = 0.5
"""The least share of the reference's counts that a query's genes hold for its cells' counts to be compared."""


def depth_of(cells: Cells) -> Depth:
    """Return quantiles of the counts of each cell over the model's genes.

    Parameters
    ----------
    cells
        The reference, as counts.
    """
    totals = matrices.row_sums(cells.x)
    return Depth(**{name: float(np.quantile(totals, share)) for name, share in QUANTILES.items()})


def outside(totals: NDArray[np.float64], reference: Depth) -> float:
    """Return the share of cells with fewer counts than 5 % or more than 95 % of the reference's; of its own, a tenth.

    Parameters
    ----------
    totals
        The counts of each cell over all of the model's genes, ``(cells,)``.
    reference
        From :func:`depth_of`.
    """
    return float(((totals < reference.p5) | (totals > reference.p95)).mean())

"""How deep a reference's cells are, and how a query's compare."""

from __future__ import annotations

import numpy as np
import pytest

from hub_client.data.depth import depth_of, outside
from tests.simulated import cells_for, manifest


def test_of_its_own_cells_a_tenth_lies_outside() -> None:
    cells = cells_for(manifest(), cells=400)
    totals = np.asarray(cells.x.sum(axis=1), dtype=np.float64).reshape(-1)
    depth = depth_of(cells)
    assert depth.p5 < depth.p25 < depth.median < depth.p75 < depth.p95
    assert depth.median == np.median(totals)
    assert outside(totals, depth) == pytest.approx(0.1, abs=0.01)
    assert outside(totals / 100, depth) == outside(totals * 100, depth) == 1

"""Draws from every kind of model, beside its data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hub_client.models.posterior_predictive import posterior_predictive
from tests.contract.examples import trained
from tests.simulated import cells_for

KINDS = ("scpoli", "trvae", "expimap", "scvi", "scanvi", "totalvi")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_counts_at_the_depth_of_the_cells(kind: str) -> None:
    model = trained(kind)
    cells = cells_for(model.manifest)
    found = posterior_predictive(model, cells)
    assert found.counts and found.cells == len(cells)
    assert np.allclose(found.observed.mean, np.asarray(cells.x.mean(axis=0)).reshape(-1), rtol=1e-5)
    assert np.allclose(found.observed.zeros, (cells.x.toarray() == 0).mean(axis=0))
    assert 0.4 < found.drawn.totals.mean() / found.observed.totals.mean() < 1.2  # zinb drops half before it is trained
    assert (found.drawn.variance > 0).all()
    assert (found.drawn.detected == np.round(found.drawn.detected)).all()


@pytest.mark.slow
def test_draws_are_the_seeds_and_leave_the_callers_random_state() -> None:
    model = trained("scpoli")
    cells = cells_for(model.manifest)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, other = (posterior_predictive(model, cells, seed=seed, most_cells=60) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(one.drawn.totals, two.drawn.totals)
    assert not np.array_equal(one.drawn.totals, other.drawn.totals)
    assert one.cells == 60


@pytest.mark.slow
def test_minibatches_do_not_change_what_is_observed() -> None:
    model = trained("scvi")
    cells = cells_for(model.manifest)
    one, two = (posterior_predictive(model, cells, batch_size=size) for size in (32, 512))
    for name in ("mean", "variance", "zeros", "totals", "detected"):
        assert np.allclose(getattr(one.observed, name), getattr(two.observed, name))
    assert isinstance(cells.x, csr_matrix)

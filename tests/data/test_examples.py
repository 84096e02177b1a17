from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from hub_client import errors
from hub_client.data.examples import bundled_query


@pytest.mark.slow
def test_pbmc68k_comes_as_counts_with_its_gem_wells() -> None:
    query = bundled_query("pbmc68k")
    assert query.shape == (700, 765)
    assert isinstance(query.X, sparse.csr_matrix)
    assert query.X.dtype == np.float32
    assert np.array_equal(query.X.data, np.rint(query.X.data))
    assert query.X.data.min() >= 1
    assert set(query.obs["batch"]) == {f"gem{well}" for well in range(1, 9)}
    assert query.obs["bulk_labels"].nunique() == 10
    assert (query.obs["n_counts"] >= query.X.sum(axis=1).A1).all()


@pytest.mark.slow
def test_pbmc68k_has_the_counts_recovered_elsewhere(shared_data: Callable[[str], Path]) -> None:
    query = bundled_query("pbmc68k")
    other = anndata.read_h5ad(shared_data("pbmc68k_reduced_counts.h5ad"))
    assert (query.X != other.X).nnz == 0
    assert list(query.obs["batch"]) == list(other.obs["batch"])


def test_other_names_are_not_found() -> None:
    with pytest.raises(errors.NotFound, match="Did you mean pbmc68k"):
        bundled_query("pbmc68")

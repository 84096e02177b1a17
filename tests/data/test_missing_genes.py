"""The means of a reference's genes, and cells with the genes they lack at these means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from hub_client.data import matrix
from hub_client.data.missing_genes import LEAST_SHARE, filled, gene_means

MEANS = np.array([0.5, 0.3, 0.2, 0.0], dtype=np.float32)


def test_means_of_counts_are_shares_so_that_depth_does_not_count() -> None:
    shallow, deep = [1.0, 1.0, 2.0, 0.0], [400.0, 100.0, 0.0, 0.0]
    empty = [0.0] * 4
    found = gene_means(csr_matrix([shallow, deep, empty], dtype=np.float32), kind="counts")
    np.testing.assert_allclose(found, [(0.25 + 0.8) / 2, (0.25 + 0.2) / 2, 0.25, 0], rtol=1e-6)
    assert found.sum() == pytest.approx(1)
    assert found.dtype == np.float32


def test_means_of_log_values_are_means() -> None:
    found = gene_means(csr_matrix([[0.0, 2.0], [1.0, 0.0]], dtype=np.float32), kind="log1p")
    np.testing.assert_allclose(found, [0.5, 1.0])


def test_a_cell_gets_the_counts_it_would_have_at_its_depth() -> None:
    x = csr_matrix([[5.0, 3.0, 0.0, 0.0], [50.0, 30.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    found = filled(x, missing=np.array([2, 3]), means=MEANS, kind="counts")
    np.testing.assert_allclose(found.toarray(), [[5, 3, 2, 0], [50, 30, 20, 0], [0, 0, 0, 0]], rtol=1e-5)
    assert (found.nnz, found.dtype) == (6, np.float32), "a gene that no cell had, and an empty cell, stay empty"
    again = filled(x, missing=np.array([2, 3]), means=MEANS * 1234, kind="counts")
    np.testing.assert_allclose(again.toarray(), found.toarray(), rtol=1e-5)


def test_the_mean_profile_is_left_as_it_is_whatever_is_hidden() -> None:
    whole = 1000 * MEANS
    for hidden in ([0], [1], [0, 2], [1, 2, 3]):
        seen = whole.copy()
        seen[hidden] = 0
        found = filled(csr_matrix(seen[None]), missing=np.array(hidden), means=MEANS, kind="counts")
        np.testing.assert_allclose(found.toarray()[0], whole, rtol=1e-5)


def test_depth_is_bounded_where_hardly_anything_was_measured() -> None:
    means = np.array([1e-9, 1.0], dtype=np.float32)
    found = filled(csr_matrix([[7.0, 0.0]], dtype=np.float32), missing=np.array([1]), means=means, kind="counts")
    assert found.toarray()[0, 1] == pytest.approx(7 / LEAST_SHARE)


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = csr_matrix(np.random.default_rng(0).poisson(2, (50, 4)).astype(np.float32) * [1, 1, 0, 0])
    whole = filled(x, missing=np.array([2, 3]), means=MEANS, kind="counts").toarray()
    monkeypatch.setattr(matrix, "BLOCK", 3)
    assert np.array_equal(filled(x, missing=np.array([2, 3]), means=MEANS, kind="counts").toarray(), whole)

"""The two simple opponents, against scikit-learn on dense z-scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from hub_client import errors
from hub_client.labels.opponents import (
    Counts,
    Scale,
    counts_of,
    logistic_regression,
    neighbours_after_pca,
    principal_components,
)
from hub_client.models.model import Model
from tests.simulated import cells_for, counts, manifest


def drawn(seed: int, cells: int = 200) -> tuple[csr_matrix, NDArray[Any]]:
    adata = counts(cells=cells, seed=seed)
    return csr_matrix(adata.X), adata.obs["cell_type"].to_numpy(dtype=str)


def z_scores(reference: csr_matrix, query: csr_matrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Dense, as scanpy and CellTypist make them."""
    logs = [
        np.log1p(x.toarray().astype(float) * (1e4 / np.maximum(x.sum(1), 1).A1[:, None])) for x in (reference, query)
    ]
    scaler = StandardScaler().fit(logs[0])
    one, other = (np.minimum(scaler.transform(x), 10) for x in logs)
    return one, other


REFERENCE, LABELS = drawn(0)
QUERY, TRUTH = drawn(1, cells=90)


def test_regression_is_scikit_learns_on_dense_z_scores() -> None:
    names, found = logistic_regression(Counts(REFERENCE), LABELS, Counts(QUERY))
    dense, query = z_scores(REFERENCE, QUERY)
    direct = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=1000, tol=1e-8)).fit(dense, LABELS)
    assert list(names) == list(direct.classes_)
    assert np.allclose(found, direct.predict_proba(query), atol=2e-3)
    assert np.allclose(found.sum(axis=1), 1)
    assert (names[found.argmax(axis=1)] == TRUTH).mean() > 0.9


def test_neighbours_are_scikit_learns_after_its_pca() -> None:
    names, found = neighbours_after_pca(Counts(REFERENCE), LABELS, Counts(QUERY))
    dense, query = z_scores(REFERENCE, QUERY)
    pca = PCA(50, svd_solver="full").fit(dense)
    direct = KNeighborsClassifier(15).fit(pca.transform(dense), LABELS)
    assert np.allclose(found, direct.predict_proba(pca.transform(query)))
    assert list(names) == sorted(set(LABELS))


def test_components_of_many_genes_are_the_same() -> None:
    generator = np.random.default_rng(0)
    wide = csr_matrix(generator.poisson(generator.gamma(0.3, 2, (1, 700)) * generator.gamma(2, 0.5, (80, 1))))
    dense, _ = z_scores(wide, wide)
    found = principal_components(Counts(wide), count=5)
    direct = PCA(5, svd_solver="full").fit_transform(dense)
    assert np.allclose(np.abs(found.of(Counts(wide))), np.abs(direct), atol=1e-6)


@pytest.mark.parametrize("opponent", [logistic_regression, neighbours_after_pca])
def test_a_gene_that_was_not_measured_is_at_the_mean_whatever_stands_there(opponent: Any) -> None:
    missing = np.array([3, 7])
    totals = np.asarray(QUERY[:, [place for place in range(60) if place not in missing]].sum(axis=1)).reshape(-1)
    other = QUERY.tolil()
    other[:, missing] = 999
    one, two = (opponent(Counts(REFERENCE), LABELS, Counts(csr_matrix(x), totals, missing))[1] for x in (QUERY, other))
    assert np.array_equal(one, two)
    scale = Scale.of(Counts(REFERENCE))
    at_mean = scale.scaled(Counts(QUERY, totals, missing)).toarray() - scale.offset
    assert np.allclose(at_mean[:, missing], 0)


def test_scaled_counts_stay_sparse() -> None:
    scaled = Scale.of(Counts(REFERENCE)).scaled(Counts(QUERY))
    assert issparse(scaled) and scaled.nnz <= QUERY.nnz


def test_log_values_are_read_as_the_counts_they_come_from() -> None:
    logs, raw = (Model.build(manifest("trvae", likelihood=likelihood)) for likelihood in ("mse", "nb"))
    of_logs, of_counts = (counts_of(m, cells_for(m.manifest, cells=30)) for m in (logs, raw))
    scaled = Scale.of(of_counts)
    assert np.allclose(scaled.scaled(of_logs).toarray(), scaled.scaled(of_counts).toarray(), atol=1e-4)


def test_one_label_is_certain() -> None:
    names, found = logistic_regression(Counts(REFERENCE), np.full(200, "T"), Counts(QUERY))
    assert list(names) == ["T"] and (found == 1).all()


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="200 cells and 3 labels"):
        logistic_regression(Counts(REFERENCE), LABELS[:3], Counts(QUERY))
    with pytest.raises(errors.InvalidInput, match="60 genes and the query 5"):
        neighbours_after_pca(Counts(REFERENCE), LABELS, Counts(QUERY[:, :5]))

"""Label transfer: votes, Gaussians and how they become probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hub_client import errors
from hub_client.manifest.v1 import Calibration
from hub_client.nn.layers import Axis
from hub_client.nn.neighbors import votes
from hub_client.nn.prototypes import PrototypeTable
from hub_client.transfer import DEFAULT, Evidence, probabilities, uncertainty

LABELS = ("B", "NK", "T")


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three labels in a latent of four axes that are not independent; the last label is rare."""
    generator = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [300, 200, 20])
    centres = generator.normal(0, 1, (3, 4))
    mix = generator.normal(0, 1, (4, 4))
    return (centres[codes] + generator.normal(0, 1, (len(codes), 4)) @ mix).astype(np.float32), codes


def placed(latent: np.ndarray, codes: np.ndarray) -> PrototypeTable:
    table = PrototypeTable(Axis("labels.x", 3), Axis("latent", latent.shape[1]), frozen=0)
    table.place(torch.from_numpy(latent), torch.from_numpy(codes))
    return table


def spoken(table: PrototypeTable, points: np.ndarray) -> Evidence:
    squared = table.deviations(torch.from_numpy(points)).numpy()
    return Evidence(LABELS, np.sqrt(squared), squared, table.shares.numpy())


def test_gaussians_are_linear_discriminant_analysis(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    rule = Calibration(level="x", transfer="gaussians", prior=1.0, temperature=1.0)
    found = probabilities(spoken(placed(latent, codes), latent), rule)
    expected = LinearDiscriminantAnalysis().fit(latent.astype(np.float64), codes).predict_proba(latent)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.995


def test_a_prior_of_zero_holds_rare_labels_as_likely_as_common_ones(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    evidence = spoken(placed(latent, codes), latent)
    named = [
        (
            probabilities(evidence, Calibration(level="x", transfer="gaussians", prior=p, temperature=1)).argmax(1) == 2
        ).sum()
        for p in (0.0, 1.0, 3.0)
    ]
    assert named[0] >= named[1] >= named[2]
    assert named[0] > named[2]


def test_deviations_are_squared_mahalanobis_distances(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    table = placed(latent, codes)
    counts = np.bincount(codes) - 1
    shared = sum(n * np.cov(latent[codes == k].T) for k, n in enumerate(counts)) / counts.sum()
    shared = shared + 1e-4 * np.diag(shared).mean() * np.eye(len(shared))
    normal = multivariate_normal(table.means[0].numpy(), shared)
    expected = -2 * (normal.logpdf(latent) - normal.logpdf(table.means[0].numpy()))
    np.testing.assert_allclose(table.deviations(torch.from_numpy(latent))[:, 0].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_label_without_cells_is_never_named(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    evidence = spoken(placed(latent[codes < 2], codes[codes < 2]), latent)
    rule = Calibration(level="x", transfer="gaussians", prior=1.0, temperature=1.0)
    assert np.isinf(evidence.distances[:, 2]).all()
    np.testing.assert_array_equal(probabilities(evidence, rule)[:, 2], 0)


def test_votes_follow_their_formula() -> None:
    generator = np.random.default_rng(1)
    reference, query = (generator.normal(size=(n, 3)).astype(np.float32) for n in (40, 7))
    codes = generator.integers(3, size=40)
    found = votes(reference, codes, query, neighbors=5, labels=3)
    for row, point in zip(found, query, strict=True):
        distance = np.linalg.norm(reference - point, axis=1)
        nearest = np.argsort(distance)[:5]
        weight = np.exp(-distance[nearest] / (2 / distance[nearest].std()) ** 2)
        expected = np.bincount(codes[nearest], weights=weight, minlength=3) / weight.sum()
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_equally_distant_neighbours_weigh_the_same() -> None:
    reference = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
    found = votes(reference, np.array([0, 0, 0, 1]), np.zeros((1, 2), np.float32), neighbors=4, labels=2)
    np.testing.assert_allclose(found, [[0.75, 0.25]])


def test_votes_far_away_do_not_vanish() -> None:
    reference = np.array([[0.0], [1.0], [5000.0]], dtype=np.float32)
    found = votes(reference, np.array([0, 0, 1]), np.array([[1e6]], np.float32), neighbors=9, labels=2)
    np.testing.assert_allclose(found, [[0.0, 1.0]], atol=1e-6)


def test_the_average_is_of_both_probabilities() -> None:
    evidence = Evidence(("B", "T"), distances=np.array([[0.0, 1.0]], np.float32), votes=np.array([[0.2, 0.8]]))
    rule = Calibration(level="x", transfer="average", temperature=1.0)
    near = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(probabilities(evidence, rule), [[(near + 0.2) / 2, (1 - near + 0.8) / 2]], rtol=1e-6)


def test_a_far_cell_is_less_sure_in_proportion() -> None:
    evidence = Evidence(("B", "T"), distances=np.array([[1.0, 50.0], [4.0, 53.0]], np.float32))
    rule = Calibration(level="x", temperature=1.0, distance_scale=2.0)
    np.testing.assert_allclose(uncertainty(evidence, rule), [0, 0.5], atol=1e-6)


def test_without_a_calibration_votes_count_where_there_are_no_prototypes() -> None:
    evidence = Evidence(("B", "T"), votes=np.array([[0.2, 0.8]]))
    np.testing.assert_array_equal(probabilities(evidence, None), evidence.votes)


@pytest.mark.parametrize("transfer", ["prototypes", "gaussians", "neighbors", "average"])
def test_evidence_that_is_missing_is_named(transfer: str) -> None:
    with pytest.raises(errors.Unsupported, match=r"prototypes|reference cells"):
        probabilities(Evidence(("B", "T")), DEFAULT.model_copy(update={"transfer": transfer}))

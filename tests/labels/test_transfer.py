"""Label transfer: votes, Gaussians and how they become probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hub_client.labels.mixtures import log_densities
from hub_client.labels.neighbors import votes
from hub_client.labels.rules import Evidence, probabilities, uncertainty
from hub_client.manifest.calibration import Calibration
from hub_client.nn.layers import Axis
from hub_client.nn.prototypes import PrototypeTable

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
    squared = table.mahalanobis_squared(torch.from_numpy(points)).numpy()
    return Evidence(LABELS, np.sqrt(squared), squared, table.label_frequencies.numpy())


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
    np.testing.assert_allclose(
        table.mahalanobis_squared(torch.from_numpy(latent))[:, 0].numpy(), expected, rtol=1e-3, atol=1e-4
    )


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


def test_densities_are_mixtures_over_conditions(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    groups = np.arange(len(codes)) % 3
    found = log_densities(latent, codes, groups, latent[:50], labels=3)
    parts = {(k, g): latent[(codes == k) & (groups == g)].astype(float) for k in range(3) for g in range(3)}
    scatter = [np.cov(cells.T, bias=True) for cells in parts.values()]
    shared = sum(scatter) / sum(1 - 1 / len(cells) for cells in parts.values())
    shared = shared + 1e-3 * np.diag(shared).mean() * np.eye(4)
    density = {key: multivariate_normal(cells.mean(0), shared).pdf(latent[:50]) for key, cells in parts.items()}
    expected = np.log(np.stack([sum(density[k, g] for g in range(3)) / 3 for k in range(3)], axis=1))
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6)


def test_a_query_is_labelled_in_the_convention_of_the_study_it_resembles() -> None:
    """Two studies draw the line between two labels at different places; the query lies among the second study."""
    generator = np.random.default_rng(0)
    places = {(0, 0): (0, 0), (1, 0): (3, 0), (0, 1): (3, 1.5), (1, 1): (6, 1.5)}  # label, study: where
    sizes = {(0, 0): 400, (1, 0): 400, (0, 1): 40, (1, 1): 40}
    cells = [generator.normal(place, 0.5, (sizes[key], 2)) for key, place in places.items()]
    codes, groups = (np.concatenate([[key[i]] * sizes[key] for key in places]) for i in (0, 1))
    query = generator.normal((3, 1.5), 0.5, (100, 2)).astype(np.float32)
    densities = log_densities(np.concatenate(cells).astype(np.float32), codes, groups, query, labels=2)
    assert (densities.argmax(axis=1) == 0).mean() > 0.8


def test_a_label_without_reference_cells_has_no_density(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    latent, codes = blobs
    densities = log_densities(latent, codes, np.zeros_like(codes), latent, labels=4)
    evidence = Evidence(
        (*LABELS, "new"), densities=densities, reference_frequencies=np.bincount(codes, minlength=4) / 520
    )
    rule = Calibration(level="x", transfer="mixtures", prior=1.0, temperature=2.0)
    likely = probabilities(evidence, rule)
    np.testing.assert_array_equal(likely[:, 3], 0)
    np.testing.assert_allclose(likely.sum(axis=1), 1)


def test_one_reference_cell_of_a_label_is_enough() -> None:
    latent = np.array([[0.0, 0], [0.1, 0.1], [5, 5]], dtype=np.float32)
    found = log_densities(latent, np.array([0, 0, 1]), np.array([0, 0, 0]), latent, labels=2)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 0, 1])


def test_the_consensus_is_of_mixtures_and_expression() -> None:
    densities, said = np.log([[0.6, 0.4]]), np.array([[0.1, 0.9]])
    shares = np.array([0.5, 0.5])
    evidence = Evidence(("B", "T"), densities=densities, reference_frequencies=shares, expression=said)
    rule = Calibration(level="x", transfer="consensus", prior=1.0, temperature=1.0)
    np.testing.assert_allclose(probabilities(evidence, rule), [[0.35, 0.65]], rtol=1e-6)


@pytest.mark.parametrize("transfer", ["neighbors", "mixtures", "expression", "consensus"])
def test_labels_that_came_with_a_query_get_what_gaussians_give_them(transfer: str) -> None:
    known = np.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    evidence = Evidence(
        ("B", "T", "new"),
        distances=np.array([[1.0, 2, 9], [9, 9, 0]], np.float32),
        mahalanobis_squared=np.array([[1.0, 4, 81], [81, 81, 0]], np.float32),
        label_frequencies=np.array([0.4, 0.4, 0.2], np.float32),
        votes=known,
        densities=np.log(np.maximum(known, 1e-300)),
        reference_frequencies=np.array([0.5, 0.5, 0]),
        expression=known,
    )
    likely = probabilities(evidence, Calibration(level="x", transfer=transfer, temperature=1.0))
    np.testing.assert_array_equal(likely.argmax(axis=1), [0, 2])
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    np.testing.assert_allclose(likely[0, :2], known[0, :2], rtol=1e-6)

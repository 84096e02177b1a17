"""What a latent is worth beside principal components."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from hub_client.build.integration import MOST_CELLS, Labelled, integration_scores, neighbour_labels, scib_scores
from tests.contract.examples import trained
from tests.simulated import cells_for


def points(*, mixed: bool, cells: int = 300, seed: int = 0) -> Labelled:
    """Return cells of three labels in two batches, labels apart; batches exchange labels where they are not mixed."""
    generator = np.random.default_rng(seed)
    labels, batches = generator.choice(["B", "NK", "T"], cells), generator.choice(["one", "two"], cells)
    codes = np.unique(labels, return_inverse=True)[1]
    codes = codes if mixed else (codes + (batches == "two")) % 3
    space = np.eye(3)[codes] * 5 + generator.normal(0, 0.3, (cells, 3))
    return Labelled(labels, batches, {"latent": space.astype(np.float32), "pca": space.astype(np.float32)})


def test_labels_of_neighbours_in_other_batches_tell_mixed_from_exchanged() -> None:
    mixed, exchanged = points(mixed=True), points(mixed=False)
    assert neighbour_labels(mixed, mixed.spaces["latent"]) == 1
    assert neighbour_labels(exchanged, exchanged.spaces["latent"]) < 0.05


def test_of_a_label_that_one_batch_has_nothing_is_asked() -> None:
    cells = points(mixed=True)
    own = replace(cells, labels=np.where(cells.batches == "one", "only here", cells.labels))
    assert neighbour_labels(own, own.spaces["latent"]) == 0


@pytest.mark.slow
def test_latent_and_components_are_scored_on_the_same_cells() -> None:
    model = trained("scpoli")
    cells = cells_for(model.manifest)
    told: list[str] = []
    found = integration_scores(model, [cells.rows(np.arange(200)), cells.rows(np.arange(200, 240))], tell=told.append)
    assert found is not None
    assert (found.level, found.batch, found.cells) == ("cell_type", "batch", 240)
    assert {"latent", "pca"} == set(found.spaces)
    assert all(0 <= figures["neighbour_labels"] <= 1 for figures in found.spaces.values())
    assert found.spaces["pca"]["neighbour_labels"] > 0.5
    if importlib.util.find_spec("scib_metrics") is None:
        assert "scib-metrics is not installed" in told[0]


@pytest.mark.slow
def test_without_labels_or_a_second_batch_nothing_is_compared() -> None:
    model = trained("scpoli")
    cells = cells_for(model.manifest)
    assert integration_scores(model, [cells.relabelled({})]) is None
    assert integration_scores(model, [cells.rows(cells.conditions["batch"] == "b0")]) is None
    assert integration_scores(model, [cells.rows(np.arange(20))]) is None


def test_the_sample_is_bounded() -> None:
    assert MOST_CELLS <= 3000


@pytest.mark.slow
def test_scib_metrics_prefers_mixed_batches() -> None:
    pytest.importorskip("scib_metrics")
    mixed, apart = (scib_scores(points(mixed=mixed))["latent"] for mixed in (True, False))
    assert mixed["batch_correction"] > apart["batch_correction"]
    assert mixed["bio_conservation"] > apart["bio_conservation"]

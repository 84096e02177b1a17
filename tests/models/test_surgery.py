from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.data.fingerprint import fingerprint
from hub_client.labels.predict import predict
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import DatasetRecord, Parent, Training
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import add_label, surgery
from hub_client.models.train import train
from hub_client.nn.prototypes import PrototypeTable
from hub_client.release.store import Ref
from tests.simulated import QUERY, REFERENCE, cells_for, manifest

SHORT = Plan(epochs=3, pretraining_epochs=1, batch_size=64, kl_anneal_epochs=0)
TYPES = ("T", "B", "Platelet")


def fit(model: Model, cells: Cells, plan: Plan = SHORT) -> Model:
    train(model, cells, plan=plan, progress=False, accelerator="cpu")
    return model


@cache
def reference(*conditions: str) -> Model:
    model = Model.build(manifest(conditions=conditions or ("batch",)))
    return fit(model, cells_for(model.manifest))


def query(model: Model, **options: object) -> Cells:
    return cells_for(model.manifest, QUERY, **{"cells": 120, "seed": 1, "labelled": False, **options})


def network_of(model: Model) -> ScPoli:
    assert isinstance(model.network, ScPoli)
    return model.network


def prototypes(model: Model) -> PrototypeTable:
    return network_of(model)._prototype_tables()[0]


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_new_conditions_are_appended_sorted_with_their_version() -> None:
    old = reference()
    cells = query(old)
    model = surgery(old, cells.rows(np.arange(len(cells))[::-1]))
    (condition,) = model.manifest.conditions
    assert condition.categories == (*REFERENCE, *QUERY)
    assert condition.added_in == dict.fromkeys(QUERY, "1.1.0")
    assert model.vocabulary.conditions["batch"].reference == 3
    assert model.manifest.version == "1.1.0"


def test_what_was_said_of_the_reference_is_not_said_of_the_query() -> None:
    model = surgery(reference(), query(reference()))
    assert model.manifest.training.epochs == 0
    assert (model.manifest.metrics, model.manifest.files, model.manifest.created) == ((), (), None)
    assert model.manifest.lineage is not None
    assert (model.manifest.lineage.relation, model.manifest.lineage.new_rows) == ("surgery", "best")


def test_lineage_names_the_pinned_parent() -> None:
    old = reference()
    ref = Ref(repo="zoo/simulated", commit="0" * 40, version="1.0.0", digest="a" * 64)
    pinned = Model(old.manifest, old.network, ref)
    found = surgery(pinned, query(pinned)).manifest.lineage
    assert found is not None
    assert found.parent == Parent(name="zoo/simulated", version="1.0.0", commit="0" * 40, digest="a" * 64)


def test_a_model_that_was_never_released_is_no_parent() -> None:
    found = surgery(reference(), query(reference())).manifest.lineage
    assert found is not None
    assert found.parent is None


def test_new_combinations_of_old_conditions_are_new() -> None:
    """Theta has a row for each combination; those of the reference that it never saw are the query's."""
    described = manifest(conditions=("batch", "tech"))
    cells = cells_for(described)
    seen = {("b0", "v2"), ("b1", "v2"), ("b2", "v3")}
    rows = [i for i, pair in enumerate(zip(*cells.conditions.values(), strict=True)) if pair in seen]
    named = [{"values": values} for values in sorted(seen)]
    old = fit(Model.build(described.changed(combinations=named)), cells.rows(np.array(rows)))
    known = cells.rows(np.flatnonzero((cells.conditions["batch"] == "b0") & (cells.conditions["tech"] == "v3")))
    model = surgery(old, known, start="best")
    assert model.vocabulary.combinations == (*sorted(seen), ("b0", "v3"))
    assert model.vocabulary.reference_combinations == 3
    before = embed(old, cells.rows(np.array(rows)), device="cpu")
    assert_array_equal(embed(fit(model, known), cells.rows(np.array(rows)), device="cpu"), before)


def test_a_condition_that_takes_no_new_categories() -> None:
    described = manifest()
    (condition,) = described.conditions
    closed = Model.build(described.changed(conditions=[condition.model_copy(update={"unknown": "error"})]))
    cells = replace(cells_for(described, cells=6), conditions={"batch": np.array([*QUERY * 3])})
    with pytest.raises(errors.VocabularyError, match=r"'batch' takes no new categories.*q0, q1.*b0, b1, b2") as caught:
        surgery(closed, cells)
    assert (caught.value.field, caught.value.unknown) == ("batch", QUERY)


# --- how rows start --------------------------------------------------------------------------------------------------


def test_rows_start_at_the_mean() -> None:
    for table in network_of(surgery(reference(), query(reference()), start="mean")).tables():
        expected = table.reference.mean(0).expand_as(table.query)
        assert torch.equal(table.query, expected)


def test_rows_start_from_the_best_condition() -> None:
    """Cells of a reference condition under a new name find that condition."""
    plan = Plan(epochs=30, learning_rate=5e-3, kl_anneal_epochs=0, early_stopping=None)
    old = Model.build(manifest())
    cells = cells_for(old.manifest)
    fit(old, cells, plan)
    hidden = cells.rows(np.flatnonzero(cells.conditions["batch"] == "b1"))
    renamed = replace(hidden, conditions={"batch": np.full(len(hidden), "new")})
    model = surgery(old, renamed, start="best")
    assert model.manifest.lineage is not None
    assert model.manifest.lineage.copied == {"batch=new": "b1"}
    assert_array_equal(embed(model, renamed, device="cpu"), embed(old, hidden, device="cpu"))


def test_random_rows_are_no_longer_than_allowed() -> None:
    embeddings = network_of(surgery(reference(), query(reference()), start="random")).embedding_rows()["batch"]
    assert (torch.linalg.vector_norm(embeddings, dim=1) <= 1.0).all()


def test_a_start_there_is_none_of() -> None:
    with pytest.raises(errors.InvalidInput, match="start is 'nearest'; it is one of random, mean, best") as caught:
        surgery(reference(), query(reference()), start="nearest")
    assert caught.value.facts == {"start": "nearest"}


# --- labels ----------------------------------------------------------------------------------------------------------


def test_new_labels_get_prototypes_and_old_ones_stay() -> None:
    old = reference()
    cells = query(old, labelled=True, types=TYPES)
    model = fit(surgery(old, cells), cells)
    assert model.vocabulary.labels["cell_type"].names == ("B", "Mono", "NK", "T", "Platelet")
    for part in ("means", "covariances", "cells"):
        assert torch.equal(getattr(prototypes(model), part)[:4], getattr(prototypes(old), part))
    latent = torch.from_numpy(embed(model, cells, device="cpu"))
    platelets = latent[torch.from_numpy(cells.labels["cell_type"] == "Platelet")]
    assert torch.linalg.vector_norm(prototypes(model).means[4] - platelets.mean(0)) < 0.2
    assert "Platelet" in predict(model, cells, device="cpu").levels["cell_type"].labels


def test_new_labels_count_also_when_training_ends_early() -> None:
    """Prototypes join in the last tenth of the epochs; a query whose training ends before has them all the same."""
    old = reference()
    cells = query(old, labelled=True, types=TYPES)
    model = fit(surgery(old, cells), cells, SHORT.model_copy(update={"pretraining_epochs": 50}))
    assert prototypes(model).cells[4] > 0
    assert torch.equal(prototypes(model).means[:4], prototypes(old).means)


def test_new_labels_without_new_conditions() -> None:
    """There is no row to train; the new label's prototype is placed."""
    old = reference()
    cells = cells_for(old.manifest, cells=120, types=TYPES)
    model = surgery(old, cells)
    history = train(model, cells, plan=SHORT, progress=False)
    assert (history.stopped, len(history.epochs), history.losses) == ("finished", 0, {})
    assert_array_equal(embed(model, cells, device="cpu"), embed(old, cells, device="cpu"))
    found = predict(model, cells, device="cpu").levels["cell_type"].labels == "Platelet"
    truly = cells.labels["cell_type"] == "Platelet"
    assert found[truly].mean() > found[~truly].mean()


def test_unlabelled_cells_add_no_label() -> None:
    old = reference()
    cells = query(old, labelled=True)
    half = np.where(np.arange(len(cells)) % 2, cells.labels["cell_type"], "")
    model = surgery(old, cells.relabelled({"cell_type": half}))
    assert model.vocabulary.labels == old.vocabulary.labels


# --- add_label -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered() -> tuple[Model, Cells]:
    model = Model.build(manifest())
    cells = cells_for(model.manifest)
    fit(model, cells)
    plan = Plan(unlabelled_clustering="kmeans", unlabelled_clusters=5)
    network_of(model).cluster_unlabelled(cells, plan)
    model.describe()
    return model, cells


def test_a_label_for_clusters(clustered: tuple[Model, Cells]) -> None:
    model, cells = clustered
    grown = add_label(model, "cell_type", label="novel", clusters=[1, 3], cells=cells)
    assert grown.vocabulary.labels["cell_type"].names[-1] == "novel"
    assert torch.allclose(prototypes(grown).means[-1], network_of(model).unlabelled[[1, 3]].mean(0))
    assert torch.equal(prototypes(grown).means[:-1], prototypes(model).means)
    assert "novel" not in model.vocabulary.labels["cell_type"]
    nearest = predict(grown, cells, device="cpu").levels["cell_type"].labels == "novel"
    assert prototypes(grown).cells[-1] == max(nearest.sum(), 1)


@pytest.mark.parametrize(
    ("level", "label", "clusters", "unknown"),
    [("tissue", "novel", [0], "novel"), ("cell_type", "NK", [0], "NK"), ("cell_type", "novel", [0, 9], "9")],
)
def test_labels_that_cannot_be_added(
    clustered: tuple[Model, Cells], level: str, label: str, clusters: list[int], unknown: str
) -> None:
    model, cells = clustered
    with pytest.raises(errors.VocabularyError) as caught:
        add_label(model, level, label=label, clusters=clusters, cells=cells)
    assert caught.value.unknown == (unknown,)


def test_the_query_is_recorded_by_its_fingerprint_and_so_is_what_no_release_states() -> None:
    blood = DatasetRecord(name="blood", cells=9, fingerprint="0" * 64)
    old = reference()
    made = replace(old, manifest=old.manifest.changed(training=Training(datasets=(blood,))))
    cells = query(made)
    grown = surgery(made, cells, start="mean")
    found = grown.manifest.training.datasets
    assert [(data.name, data.cells) for data in found] == [("blood", 9), ("query", 120)]
    assert found[1].fingerprint == fingerprint(cells.x, made.manifest.genes.names)
    again = surgery(grown, query(grown, seed=2), start="mean").manifest.training.datasets
    assert again[:2] == found and len(again) == 3


def test_a_released_references_data_are_left_to_its_release(tmp_path: Path) -> None:
    blood = DatasetRecord(name="blood", cells=9, fingerprint="0" * 64)
    old = reference()
    made = replace(old, manifest=old.manifest.changed(training=Training(datasets=(blood,))))
    released = Model.load(made.save(tmp_path / "released"))
    grown = surgery(released, query(released), start="mean")
    assert [data.name for data in grown.manifest.training.datasets] == ["query"]
    assert grown.manifest.lineage.parent.digest == released.manifest.digest
    train(grown, query(released), plan=SHORT, progress=False, accelerator="cpu")
    assert [data.name for data in grown.manifest.training.datasets] == ["query"]

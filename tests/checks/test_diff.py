"""diff(): what is told of two releases, and how far apart their latents are said to be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub_client.checks.diff import diff, drift
from hub_client.checks.verify import with_test_vectors
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests.contract.examples import SHORT, trained
from tests.simulated import QUERY, cells_for


@pytest.fixture(scope="module")
def reference() -> Model:
    model = trained("scpoli")
    return with_test_vectors(model, cells_for(model.manifest))


def mapped(reference: Model) -> Model:
    cells = cells_for(reference.manifest, QUERY, cells=90, seed=1, labelled=False)
    model = surgery(reference, cells)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    return model


def test_a_release_is_itself(reference: Model) -> None:
    found = diff(reference, reference)
    assert not found.names and not found.values and not found.metrics
    assert (found.drift.cells, found.drift.largest, found.needed) == (8, 0.0, "patch")


@pytest.mark.slow
def test_surgery_adds_conditions_and_moves_no_cell(reference: Model) -> None:
    found = diff(reference, mapped(reference))
    conditions, data = found.names
    assert (conditions.field, conditions.added, conditions.removed) == ("condition batch", QUERY, ())
    assert (data.field, data.removed) == ("data sets", ()) and data.added[0].startswith("query (sha256:")
    assert found.drift.largest == 0.0
    assert found.drift.spread > 0
    assert found.needed == "minor"
    assert {value.field: (value.before, value.after) for value in found.values}["version"] == ("1.0.0", "1.1.0")


def test_other_weights_are_told_by_how_far_cells_moved(reference: Model) -> None:
    other = Model.build(reference.manifest, seed=1)
    other.extras = reference.extras
    found = diff(reference, other)
    assert found.drift.largest >= found.drift.mean > 0.01
    assert found.needed == "major" and "tensor" in found.reason


def test_genes_in_another_order_are_matched_by_name(reference: Model) -> None:
    panel = reference.manifest.genes.panel[::-1]
    genes = reference.manifest.genes.model_copy(update={"panel": panel})
    tensors = reference.network.tensors()
    turned = Model.build(reference.manifest.changed(genes=genes))
    specs = {spec.name: spec.shape for spec in turned.network.specs()}
    turned.network.load({n: t.flip([i for i, a in enumerate(specs[n]) if a == "genes"]) for n, t in tensors.items()})
    found = drift(reference, turned)
    assert found.cells == 8
    assert found.largest < 1e-4 * found.spread
    assert diff(reference, replace(turned, extras=reference.extras)).names[0].reordered


def test_what_cannot_be_compared_says_why(reference: Model) -> None:
    vectorless = trained("scpoli")
    assert "no test vectors" in drift(vectorless, reference).reason
    smaller = reference.manifest.changed(architecture=reference.manifest.architecture.model_copy(update={"latent": 3}))
    assert "6 and 3 dimensions" in drift(reference, Model.build(smaller)).reason
    (condition,) = reference.manifest.conditions
    strangers = condition.model_copy(update={"categories": ("x", "y", "z")})
    assert "b0" in drift(reference, Model.build(reference.manifest.changed(conditions=(strangers,)))).reason
    assert drift(vectorless, reference).cells == 0

"""A release that was mapped without training: it is kept, checked, compared, cited and replayed as a trained one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch

import hub_client
from hub_client.checks.diff import diff
from hub_client.checks.verify import verify, with_test_vectors
from hub_client.cli.browse import facts
from hub_client.hub.claims import check_claims
from hub_client.hub.client import Hub
from hub_client.manifest.provenance import Training
from hub_client.manifest.receipts import read_receipt
from hub_client.mapping.map_query import Mapping
from hub_client.mapping.replay import replay
from hub_client.models.model import Model
from hub_client.release import card, citation
from tests import simulated
from tests.contract.examples import trained
from tests.simulated import QUERY, cells_for

REPO, GROWN = "lab/blood", "lab/blood-grown"
SETTINGS: dict[str, Any] = {"conditions": {"batch": "batch"}, "accelerator": "cpu", "progress": False}
KINDS = ("scpoli", "trvae", "expimap", "scvi", "scanvi", "totalvi")

pytestmark = pytest.mark.slow


def query_for(kind: str) -> anndata.AnnData:
    return simulated.counts(QUERY, cells=60, proteins=kind == "totalvi")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub(kind: str, tmp_path: Path) -> Hub:
    hub = Hub(tmp_path / "hub")
    model = trained(kind)
    hub.push(with_test_vectors(model, cells_for(model.manifest)), REPO)
    return hub


@pytest.fixture
def mapping(kind: str, hub: Hub) -> Mapping:
    found = hub_client.map_query(query_for(kind), hub.pull(REPO), train=False, **SETTINGS)
    assert found.history is None and found.decision is not None
    return found


def test_it_goes_the_way_of_all_releases(kind: str, hub: Hub, mapping: Mapping, tmp_path: Path) -> None:
    parent, query = hub.pull(REPO), query_for(kind)
    saved = Model.load(mapping.model.save(tmp_path / "saved"))
    whole, delta = hub.push(saved, GROWN), hub.push(mapping.model, REPO, delta=True)
    assert (whole.version, delta.version) == ("1.1.0", "1.1.0")
    for pulled in (hub.pull(GROWN), hub.pull(REPO)):
        cells = hub_client.align(query, pulled, conditions={"batch": "batch"})
        np.testing.assert_array_equal(hub_client.embed(pulled, cells, device="cpu"), mapping.adata.obsm["X_latent"])
        for name, tensor in mapping.model.tensors().items():
            assert torch.equal(pulled.tensors()[name], tensor), name
        verify(pulled)
    assert [claim.holds for claim in check_claims(REPO, hub=hub)] == [True] * 4
    compared = diff(parent, hub.pull(REPO), ancestors=hub.ancestors(REPO))
    assert (compared.needed, compared.drift.largest, compared.moved) == ("minor", 0.0, ())
    assert [step.version for step in hub.lineage(REPO)] == ["1.1.0", "1.0.0"]
    cited = citation.bibtex(hub.manifest(REPO), hub.resolve(REPO), ancestors=hub.ancestors(REPO))
    assert delta.digest in cited and parent.manifest.digest in cited


def test_it_claims_no_training(hub: Hub, mapping: Mapping) -> None:
    hub.push(mapping.model, GROWN)
    manifest, parent = hub.manifest(GROWN), hub.manifest(REPO)
    (data,) = manifest.training.datasets
    assert data.fingerprint == mapping.receipt.query.fingerprint
    assert manifest.training == Training(datasets=(data,)) and parent.training.epochs == 3
    assert manifest.as_started and not parent.as_started
    text = card.render(manifest)
    assert "Trained for" not in text and "epochs" not in text
    assert "Nothing was trained on these data" in text and "nothing trained, the reference untouched" in text
    assert "Trained for 3 epochs" in card.render(parent)
    shown = facts(manifest)
    assert shown["training"] == ""
    assert shown["trained on"].startswith("query (60 cells, mapped without training); all that")


def test_it_is_replayed_without_training(kind: str, hub: Hub, mapping: Mapping) -> None:
    receipt = read_receipt(mapping.receipt.to_bytes(), source="r")
    assert receipt.asked.plan is None
    found = replay(receipt, query_for(kind), hub=hub, progress=False)
    assert found.same and found.differences == () and found.largest == 0


def test_what_is_mapped_onto_it_may_be_trained(kind: str, hub: Hub, mapping: Mapping) -> None:
    """A second query, onto the release of the first, which knows the first one's conditions."""
    hub.push(mapping.model, REPO, delta=True)
    more = simulated.counts(simulated.SECOND_QUERY, cells=60, proteins=kind == "totalvi")
    second = hub_client.map_query(more, hub.pull(REPO), train=True, **SETTINGS)
    assert second.history is not None and second.model.manifest.training.epochs == len(second.history.epochs)
    assert not second.model.manifest.as_started
    again = hub_client.map_query(query_for(kind), hub.pull(REPO), **SETTINGS)
    assert again.decision is None
    np.testing.assert_array_equal(again.adata.obsm["X_latent"], mapping.adata.obsm["X_latent"])

"""Receipts and replays: what a mapping's receipt holds, and what another run of it is said to differ in."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

import hub_client
from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.manifest.receipts import Receipt, differences, read_receipt
from hub_client.mapping.map_query import Mapping
from hub_client.mapping.replay import replay
from tests.contract.examples import SHORT, trained
from tests.simulated import QUERY, counts


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    hub = Hub(tmp_path_factory.mktemp("replay") / "hub")
    hub.push(trained("scpoli"), "lab/blood")
    return hub


@pytest.fixture(scope="module")
def query() -> anndata.AnnData:
    return counts(QUERY, cells=90, seed=1)


@pytest.fixture(scope="module")
def mapping(hub: Hub, query: anndata.AnnData) -> Mapping:
    settings = {"conditions": {"batch": "batch"}, "plan": SHORT, "accelerator": "cpu", "progress": False}
    return hub_client.map_query(query, hub.pull("lab/blood"), **settings)


def test_a_receipt_says_what_went_in_and_gives_nothing_away(mapping: Mapping, hub: Hub) -> None:
    receipt, ref = mapping.receipt, hub.resolve("lab/blood")
    assert (receipt.query.cells, receipt.reference.digest, receipt.reference.commit) == (90, ref.digest, ref.commit)
    assert receipt.asked.plan == SHORT and receipt.asked.seed == 0
    assert sum(receipt.result.labels["cell_type"].cells.values()) == 90
    assert len(receipt.result.sample) == 16
    text = receipt.to_bytes().decode()
    assert "q0-" not in text and "q1" not in text  # neither cells nor batches by name
    assert mapping.adata.uns["archzoo"]["receipt"] == text


def test_it_is_read_as_it_was_written_and_not_if_it_was_changed(mapping: Mapping) -> None:
    data = mapping.receipt.to_bytes()
    assert read_receipt(data, source="r") == mapping.receipt
    fields = json.loads(data)
    fields["result"]["latent"] = "0" * 64
    with pytest.raises(errors.ManifestError, match="the receipt was changed"):
        read_receipt(json.dumps(fields).encode(), source="r")
    for broken in (b"{", b"[]", b'{"format": 1}'):
        with pytest.raises(errors.ManifestError):
            read_receipt(broken, source="r")


def test_a_receipt_of_format_1_has_the_fields_it_always_had(mapping: Mapping) -> None:
    asked = "conditions labels layer min_coverage size_factor proteins start plan seed unknown_above accelerator "
    fields = json.loads(mapping.receipt.to_bytes())
    assert set(fields["asked"]) == set(f"{asked} devices precision".split())
    assert fields["asked"]["conditions"] == {"batch": "batch"} and fields["asked"]["labels"] is None
    assert set(fields["reference"]) == {"name", "version", "commit", "digest"}
    place = mapping.adata.uns["archzoo"]["reference"]
    assert {key: place[key] for key in fields["reference"]} == fields["reference"]


def test_two_mappings_of_the_same_differ_in_nothing(mapping: Mapping) -> None:
    later = mapping.receipt.model_copy(update={"created": "2030-01-01T00:00:00Z"})
    assert differences(mapping.receipt, later) == ()


@pytest.mark.slow
def test_a_replay_gives_the_same(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    found = replay(mapping.receipt, query, hub=hub, progress=False)
    assert found.same and found.same_labels and found.differences == () and found.largest == 0


@pytest.mark.slow
def test_another_seed_is_named_with_what_it_changes(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    found = replay(mapping.receipt, query, hub=hub, seed=5, progress=False)
    told = {difference.what for difference in found.differences}
    assert {"asked.seed", "result.latent"} <= told
    assert not found.same and 0 < found.largest < np.inf
    assert str(found.differences[0]) == "asked.seed: 0 → 5"


@pytest.mark.slow
def test_another_number_of_threads_is_named(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    import torch

    before = torch.get_num_threads()
    found = replay(mapping.receipt, query, hub=hub, threads=before + 1, progress=False)
    assert "ran.threads" in {difference.what for difference in found.differences}
    assert torch.get_num_threads() == before
    with pytest.raises(errors.InvalidInput, match="threads"):
        replay(mapping.receipt, query, hub=hub, threads=0)


def test_a_plan_of_old_with_options_of_other_kinds_is_replayed(
    mapping: Mapping, query: anndata.AnnData, hub: Hub
) -> None:
    """They were recorded once although nothing read them."""
    asked = mapping.receipt.asked.model_copy(update={"plan": SHORT.changed(group_lasso=9.0)})
    found = replay(mapping.receipt.model_copy(update={"asked": asked}), query, hub=hub, progress=False)
    assert found.same
    assert [(d.what, d.before, d.after) for d in found.differences] == [("asked.plan.group_lasso", 9.0, 0.0)]


def test_other_cells_are_told_without_a_run(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    other = query.copy()
    other.X.data[5] += 1
    found = replay(mapping.receipt, other, hub=hub)
    assert found.receipt is None and not found.same
    assert [difference.what for difference in found.differences] == ["query.fingerprint"]
    renamed = query.copy()
    renamed.obs["batch"] = "one"
    assert [d.what for d in replay(mapping.receipt, renamed, hub=hub).differences] == ["query.conditions.batch"]
    assert {d.what for d in replay(mapping.receipt, query[:50], hub=hub).differences} >= {"query.cells", "query.names"}


def test_another_reference_is_refused(mapping: Mapping, query: anndata.AnnData, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="Pull it by that digest"):
        replay(mapping.receipt, query, model=trained("trvae"))
    with pytest.raises(errors.NotFound):
        replay(mapping.receipt, query, hub=str(tmp_path / "empty"))


def test_a_receipt_is_a_record_of_one_format() -> None:
    assert Receipt.model_json_schema()["additionalProperties"] is False

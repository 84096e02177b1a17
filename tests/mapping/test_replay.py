"""Receipts and replays: what a mapping's receipt holds, and what another run of it is said to differ in."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import anndata
import numpy as np
import pytest

import hub_client
from hub_client import errors
from hub_client.checks.outputs import FOLLOWS, Outputs, outputs
from hub_client.hub.client import Hub
from hub_client.labels.predict import LabelPrediction
from hub_client.manifest.calibration import Calibration, Trust
from hub_client.manifest.receipts import Receipt, differences, read_receipt
from hub_client.manifest.results import UNRECORDED
from hub_client.mapping.map_query import Mapping
from hub_client.mapping.receipt import query_record, receipt
from hub_client.mapping.replay import Replay, replay
from hub_client.models.model import Model
from tests import simulated
from tests.contract.examples import SHORT, trained
from tests.simulated import QUERY, cells_for, counts

ROOT = Path(__file__).parents[2]


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
    made, ref = mapping.receipt, hub.resolve("lab/blood")
    assert (made.query.cells, made.reference.digest, made.reference.commit) == (90, ref.digest, ref.commit)
    assert made.asked.plan == SHORT and made.asked.seed == 0
    assert sum(made.result.labels["cell_type"].cells.values()) == 90
    assert len(made.result.sample) == 16
    text = made.to_bytes().decode()
    assert "q0-" not in text and "q1" not in text  # neither cells nor batches by name
    assert mapping.adata.uns["archzoo"]["receipt"] == text


def test_the_grown_model_records_the_query_as_the_receipt_does(mapping: Mapping) -> None:
    (data,) = mapping.model.manifest.training.datasets
    assert (data.cells, data.fingerprint) == (90, mapping.receipt.query.fingerprint)


def test_it_is_read_as_it_was_written_and_not_if_it_was_changed(mapping: Mapping) -> None:
    data = mapping.receipt.to_bytes()
    assert read_receipt(data, source="r") == mapping.receipt
    moved = json.loads(data)
    moved["result"]["latent"] = "0" * 64
    with pytest.raises(errors.ManifestError, match="the receipt was changed"):
        read_receipt(json.dumps(moved).encode(), source="r")
    for broken in (b"{", b"[]", b'{"format": 1}'):
        with pytest.raises(errors.ManifestError):
            read_receipt(broken, source="r")


def test_a_receipt_has_the_fields_it_always_had(mapping: Mapping) -> None:
    asked = "conditions labels layer min_coverage size_factor proteins start plan seed unknown_above accelerator "
    read = json.loads(mapping.receipt.to_bytes())
    assert set(read["asked"]) == set(f"{asked} devices precision".split())
    assert read["asked"]["conditions"] == {"batch": "batch"} and read["asked"]["labels"] is None
    assert set(read["reference"]) == {"name", "version", "commit", "digest"}
    place = mapping.adata.uns["archzoo"]["reference"]
    assert {key: place[key] for key in read["reference"]} == read["reference"]


def test_two_mappings_of_the_same_differ_in_nothing(mapping: Mapping) -> None:
    later = mapping.receipt.model_copy(update={"created": "2030-01-01T00:00:00Z"})
    assert differences(mapping.receipt, later) == ()


@pytest.mark.slow
def test_a_replay_gives_the_same(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    found = replay(mapping.receipt, query, hub=hub, progress=False)
    assert found.same and found.same_labels and found.differences == () and found.largest == 0


@pytest.mark.slow
def test_a_receipt_states_whether_doubtful_cells_were_named_and_is_replayed_so(
    query: anndata.AnnData, tmp_path: Path
) -> None:
    """Receipts from when every cell was named by default state null, and name every cell again."""
    hub, doubting = Hub(tmp_path / "hub"), trained("scpoli")
    stated = Trust(calibrations=(Calibration(level="cell_type", temperature=1.0, unknown_above=0.1),))
    hub.push(replace(doubting, manifest=doubting.manifest.changed(trust=stated)), "lab/doubting")
    settings = {"conditions": {"batch": "batch"}, "train": False, "accelerator": "cpu", "progress": False}
    for asked, unknown in (("shipped", True), (None, False)):
        made = hub_client.map_query(query, hub.pull("lab/doubting"), unknown_above=asked, **settings).receipt
        assert json.loads(made.to_bytes())["asked"]["unknown_above"] == asked
        assert ("unknown" in made.result.labels["cell_type"].cells) == unknown
        again = replay(read_receipt(made.to_bytes(), source="r"), query, hub=hub, progress=False)
        assert again.same and again.same_labels


@pytest.mark.slow
def test_a_mapping_with_the_latents_uncertainty_is_replayed(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    settings = {"conditions": {"batch": "batch"}, "plan": SHORT, "accelerator": "cpu", "progress": False}
    made = hub_client.map_query(query, hub.pull("lab/blood"), latent_uncertainty=True, **settings).receipt
    assert json.loads(made.to_bytes())["asked"]["latent_uncertainty"] is True
    assert read_receipt(made.to_bytes(), source="r") == made
    assert replay(made, query, hub=hub, progress=False).same
    assert {"latent_variance", "latent_gene_loss"} == set(made.result.parts) - set(mapping.receipt.result.parts)
    told = {difference.what for difference in differences(mapping.receipt, made)}
    assert {"asked.latent_uncertainty", "result.parts.latent_variance.sha256"} <= told
    assert "result.latent" not in told


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


# what a receipt records of the results


def changed(found: Outputs, part: str) -> Outputs:
    """Return the same results with one part of them permuted or moved, and all else the same."""
    (level,) = found.predictions.levels
    old = found.predictions.levels[level]
    if part == "scores" or part == "proteins":
        return replace(found, **{part: getattr(found, part) * 2})
    values = getattr(old, part)
    turned = values[::-1] if isinstance(values, np.ndarray) else values.iloc[::-1]
    new = replace(old, **{part: turned})
    return replace(found, predictions=replace(found.predictions, levels={level: new}))


@pytest.mark.parametrize("part", [field.name for field in fields(LabelPrediction) if field.name not in FOLLOWS])
def test_every_part_of_a_prediction_is_in_a_receipt(part: str, query: anndata.AnnData, mapping: Mapping) -> None:
    cells = hub_client.align(query, mapping.model)
    found = outputs(mapping.model, cells, device="cpu")
    settings = mapping.receipt.asked
    before = receipt(cells, mapping.model, found, settings=settings, device="cpu")
    after = receipt(cells, mapping.model, changed(found, part), settings=settings, device="cpu")
    assert any(part in d.what for d in differences(before, after)), part
    assert before.result_digest != after.result_digest
    assert not Replay(after, differences(before, after)).same


@pytest.mark.parametrize(("kind", "part"), [("expimap", "scores"), ("totalvi", "proteins")])
def test_scores_and_imputed_proteins_are_in_a_receipt(kind: str, part: str, mapping: Mapping) -> None:
    model = Model.build(simulated.manifest(kind))
    cells = cells_for(model.manifest, cells=40, labelled=False)
    found, settings = outputs(model, cells, device="cpu"), mapping.receipt.asked
    assert found.by_name()  # what there is, by name
    before = receipt(cells, model, found, settings=settings, device="cpu")
    changed_part = replace(found, **{part: getattr(found, part) + 1})
    after = receipt(cells, model, changed_part, settings=settings, device="cpu")
    name = {"scores": "scores", "proteins": "imputed_proteins"}[part]
    assert [d.what for d in differences(before, after)] == [f"result.parts.{name}.sha256"]


def test_all_of_aligned_cells_is_in_a_receipt_but_how_they_were_found(mapping: Mapping, query: anndata.AnnData) -> None:
    cells = hub_client.align(query, mapping.model)
    extra = replace(cells, continuous=np.ones((90, 1), np.float32), proteins=np.ones((90, 2), np.float32))
    before = query_record(extra, mapping.model)
    for field in {field.name for field in fields(cells)} - UNRECORDED - {"size_factor", "proteins"}:
        value = getattr(extra, field)
        if isinstance(value, dict):
            if not value:
                continue
            value = {key: np.roll(names, 1) for key, names in value.items()}
        else:
            value = value * 2 if field in ("x", "continuous") else value[::-1]
        assert query_record(replace(extra, **{field: value}), mapping.model) != before, field
    observed = Model.build(simulated.manifest(size_factor="depth"))
    record = query_record(cells, observed)
    assert query_record(replace(cells, size_factor=cells.size_factor * 2), observed) != record
    fewer = replace(cells.report, missing=("g3",))
    assert query_record(replace(extra, report=fewer), mapping.model) != before


def as_format_1(made: Receipt) -> bytes:
    """Return what the first format recorded of a mapping."""
    result = made.result.model_copy(update={"parts": {}})
    old = made.as_format(1) | {"format": 1, "result_digest": result.digest}
    return (json.dumps(old, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def test_a_receipt_of_format_1_is_read_written_and_replayed(mapping: Mapping, query: anndata.AnnData, hub: Hub) -> None:
    data = as_format_1(mapping.receipt)
    old = read_receipt(data, source="old")
    assert old.format == 1 and old.to_bytes() == data
    assert differences(old, mapping.receipt) == ()
    found = replay(old, query, hub=hub, progress=False)
    assert found.same and found.receipt is not None and found.receipt.format == 2 and found.uncertainty is None
    with pytest.raises(errors.ManifestError, match=r"format 1 has no query\.missing"):
        read_receipt(json.dumps(mapping.receipt.as_format(2) | {"format": 1}).encode(), source="r")


def test_a_receipt_that_was_written_with_format_1_is_read_and_written_back() -> None:
    data = (ROOT / "tests" / "golden" / "records" / "receipt-1.json").read_bytes()
    assert read_receipt(data, source="old").to_bytes() == data

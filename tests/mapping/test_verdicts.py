"""The verdict that every mapping comes with: where it is kept, and that a stranger's is red."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import pytest

import hub_client
from hub_client import errors
from hub_client.labels.atlas import with_atlas
from hub_client.labels.verdict import MEASURES
from hub_client.manifest.receipts import differences, read_receipt
from hub_client.mapping.map_query import Mapping
from hub_client.models.model import Model
from tests.contract.examples import SHORT, trained
from tests.simulated import QUERY, REFERENCE, cells_for, counts


@pytest.fixture(scope="module")
def reference() -> Model:
    return with_atlas(trained("scpoli"), cells_for(trained("scpoli").manifest))


@pytest.fixture(scope="module")
def mapping(reference: Model) -> Mapping:
    settings = {"conditions": {"batch": "batch"}, "plan": SHORT, "accelerator": "cpu", "progress": False}
    return hub_client.map_query(counts(QUERY, cells=90, seed=1), reference, **settings)


def test_it_is_in_the_mapping_in_uns_and_in_the_receipt(mapping: Mapping, tmp_path: Path) -> None:
    found, record = mapping.verdict, mapping.receipt.verdict
    assert found is not None and record is not None
    assert [check.name for check in found.checks] == list(record.checks) == [measure.name for measure in MEASURES]
    assert record.colour == found.colour
    assert {name: check.value for name, check in record.checks.items()} == {c.name: c.value for c in found.checks}
    mapping.adata.write_h5ad(tmp_path / "mapped.h5ad")
    kept = anndata.read_h5ad(tmp_path / "mapped.h5ad").uns["archzoo"]["verdict"]
    assert json.loads(kept) == json.loads(json.dumps(found.as_json()))


def test_what_training_changed_is_measured_where_it_took_place(mapping: Mapping, reference: Model) -> None:
    assert mapping.verdict is not None
    trained_on = {check.name: check.value for check in mapping.verdict.checks}
    assert trained_on["moved by training"] is not None and trained_on["labels by training"] is not None
    known = hub_client.map_query(counts(REFERENCE, cells=90, seed=1), reference, progress=False).verdict
    assert known is not None
    assert {check.name: check.colour for check in known.checks}["moved by training"] == "not checked"


def test_a_query_that_lies_elsewhere_is_red(reference: Model) -> None:
    assert reference.atlas is not None
    elsewhere = reference.atlas.copy()
    elsewhere.obsm["X_latent"] += 100
    for model, colour in ((reference, "green"), (replace(reference, atlas=elsewhere), "red")):
        found = hub_client.map_query(counts(REFERENCE, cells=90, seed=1), model, train=False, progress=False).verdict
        assert found is not None
        assert {check.name: check.colour for check in found.checks}["beyond the atlas"] == colour
        assert colour != "red" or found.colour == "red"


def test_it_is_no_part_of_the_result_and_receipts_from_before_are_as_they_were(mapping: Mapping) -> None:
    made = mapping.receipt
    assert read_receipt(made.to_bytes(), source="r") == made
    before = made.model_copy(update={"verdict": None})
    assert "verdict" not in json.loads(before.to_bytes())
    assert before.result_digest == made.result_digest and differences(before, made) == ()
    assert made.verdict is not None
    worse = made.model_copy(update={"verdict": made.verdict.model_copy(update={"checks": {}})})
    assert {difference.what.split(".")[0] for difference in differences(made, worse)} == {"verdict"}
    result = made.result.model_copy(update={"parts": {}})
    assert "verdict" not in made.as_format(1)
    old = made.as_format(1) | {"format": 1, "result_digest": result.digest, "verdict": made.as_format(2)["verdict"]}
    with pytest.raises(errors.ManifestError, match="format 1 has no verdict"):
        read_receipt(json.dumps(old).encode(), source="r")

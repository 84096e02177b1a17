"""What surgery appends to a manifest, what a release's name changes in it, and where the old entries of tensors are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from hub_client import errors
from hub_client.manifest.provenance import Lineage
from hub_client.manifest.v1 import Condition, Covariates, Manifest, TensorSpec
from tests.simulated import manifest

BOTH = ("batch", "tech")
SURGERY = Lineage(relation="surgery", new_rows="mean")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def grown(before: Manifest, values: dict[str, list[str]], **more: Any) -> Manifest:
    return before.grown(values, labels=more.get("labels", {}), measured=more.get("measured", {}), lineage=SURGERY)


def test_names_are_appended_in_alphabetical_order_under_the_next_minor_version() -> None:
    before = manifest()
    after = grown(before, {"batch": ["q1", "b0", "q0", "q1"]}, labels={"cell_type": ["Platelet", "", "B"]})
    assert after.version == "1.1.0"
    assert after.conditions[0].categories == (*before.conditions[0].categories, "q0", "q1")
    assert after.conditions[0].added_in == {"q0": "1.1.0", "q1": "1.1.0"}
    assert after.labels[0].categories == (*before.labels[0].categories, "Platelet")
    assert after.labels[0].ontology["Platelet"] is None
    assert after.lineage == SURGERY


def test_all_old_names_begin_the_new_ones_and_nothing_else_changes() -> None:
    before = manifest(conditions=BOTH)
    after = grown(before, {"batch": ["q0", "b0"], "tech": ["v2", "v4"]})
    assert after.fixed() == before.fixed()
    for name, names in before.named_axes().items():
        assert after.named_axes()[name][: len(names)] == names


def test_combinations_are_all_until_a_query_brings_some() -> None:
    before = manifest(conditions=BOTH)
    after = grown(before, {"batch": ["q0", "b0", "q0"], "tech": ["v2", "v3", "v2"]})
    assert after.known_combinations == (*before.known_combinations, ("q0", "v2"))
    assert [c.added_in for c in after.combinations] == [None] * len(before.known_combinations) + ["1.1.0"]


def test_a_condition_that_takes_no_new_categories_refuses_them() -> None:
    before = manifest()
    closed = before.changed(conditions=(before.conditions[0].model_copy(update={"unknown": "error"}),))
    with pytest.raises(errors.VocabularyError, match="takes no new categories, and the query has q0"):
        grown(closed, {"batch": ["q0"]})
    assert grown(closed, {"batch": ["b0"]}).conditions == closed.conditions


def test_proteins_that_a_known_batch_measured_stay_as_they_are() -> None:
    before = manifest("totalvi")
    before = before.changed(
        proteins=before.proteins.model_copy(update={"measured": {"b2": tuple(before.proteins.panel[:2])}})
    )
    after = grown(before, {"batch": ["q0", "b2"]}, measured={"q0": (), "b2": ()})
    assert after.proteins.measured == {"b2": tuple(before.proteins.panel[:2]), "q0": ()}


def test_another_version_takes_along_what_the_own_one_added() -> None:
    covariates = Covariates(
        categorical=(Condition(key="site", role="covariate", categories=("s0",), encoding={"kind": "one-hot"}),)
    )
    first = manifest(conditions=BOTH).changed(covariates=covariates)
    second = grown(first, {"batch": ["q0"], "tech": ["v2"], "site": ["s1"]}, labels={"cell_type": ["Platelet"]})
    third = grown(second, {"batch": ["r0"], "tech": ["v2"], "site": ["s1"]})
    assert third.version == "1.2.0"
    released = third.renamed(name="blood", version="1.7.0", created=NOW)
    assert (released.name, released.version, released.created) == ("blood", "1.7.0", NOW)
    assert released.conditions[0].added_in == {"q0": "1.1.0", "r0": "1.7.0"}
    assert [c.added_in for c in released.combinations[-2:]] == ["1.1.0", "1.7.0"]
    assert released.covariates.categorical[0].added_in == {"s1": "1.1.0"}
    assert released.labels[0].added_in == {"Platelet": "1.1.0"}


def test_a_manifest_that_has_its_name_is_left_as_it_is() -> None:
    named = manifest().renamed(name="blood", version="1.0.0", created=NOW)
    assert named.renamed(name="blood", version="1.0.0", created=datetime(2030, 1, 1, tzinfo=UTC)) is named


def test_each_part_of_an_axis_grew_at_its_own_end() -> None:
    before = manifest(conditions=BOTH)
    after = grown(before, {"batch": ["q0"], "tech": ["v4"]})
    spec = TensorSpec(name="x", dtype="F32", shape=("latent", "conditions.batch+1+conditions.tech"))
    assert before.shape(spec) == (6, 6)
    assert after.shape(spec) == (6, 8)
    assert after.places(spec, before=before) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5, 6])

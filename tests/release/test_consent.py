"""What a manifest states of its donors: where new ones come from, and whether they may be published."""

from __future__ import annotations

from typing import Any

from hub_client.manifest.v1 import Manifest
from hub_client.release import consent
from tests import examples


def manifest(*categories: str, **extensions: Any) -> Manifest:
    condition = examples.fields()["conditions"][0] | {"categories": categories}
    return examples.manifest(conditions=[condition], extensions=extensions)


def test_the_column_of_new_donors_is_noted() -> None:
    before, grown = manifest("a"), manifest("a", "1488", "107")
    noted = consent.with_columns(grown, {"batch": "donor_id"}, before=before)
    assert noted.extensions == {consent.COLUMNS: {"batch": "donor_id"}}
    assert consent.donor_like(noted) == {"batch": "its obs column, 'donor_id'"}
    assert consent.with_columns(grown, {"batch": "library"}, before=before) is grown
    assert consent.with_columns(before, {"batch": "donor_id"}, before=before) is before


def test_what_may_be_published_is_stated_once() -> None:
    told = consent.given(manifest("donor1"))
    assert told.extensions == {consent.PUBLISHED: ["batch"]}
    assert consent.given(told) is told
    plain = manifest("a")
    assert consent.given(plain) is plain


def test_donors_that_surgery_adds_have_to_be_allowed_anew() -> None:
    before = consent.given(manifest("donor1"))
    grown = before.changed(conditions=manifest("donor1", "donor2").conditions)
    assert consent.published(consent.with_columns(grown, {"batch": "library"}, before=before)) == frozenset()
    harmless = before.changed(conditions=manifest("donor1", "stim").conditions)
    assert consent.published(consent.with_columns(harmless, {"batch": "library"}, before=before)) == {"batch"}
    numbers = before.changed(conditions=manifest("donor1", "1488").conditions)
    assert consent.published(consent.with_columns(numbers, {"batch": "donor"}, before=before)) == frozenset()


def test_statements_of_another_shape_state_nothing() -> None:
    for stated in ("batch", {"batch": True}, None, 1):
        assert consent.published(manifest("donor1", **{consent.PUBLISHED: stated})) == frozenset()
    assert consent.donor_like(manifest("1", **{consent.COLUMNS: ["donor"]})) == {}

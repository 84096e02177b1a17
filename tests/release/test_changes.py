"""Two documents are compared field by field, tables by their names, lists by what came and went."""

from __future__ import annotations

from typing import Any

import pytest

from hub_client.release.changes import Change, Names, changes


def shown(before: Any, after: Any) -> dict[str, tuple[str | None, str | None]]:
    return {one.field: (one.before, one.after) for one in (change.shown() for change in changes(before, after))}


def test_fields_are_compared_by_name() -> None:
    old = {"files": [{"file": "x", "size": 1}, {"file": "y", "size": 2}], "tags": ["p", "q"], "gone": {"k": 0}}
    new = {"files": [{"file": "y", "size": 3}, {"file": "z", "size": 4}], "tags": ["q", "r"]}
    assert shown(old, new) == {
        "files[x].file": ("x", None), "files[x].size": ("1", None), "files[y].size": ("2", "3"),
        "files[z].file": (None, "z"), "files[z].size": (None, "4"),
        "tags": ("2 entries, gone: p", "2 entries, new: r"), "gone.k": ("0", None),
    }  # fmt: skip


@pytest.mark.parametrize("empty", ["", [], {}, None])
def test_an_empty_field_is_as_an_absent_one(empty: object) -> None:
    assert list(changes({"summary": empty}, {})) == list(changes({}, {"summary": empty})) == []


def test_a_list_in_another_order_is_shown_as_that() -> None:
    (change,) = changes(["a", "b", "c"], ["c", "a", "b"])
    assert change.names() == Names("(all)", added=(), removed=(), reordered=True)
    assert change.shown().after == "3 entries, in another order or number"


def test_long_lists_of_tables_are_counted() -> None:
    before = [{"name": f"tensor {number}"} for number in range(100)]
    after = [*before, {"name": "another"}]
    assert shown({"tensors": before}, {"tensors": after}) == {
        "tensors": ("100 entries", '101 entries, new: {"name": "another"}')
    }
    assert shown({}, {"tensors": after}) == {"tensors": (None, "101 entries")}


def test_long_texts_are_cut() -> None:
    assert shown({}, {"summary": "x" * 500})["summary"][1] == "x" * 119 + "…"
    assert list(changes({"a": 1}, {"a": 2})) == [Change("a", 1, 2)]

"""What differs between two documents, field by field: manifests of two versions, or of a release and its next one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hub_client import errors

_LONGEST = 120
_MOST_TABLES = 128
"""Longer lists of tables are compared as wholes."""
_NAMES = ("key", "name", "id", "file", "path", "level")
"""Fields by which the tables of a list are told apart."""
_EMPTY: tuple[Any, ...] = ("", [], {}, (), None)


@dataclass(frozen=True)
class Names:
    """A list that changed: the entries that came and went, and whether the others stand in another order."""

    field: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    reordered: bool


@dataclass(frozen=True)
class Change:
    """A field that differs, by its path; a value is None where the field is absent."""

    field: str
    before: Any
    after: Any

    def shown(self) -> Change:
        """Return the change in short texts; of a list, how long it is and what came or went."""
        before, after = self.before, self.after
        if not isinstance(before, list) or not isinstance(after, list):
            return Change(self.field, _short(before), _short(after))
        names = self.names()
        if not names.added and not names.removed:
            return Change(self.field, _count(before), f"{_count(after)}, in another order or number")
        return Change(self.field, _listed(before, names.removed, "gone"), _listed(after, names.added, "new"))

    def names(self) -> Names:
        """Return the change of a list, entry by entry."""
        before, after = ([_text(entry) for entry in entries or ()] for entries in (self.before, self.after))
        kept = set(before) & set(after)
        added, removed = (tuple(name for name in names if name not in kept) for names in (after, before))
        left, right = ([name for name in names if name in kept] for names in (before, after))
        return Names(self.field, added, removed, left != right)


def changes(before: Any, after: Any, *, field: str = "") -> Iterator[Change]:
    """Return the fields in which two JSON documents differ, in the order of the second.

    Tables are compared field by field, and so are short lists of tables, by the name of each; an empty field is as an
    absent one.
    """
    if before == after or (before in _EMPTY and after in _EMPTY):
        return
    if tables := _tables(before, after):
        left, right, named = tables
        for key in dict.fromkeys([*right, *left]):
            place = f"{field}[{key}]" if named else f"{field}.{key}" if field else str(key)
            yield from changes(left.get(key), right.get(key), field=place)
    else:
        yield Change(field or "(all)", *(None if value in _EMPTY else value for value in (before, after)))


def _tables(before: Any, after: Any) -> tuple[Mapping[str, Any], Mapping[str, Any], bool] | None:
    """Return two tables, and whether they are lists of tables by the names of these; None for anything else."""
    sides = (before, after)
    if any(isinstance(side, dict) for side in sides) and all(
        isinstance(side, dict) or side in _EMPTY for side in sides
    ):
        return before or {}, after or {}, False
    if not all(isinstance(side, list) for side in sides) or len(before) + len(after) > _MOST_TABLES:
        return None
    for key in _NAMES:
        left, right = (_by_name(side, key) for side in sides)
        if left and right and left != right:
            return left, right, True
    return None


def _by_name(entries: Sequence[Any], key: str) -> dict[str, Any] | None:
    """Return tables by the name that each has under ``key``; None where one has none, or two have the same."""
    named = {entry[key]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(key), str)}
    return named if len(named) == len(entries) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(value: Any) -> str | None:
    if value is None:
        return None
    text = _count(value) if isinstance(value, list) else _text(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _count(entries: Sequence[Any]) -> str:
    return f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}"


def _listed(entries: Sequence[Any], names: Sequence[str], what: str) -> str:
    few = (name[: _LONGEST // 2] for name in names)
    return f"{_count(entries)}, {what}: {errors.names(few, shown=3)}" if names else _count(entries)

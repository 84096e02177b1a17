"""Two manifests, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_LONGEST = 160
_NAMES = ("name", "key", "id", "file", "path", "level")
"""Fields by which the entries of a list are told apart."""


@dataclass(frozen=True)
class Change:
    """One field that differs; None is a field that is absent."""

    field: str
    old: str | None
    new: str | None


def changes(old: bytes, new: bytes) -> list[Change]:
    """Return what differs between two JSON documents, in the new one's order.

    Entries of a list are compared by their name where they have one, by their place otherwise.

    Raises
    ------
    ValueError
        If one is not JSON.
    """
    before, after = (dict(_fields(json.loads(document))) for document in (old, new))
    fields = [*after, *(field for field in before if field not in after)]
    return [
        Change(field, _shown(before, field), _shown(after, field))
        for field in fields
        if field not in before or field not in after or before[field] != after[field]
    ]


def _fields(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Return every value that is not made of others, under its full name."""
    inside = _inside(value)
    if not inside:
        yield field or "(all)", value
    for name, item in inside.items():
        yield from _fields(item, f"{field}{name}" if name.startswith("[") or not field else f"{field}.{name}")


def _inside(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {f"[{name}]": item for name, item in zip(_labels(value), value, strict=True)}
    return {}


def _labels(items: list[Any]) -> list[str]:
    """Return what to call the entries of a list: their names where those differ, else their places."""
    for key in _NAMES:
        names = [str(item[key]) for item in items if isinstance(item, dict) and isinstance(item.get(key), str)]
        if len(names) == len(items) == len(set(names)):
            return names
    if all(isinstance(item, str) for item in items) and len(set(items)) == len(items):
        return list(items)
    return [str(number) for number in range(len(items))]


def _shown(fields: dict[str, Any], field: str) -> str | None:
    if field not in fields:
        return None
    text = fields[field] if isinstance(fields[field], str) else json.dumps(fields[field], ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

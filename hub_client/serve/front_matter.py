"""A card's metadata: the YAML between ``---`` and ``---``, read with a size cap and without aliases."""

from __future__ import annotations

import json
from typing import Any

import yaml

_LONGEST = 64 * 2**10


def lenient(card: bytes) -> dict[str, Any]:
    """Return a card's YAML as JSON values; ``{}`` where there is none or it is not plain."""
    try:
        return strict(card)
    except ValueError:
        return {}


def strict(card: bytes) -> dict[str, Any]:
    """Return a card's YAML as JSON values.

    Raises
    ------
    ValueError
        If it is not a YAML mapping, has aliases (which can grow without bounds), or is longer than 64 KiB.
    """
    text = card.replace(b"\r\n", b"\n")
    if not text.startswith(b"---\n"):
        return {}
    matter, closed, _ = text[4:].partition(b"\n---")
    if not closed or len(matter) > _LONGEST:
        raise ValueError("the metadata between --- and --- is not closed, or is longer than 64 KiB")
    try:
        found = yaml.load(matter, Loader=_Plain)
        found = json.loads(json.dumps(found, default=str, allow_nan=False))
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"the metadata is not plain YAML: {error}") from None
    if not isinstance(found, dict | None):
        raise ValueError("the metadata is not a mapping of names to values")
    return found or {}


class _Plain(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name)")
        return super().compose_node(parent, index)

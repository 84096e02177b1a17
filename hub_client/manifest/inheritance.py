"""Parts of a manifest that a delta leaves to an earlier release: left out of its document, and put back on reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from hub_client.manifest.header import Header, Inherited

if TYPE_CHECKING:
    from hub_client.manifest.v1 import Manifest

GENES = "genes"
LISTS: tuple[Inherited, ...] = tuple(name for name in get_args(Inherited) if name != GENES)
"""The parts of which a delta may state the entries that come behind those it inherits."""


def inherited_counts(fields: Mapping[str, Any]) -> dict[Inherited, int]:
    """Return how many entries a document states that it inherits, by part; validation names other parts."""
    delta = fields.get("delta")
    found = delta.get("inherits") if isinstance(delta, dict) else None
    known = found.items() if isinstance(found, dict) else ()
    return {name: count for name, count in known if name in get_args(Inherited) and type(count) is int and count > 0}


def inherits(manifest: Manifest, earlier: Manifest) -> dict[Inherited, int]:
    """Return how many entries of each part are the earlier release's; parts that have none are left out.

    The genes are one part with the rules of matching them: all of it is inherited, or nothing.
    """
    found: dict[Inherited, int] = {name: _shared(getattr(manifest, name), getattr(earlier, name)) for name in LISTS}
    found["genes"] = len(manifest.genes.panel) if manifest.genes == earlier.genes else 0
    return {name: count for name, count in sorted(found.items()) if count}


def _shared(own: Sequence[object], theirs: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, theirs, strict=False)))


def shortened(fields: Mapping[str, Any], inherited: Mapping[Inherited, int]) -> dict[str, Any]:
    """Return a manifest's JSON fields without the entries that it inherits."""
    own = {name: fields[name][count:] for name, count in inherited.items() if name != GENES}
    kept = {name: value for name, value in fields.items() if name not in inherited}
    return kept | {name: entries for name, entries in own.items() if entries}


def completed(fields: Mapping[str, Any], earlier: Mapping[str, Any], counts: Mapping[Inherited, int]) -> dict[str, Any]:
    """Return a manifest's JSON fields with the entries that it inherits.

    Raises
    ------
    ValueError
        If the earlier manifest has fewer, or the fields state what they inherit. The message is a clause.
    """
    found = dict(fields)
    for name, count in counts.items():
        theirs = earlier.get(name)
        entries = theirs.get("panel") if name == GENES and isinstance(theirs, dict) else theirs
        if not isinstance(entries, list) or len(entries) < count or (name == GENES and len(entries) != count):
            raise ValueError(f"inherits {count:,} entries of {name}, which the earlier manifest has not")
        if name == GENES and name in fields:
            raise ValueError("states the genes that it inherits")
        own = fields.get(name, [])
        if name != GENES and not isinstance(own, list):
            raise ValueError(f"has {name} that are no list")
        found[name] = theirs if name == GENES else [*entries[:count], *own]
    return found


def comparable(before: bytes, after: bytes, *, parsed: Callable[[bytes], Any]) -> tuple[Any, Any]:
    """Return two documents, parsed; where one inherits from the other, without what it inherits."""
    left, right = parsed(before), parsed(after)
    return _beside(left, before, right), _beside(right, after, left)


def _beside(fields: Any, document: bytes, other: Any) -> Any:
    """Return fields without the entries that another document inherits from this one."""
    counts, file = _inherited_by(other)
    if not isinstance(fields, dict) or file != hashlib.sha256(document).hexdigest():
        return fields
    lists = {name: [*fields.get(name, [])[count:]] for name, count in counts.items() if name != GENES}
    return {name: value for name, value in fields.items() if name not in counts} | lists


def _inherited_by(fields: Any) -> tuple[dict[Inherited, int], str | None]:
    try:
        header = Header.model_validate(fields)
    except ValidationError:
        return {}, None
    file = header.inherited
    return (header.delta.inherits, file.sha256) if header.delta and file else ({}, None)

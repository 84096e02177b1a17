"""The base of everything that is read or written as JSON or TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """An immutable record that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    def canonical(self) -> bytes:
        """Return the canonical JSON: sorted keys, UTF-8, newline at the end."""
        return as_json(self.model_dump(mode="json"))


def as_json(fields: Any) -> bytes:
    """Return the canonical JSON of a document: sorted keys, UTF-8, newline at the end."""
    return (json.dumps(fields, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def as_before(fields: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that came later and are as it was before: files from before them keep their bytes."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {name: value for name, value in fields.items() if name not in later or later[name] != plain[name]}


def problems(error: ValidationError) -> list[str]:
    """Return one readable line for each problem: where it is, then what is wrong."""
    found: list[Any] = error.errors(include_url=False)
    return [f"{place(one['loc'])}: {_sentence(**{'ctx': {}, **one})}" for one in found]


def place(parts: Iterable[str | int]) -> str:
    """Return a dotted place, as in ``conditions.0.categories``."""
    return ".".join(map(str, parts)) or "the whole"


def _sentence(*, type: str, msg: str, input: object, ctx: Mapping[str, Any], **_: object) -> str:
    if template := _SENTENCES.get(type):
        return template.format(given=repr(input)[:60], **ctx)
    return msg.removeprefix("Value error, ")


_SENTENCES = {
    "extra_forbidden": "not a key of this format",
    "union_tag_invalid": "unknown kind {tag!r:.60}; known are {expected_tags}",
    "literal_error": "unknown value {given}; known are {expected}",
}
"""How a problem of a type of pydantic's is put, with what pydantic reports of it."""

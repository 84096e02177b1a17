"""The base of everything that is read or written as JSON or TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Frozen(BaseModel):
    """An immutable record that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    def canonical(self) -> bytes:
        """Return the canonical JSON: sorted keys, UTF-8, newline at the end."""
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def problems(error: ValidationError) -> list[str]:
    """Return one readable line for each problem: where it is, then what is wrong."""
    return [f"{place(found['loc'])}: {_sentence(found)}" for found in error.errors(include_url=False)]


def place(parts: Iterable[str | int]) -> str:
    """Return a dotted place, as in ``conditions.0.categories``."""
    return ".".join(map(str, parts)) or "the whole"


def _sentence(found: ErrorDetails) -> str:
    if template := _SENTENCES.get(found["type"]):
        return template.format(given=repr(found["input"])[:60], **found.get("ctx", {}))
    return found["msg"].removeprefix("Value error, ")


_SENTENCES = {
    "extra_forbidden": "not a key of this format",
    "union_tag_invalid": "unknown kind {tag!r:.60}; known are {expected_tags}",
    "literal_error": "unknown value {given}; known are {expected}",
}
"""How a problem of a type of pydantic's is put, with what pydantic reports of it."""

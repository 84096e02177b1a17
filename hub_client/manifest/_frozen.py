"""The base of everything that is read or written as JSON or TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError


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
    return [f"{place(found['loc'])}: {_sentence(found['msg'])}" for found in error.errors(include_url=False)]


def place(parts: Iterable[str | int]) -> str:
    """Return a dotted place, as in ``conditions.0.categories``."""
    return ".".join(map(str, parts)) or "the whole"


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return "not a key of this format" if text == "Extra inputs are not permitted" else text

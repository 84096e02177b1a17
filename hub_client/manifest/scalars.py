"""The strings and numbers that manifests are made of: names, versions, hashes, identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[-_.][a-z0-9]+)*$", max_length=96)]
Key = Annotated[str, Field(pattern=r"^[^\s./+*]+$", max_length=96)]
VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
SHA256 = r"[0-9a-f]{64}"
COMMIT = r"[0-9a-f]{40}"
SemVer = Annotated[str, Field(pattern=f"^{VERSION}$")]
Sha256 = Annotated[str, Field(pattern=f"^{SHA256}$")]
Commit = Annotated[str, Field(pattern=f"^{COMMIT}$")]
Curie = Annotated[str, Field(pattern=r"^[A-Za-z]+:[A-Za-z0-9_]+$")]
Spdx = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*$")]
Orcid = Annotated[str, Field(pattern=r"^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$")]
Doi = Annotated[str, Field(pattern=r"^10\.\d{4,9}/\S+$")]
RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=128)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Axis = Annotated[str, Field(pattern=r"^[^\s+*]+(?:\+[^\s+*]+)*$", max_length=256)]


def key_of(column: str) -> str:
    """Return the key a manifest has for an obs column: blanks and ``. / + *`` become underscores."""
    return re.sub(r"[\s./+*]", "_", column)


def check_unique(what: str, values: Iterable[str]) -> None:
    """Raise ValueError if a value repeats."""
    seen: set[str] = set()
    if again := [value for value in values if value in seen or seen.add(value)]:  # type: ignore[func-returns-value]
        raise ValueError(f"{what} must be unique; repeated: {', '.join(again[:5])}")


def numbers(version: str | None) -> tuple[int, ...]:
    """Return the numbers of a version; no version is the oldest."""
    return tuple(map(int, (version or "0.0.0").split(".")))


def check_oldest_first(what: str, versions: Iterable[str | None]) -> None:
    """Raise ValueError unless what versions added stands after the reference's, the oldest first."""
    order = [numbers(version) for version in versions]
    if order != sorted(order):
        raise ValueError(f"{what}: what was added must stand after the reference's, oldest version first")

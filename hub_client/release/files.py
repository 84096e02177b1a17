"""Which files a release is made of, read from its document alone, before any of its names touches a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from hub_client import errors
from hub_client.manifest import _json
from hub_client.manifest._frozen import Frozen, problems
from hub_client.manifest.reading import MAX_BYTES
from hub_client.manifest.scalars import RelativePath, Sha256
from hub_client.release.names import is_file
from hub_client.release.store import DOCUMENT

MOST_FILES = 64
LARGEST = 1 << 40
"""Bytes that one file of a release may have."""

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Wanted:
    """A file as its release names it: its name there, its sha256 (64 hex digits) and its size in bytes."""

    name: str
    sha256: str
    size: int


class ListedFile(Frozen):
    """One file of a data set's record or of a lock."""

    path: RelativePath
    size: NonNegativeInt
    sha256: Sha256


class _File(BaseModel):
    path: str
    size: Annotated[int, Field(ge=0, le=LARGEST, strict=True)]
    sha256: Sha256


class _Delta(_File):
    inherited: tuple[str, ...] = ()


class _Document(BaseModel):
    files: Annotated[tuple[_File, ...], Field(max_length=MOST_FILES)] = ()
    delta: _Delta | None = None

    def kept(self) -> tuple[_File, ...]:
        """Return the files that hubs keep: in a delta the weights are what they add to the parent's."""
        if self.delta is None:
            return self.files
        composed = {_WEIGHTS, *self.delta.inherited}
        return (*(file for file in self.files if file.path not in composed), self.delta)


def files_of(document: bytes, *, source: str) -> tuple[Wanted, ...]:
    """Return the files that hubs keep of a release, as its manifest or a data set's record names them.

    Parameters
    ----------
    document
        Its bytes, of any format version.
    source
        What to call the release in errors.

    Raises
    ------
    IntegrityError
        If a name is one that could leave the release's folder, or stand for another file on some system.
    ManifestError
        If it is no such document.
    """
    try:
        found = _Document.model_validate(_json.strict(document, limit=MAX_BYTES))
    except ValidationError as error:
        raise errors.ManifestError(f"{source} does not list its files as it should: {problems(error)[0]}.") from None
    except ValueError as error:
        raise errors.ManifestError(f"the document of {source} {error}.") from None
    kept = found.kept()
    names = [file.path for file in kept]
    for name in names:
        _check_name(name, names, source=source)
    return tuple(Wanted(file.path, file.sha256, file.size) for file in kept)


def _check_name(name: str, names: list[str], *, source: str) -> None:
    same = [other for other in [*names, *DOCUMENT.values()] if other.casefold() == name.casefold()]
    if is_file(name) and len(same) == 1:
        return
    raise errors.IntegrityError(
        f"{source} names a file {name!r:.120}: expected plain names of letters, digits, . - and _, each once. Nothing "
        "of it was written; do not use this release.",
        file=name[:120],
        actual=name[:120],
    )

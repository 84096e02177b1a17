"""Yanked releases: versions that nobody should start from any more, and why.

A released version never changes, so a yank takes nothing away: the name without a version no longer means it, and its
version, commit and digest still do, with a warning. What was yanked is one file, ``yanked.json``, on a branch of its
own, ``yanked``: the main branch and its commits stay as they were. In the bundled zoo it lies beside the versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from hub_client import errors
from hub_client.manifest import _json
from hub_client.manifest._frozen import Frozen, problems
from hub_client.manifest.scalars import SemVer, Sha256

FILE = "yanked.json"
BRANCH = "yanked"
MAX_BYTES = 2**20
LONGEST_REASON = 500


class Yank(Frozen):
    """One yanked release: which, why and when."""

    version: SemVer
    digest: Sha256
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON)]
    date: AwareDatetime


class Yanked(Frozen):
    """The file's content."""

    format: Literal[1] = 1
    yanked: tuple[Yank, ...] = ()


def read(data: bytes, *, source: str) -> tuple[Yank, ...]:
    """Return what a ``yanked.json`` lists.

    Raises
    ------
    IntegrityError
        If it is not such a file.
    """
    try:
        return Yanked.model_validate(_json.strict(data, limit=MAX_BYTES)).yanked
    except ValidationError as error:
        fault = problems(error)[0]
    except ValueError as error:
        fault = str(error)
    raise errors.IntegrityError(
        f"{FILE} of {source} cannot be read ({fault}). Restore the hub from a copy, or pull from another.", file=FILE
    )


def dump(yanks: Iterable[Yank]) -> bytes:
    """Return the bytes of a ``yanked.json``."""
    return (Yanked(yanked=tuple(yanks)).model_dump_json(indent=1) + "\n").encode()


def without(yanks: Iterable[Yank], version: str) -> list[Yank]:
    """Return the yanks of all other versions."""
    return [yank for yank in yanks if yank.version != version]


def reasons(yanks: Iterable[Yank]) -> dict[str, str]:
    """Return version to reason."""
    return {yank.version: yank.reason for yank in yanks}


def checked_reason(reason: str) -> str:
    """Return a reason in one line; InvalidInput if it is empty or too long."""
    line = " ".join(reason.split())
    if 0 < len(line) <= LONGEST_REASON:
        return line
    raise errors.InvalidInput(
        f"a release is yanked for a reason of 1 to {LONGEST_REASON} letters, and {len(line)} were given. Write what is "
        "wrong with it and what to use instead.",
        facts={"reason": reason},
    )

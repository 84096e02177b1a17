"""What hubs on the network stated of their repositories, kept so that releases are found again without them.

One JSON file for each repository of each hub. Branches and tags are as they were last seen; which document a commit
holds never changes, and a hub that states otherwise is not believed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from hub_client import errors
from hub_client.files import atomic, locks
from hub_client.manifest.scalars import Commit, Sha256
from hub_client.release.store import Logged, RepoType
from hub_client.store.cache.downloads import Cache

_LARGEST = 64 << 20
_PATIENCE = 60.0


class RepositoryRecord(BaseModel):
    """What is known of a repository, and which one it is."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    hub: str
    kind: RepoType
    repo: str
    branches: Mapping[str, Commit] = {}
    """Names, as last seen, to commits."""
    tags: Mapping[str, Commit] = {}
    proposals: Mapping[str, Commit] = {}
    """As branches and tags; these are pull requests, ``refs/pr/1``."""
    yanked: Mapping[str, str] = {}
    """Versions that were yanked, as last seen, and why."""
    log: tuple[Logged, ...] = ()
    """The commits of the main branch, the newest first, as last seen."""
    digests: Mapping[str, Sha256] = {}
    """Commit to the sha256 of the document in it, for each commit that was looked at."""


@dataclass(frozen=True)
class RepositoryCache:
    """The records of one hub's repositories of one kind, in a cache."""

    cache: Cache
    hub: str
    kind: RepoType

    @cached_property
    def place(self) -> str:
        """The folder's name: readable, and no other hub's."""
        host = re.sub(r"[^a-z0-9.-]", "-", (urlsplit(self.hub).hostname or self.hub).lower()).strip(".-")[:40]
        return f"{host or 'hub'}-{hashlib.sha256(os.fsencode(self.hub)).hexdigest()[:12]}/{self.kind}"

    def known(self, repo: str) -> RepositoryRecord | None:
        """Return what is known of a repository; what the shared cache knows and ours does not is added."""
        found = [record for root in self.cache.roots if (record := read(self._path(root, repo)))]
        ours = next((record for record in found if record.hub == self.hub and record.repo == repo), None)
        digests = {commit: digest for record in reversed(found) for commit, digest in record.digests.items()}
        return ours.model_copy(update={"digests": digests}) if ours else None

    def repos(self) -> list[str]:
        """Return the repositories of which anything is known, sorted."""
        paths = (path for root in self.cache.roots for path in (root / "hubs" / self.place).glob("*/*.json"))
        return sorted({record.repo for path in paths if (record := read(path)) and record.hub == self.hub})

    def note(self, repo: str, **seen: object) -> RepositoryRecord:
        """Add what was seen of a repository, and return all that is known now.

        Parameters
        ----------
        repo
            Its full name.
        seen
            Fields of :class:`RepositoryRecord` that replace the former ones; ``digests`` are added to them.

        Raises
        ------
        IntegrityError
            If a commit holds another document than it did before.
        TransportError
            If the cache cannot be written.
        """
        path = self._path(self.cache.root, repo)
        place = f"the cache {self.cache.root}"
        with atomic.writing(place, otherwise="name another folder in ARCHZOO_CACHE"), _alone(path):
            before = self.known(repo) or RepositoryRecord(hub=self.hub, kind=self.kind, repo=repo)
            added = seen.pop("digests", {})
            after = RepositoryRecord.model_validate(before.model_dump() | seen | {"digests": _joined(before, added)})
            if after != before:
                _write(self.cache, path, after)
        return after

    def _path(self, root: Path, repo: str) -> Path:
        return root / "hubs" / self.place / f"{repo}.json"


def every(root: Path) -> Iterator[tuple[Path, RepositoryRecord]]:
    """Return all that a cache folder knows, with the file that states it."""
    for path in sorted((root / "hubs").glob("*/*/*/*.json")):
        if record := read(path):
            yield path, record


def read(path: Path) -> RepositoryRecord | None:
    """Return the record in a file; None where there is none, or it is damaged: then it is found out again."""
    with suppress(OSError, ValidationError), path.open("rb") as file:
        return RepositoryRecord.model_validate_json(file.read(_LARGEST))
    return None


def forget(cache: Cache, path: Path, commits: Collection[str]) -> None:
    """Drop what is known of some commits from the file in a cache that states it."""
    with _alone(path):
        if known := read(path):
            kept = {commit: digest for commit, digest in known.digests.items() if commit not in commits}
            _write(cache, path, known.model_copy(update={"digests": kept}))


def _joined(before: RepositoryRecord, added: object) -> dict[str, str]:
    digests = dict(before.digests)
    for commit, digest in dict(added).items():  # type: ignore[call-overload]
        if digests.setdefault(commit, digest) != digest:
            raise errors.IntegrityError(
                f"commit {commit[:12]} of {before.repo} in {before.hub} holds a document with sha256 {digest}, and "
                f"held one with {digests[commit]} before. A commit never changes: do not use this release, and tell "
                "whoever runs the hub.",
                file=commit,
                expected=digests[commit],
                actual=digest,
            )
    return digests


def _write(cache: Cache, path: Path, record: RepositoryRecord) -> None:
    cache.publish(record.model_dump_json(indent=1).encode(), path)


def _alone(path: Path) -> AbstractContextManager[None]:
    waited = f"another process has held {path} for {_PATIENCE:g} seconds; end it, then try again."
    return locks.held(path.with_suffix(".lock"), timeout=_PATIENCE, otherwise=waited)

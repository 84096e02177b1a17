"""What every place that holds releases can do, and how a revision is chosen among its releases.

A store holds repositories of one kind. The folder hub, the bundled zoo and hubs on the network are stores; so can be
anything that keeps releases under 40-hex commit ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hub_client import errors
from hub_client.manifest.scalars import Commit
from hub_client.release.names import SHORT_COMMIT, is_version, semver

RepoType = Literal["models", "datasets"]

DOCUMENT: Mapping[RepoType, str] = {"models": "manifest.json", "datasets": "dataset.json"}
"""The file whose sha256 is the release digest."""

_DIGEST = "sha256:"


@dataclass(frozen=True)
class Ref:
    """Where a release is, exactly."""

    repo: str
    """``name`` or ``owner/name``."""
    commit: str
    """40 hex digits."""
    version: str | None
    """The release's semantic version, if it has a tag."""
    digest: str
    """sha256 of the manifest, 64 hex digits: what a paper cites."""
    hub: str = ""
    """The hub's address: ``bundled``, a folder or a URL."""

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version else ""
        return f"{self.repo}{version} (commit {self.commit[:12]}, sha256:{self.digest[:12]})"

    def check(self, digest: str, *, file: str) -> None:
        """Raise IntegrityError if the release's document, called ``file``, has another digest."""
        if digest != self.digest:
            raise errors.IntegrityError(
                f"{file} has sha256 {digest}, but {self} was asked for. Pull it again, or from another hub.",
                file=file,
                expected=self.digest,
                actual=digest,
            )


@dataclass(frozen=True)
class Logged:
    """A commit as a hub lists it: 40 hex digits, its message, when it was made, UTC."""

    commit: Commit
    message: str = ""
    date: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """One commit of a repository."""

    commit: str
    """40 hex digits."""
    version: str | None
    """The semantic version released with it, if any."""
    digest: str
    """sha256 of the release's manifest, 64 hex digits; empty for a commit that holds no release."""
    message: str
    """What its author wrote about it."""
    date: datetime | None
    """When it was made, UTC; None where the store does not know."""


class Source(Protocol):
    """Where the files of a release can be had."""

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one small file of a release, such as its manifest, checked."""

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write a release's files into a new or empty folder, every hash checked, and return the folder.

        Raises
        ------
        IntegrityError
            If a stored file is not the one that was pushed.
        """

    def opened(self, ref: Ref) -> AbstractContextManager[Path]:
        """Give a folder to read a release from while the context lasts; nobody may write to it."""


class Store(Source, Protocol):
    """A place that holds repositories of one kind; ``address`` is where, ``kind`` which."""

    kind: RepoType
    address: str

    def repos(self) -> list[str]:
        """Return the full names of all repositories with at least one release, sorted."""

    def holds(self, repo: str) -> bool:
        """Return whether there is a repository of this full name with at least one release."""

    def releases(self, repo: str) -> list[Ref]:
        """Return every released version, the newest last."""

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest.

        Parameters
        ----------
        repo
            The repository's full name.
        revision
            A version, tag, branch, commit (7 hex digits or more) or ``sha256:`` and 12 digits or more of the digest.

        Raises
        ------
        NotFound
            If there is no such repository or revision, or several revisions begin like this one.
        """

    def history(self, repo: str) -> list[Entry]:
        """Return every commit, the newest first."""

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""

    def private(self, repo: str) -> bool:
        """Return whether the place shows a repository to some only, so that it must not be published on."""


@runtime_checkable
class WritableStore(Store, Protocol):
    """A place that also takes releases."""

    def commit(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        """Store a release folder as the next commit of a repository.

        Parameters
        ----------
        repo
            ``owner/name``; made on the first commit.
        folder
            The release's files; its document names the version.
        message
            One line about it.
        parent
            The commit this one follows: the repository's head, or None for its first commit.

        Raises
        ------
        TransportError
            If the store cannot be written, its head is no longer ``parent``, or the version is taken by other bytes.
        """

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Yank a version, or give another reason for it, and return its release.

        The newest version is from then on the newest that is not yanked.

        Raises
        ------
        NotFound
            If it is not released.
        TransportError
            If the store cannot be written.
        """


def writable(store: Store, repo: str) -> WritableStore:
    """Return a place that takes releases.

    Raises
    ------
    TransportError
        If it is read-only: the bundled zoo, a static hub, what came as bundles.
    """
    if isinstance(store, WritableStore):
        return store
    raise errors.TransportError(
        f"{repo!r} cannot be changed in {store.address}, which is read-only. Push to a hub of your own with hub=, as "
        f"my-lab/{repo.split('/')[-1]}; a static hub is written from another one by archzoo export-static."
    )


def stated_version(document: bytes) -> str | None:
    """Return the version a document states; None for a document that is not one of ours."""
    try:
        stated = json.loads(document)["version"]
    except (ValueError, TypeError, KeyError):
        return None
    return stated if isinstance(stated, str) and is_version(stated) else None


def choose(
    repo: str,
    revision: str | None,
    *,
    versions: Mapping[str, str],
    names: Mapping[str, str],
    history: Callable[[], Iterable[Entry]],
    yanked: Mapping[str, str] | None = None,
) -> str:
    """Return the commit a revision names.

    Parameters
    ----------
    repo
        What to call the repository in errors.
    revision
        As in :meth:`Store.resolve`.
    versions
        Version to commit.
    names
        Other tags and branches, to commits.
    history
        Returns all commits; asked only for a commit or a digest.
    yanked
        Versions that are yanked, and why: none of them is the newest.

    Raises
    ------
    NotFound
        If nothing, or more than one thing, has this revision.
    """
    if revision is None:
        revision = _newest(repo, versions, yanked or {})
    known = {**names, **versions}
    found = {known[revision]: revision} if revision in known else {}
    if revision.startswith(_DIGEST):
        found = _by_digest(revision.removeprefix(_DIGEST), history())
    elif SHORT_COMMIT.fullmatch(revision):
        found |= {entry.commit: entry.commit for entry in history() if entry.commit.startswith(revision)}
    return _only(repo, revision, found=found, versions=versions)


def _newest(repo: str, versions: Iterable[str], yanked: Mapping[str, str]) -> str:
    ordered = sorted(versions, key=semver)
    if not ordered:
        return "main"
    offered = [version for version in ordered if version not in yanked]
    if offered:
        return offered[-1]
    raise errors.NotFound(
        f"every version of {repo} was yanked, the newest because: {yanked[ordered[-1]]}. A yanked version is pulled by "
        "naming it.",
        name=repo,
        suggestions=[f"{repo}@{ordered[-1]}"],
    )


def _by_digest(prefix: str, history: Iterable[Entry]) -> dict[str, str]:
    """Return one commit for each digest that begins with ``prefix``: the same bytes committed twice are one thing."""
    by_digest = {entry.digest: entry.commit for entry in history if entry.digest.startswith(prefix)}
    return {commit: _DIGEST + digest for digest, commit in by_digest.items()}


def _only(repo: str, revision: str, *, found: Mapping[str, str], versions: Mapping[str, str]) -> str:
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise errors.NotFound(
            f"{repo}@{revision} is ambiguous: {len(found)} revisions begin like that. Write more of it.",
            name=f"{repo}@{revision}",
            suggestions=[f"{repo}@{full}" for full in found.values()],
        )
    ordered = sorted(versions, key=semver)
    raise errors.NotFound(
        f"{repo} has no revision {revision!r}; its versions are {errors.names(ordered) or 'not numbered'}.",
        name=f"{repo}@{revision}",
        suggestions=[f"{repo}@{version}" for version in ordered[-1:]],
    )

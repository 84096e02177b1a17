"""Hubs on the network: what they state is checked, and what was fetched once is in the cache.

:class:`RemoteStore` knows releases and the cache; a :class:`Wire` knows how one kind of hub is asked, and a
:class:`WritableWire` also how it is written to, for a :class:`WritableRemoteStore`. A release's
document is fetched by commit, its other files by the sha256 that the document names: how a hub lists its files is
never asked, so that it cannot make us write any other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from hub_client import errors
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release import files as release_files
from hub_client.release import yanks
from hub_client.release.files import Wanted
from hub_client.release.names import COMMIT, DIGEST, is_repository, is_version
from hub_client.release.repository import Repository, version_and_digest
from hub_client.release.store import DOCUMENT, Entry, Logged, Ref, RepoType
from hub_client.store import settings
from hub_client.store.cache.downloads import Cache
from hub_client.store.cache.repositories import RepositoryCache, RepositoryRecord
from hub_client.store.network.stream import Stream, progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heads:
    """Where the names of a repository point: branches, tags and pull requests (``refs/pr/1``), to commits.

    ``yanked`` is versions that were yanked, and why.
    """

    branches: Mapping[str, str]
    tags: Mapping[str, str]
    proposals: Mapping[str, str]
    yanked: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """A commit to be made."""

    folder: Path
    """The release's files."""
    gone: tuple[str, ...]
    """Files of the parent that the release no longer has."""
    message: str
    """One line about it."""
    parent: str | None
    """The commit it has to follow; None where the repository has none."""
    proposal: bool = False
    """Whether to open a pull request and leave the main branch as it is."""


@dataclass(frozen=True)
class Published:
    """A commit that was made, and the address of its pull request if it is one."""

    commit: str
    url: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A pull request: the commit proposed, and where people see it."""

    ref: Ref
    url: str


class MovedOn(Exception):
    """The branch is no longer at the commit a change has to follow."""


class Wire(Protocol):
    """How one kind of hub is asked; ``address`` is where.

    Every verb raises TransportError where the hub cannot be reached or refuses, and IntegrityError where it answers
    something that is not an answer.
    """

    address: str

    def repos(self) -> list[str]:
        """Return the full names of repositories that may hold releases."""

    def heads(self, repo: str) -> Heads | None:
        """Return a repository's names; None where it does not exist, or we may not know of it."""

    def log(self, repo: str) -> list[Logged]:
        """Return the commits of the main branch, the newest first."""

    def private(self, repo: str) -> bool:
        """Return whether the hub shows a repository to some only."""

    def document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document; None where it has none."""

    def stream(self, repo: str, commit: str, file: Wanted, start: int) -> AbstractContextManager[Stream]:
        """Give a file of a commit from a byte on."""


class WritableWire(Wire, Protocol):
    """How one kind of hub is asked, and written to."""

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository; nothing happens where it exists, unless it is not as private as was asked for."""

    def publish(self, repo: str, change: Change) -> Published:
        """Make one commit; MovedOn if its parent is no longer the newest."""

    def tag(self, repo: str, version: str, commit: str) -> None:
        """Give a commit its version's tag."""

    def yank(self, repo: str, yank: yanks.Yank) -> None:
        """Add to what was yanked, in place of an earlier yank of that version; MovedOn if somebody was faster."""


class RemoteStore:
    """A :class:`~hub_client.release.store.Store` on the network, with a cache."""

    def __init__(self, wire: Wire, *, kind: RepoType, cache: Cache) -> None:
        self.kind: RepoType = kind
        self.address = wire.address
        self._wire = wire
        self._cache = cache
        self._known = RepositoryCache(cache, self.address, kind)

    def repos(self) -> list[str]:
        """Return the full names of all repositories that may hold a release, sorted; offline, of those in the cache."""
        if settings.offline():
            return self._known.repos()
        return sorted({name for name in self._wire.repos() if is_repository(name)})

    def holds(self, repo: str) -> bool:
        """Return whether there is a repository of this full name that has a release."""
        seen = self._seen(repo)
        return seen is not None and bool(seen.branches or seen.tags) and self._shown(seen).released

    def releases(self, repo: str) -> list[Ref]:
        """Return every released version, the newest last."""
        return self._repository(repo).releases()

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several.

        A whole commit or digest that is in the cache is not asked for again: it cannot have changed.
        """
        if ref := self._pinned(repo, revision or ""):
            return ref
        repository = self._repository(repo)
        if revision and COMMIT.fullmatch(revision):
            return repository.ref(revision, repository.version_of(revision))
        return repository.resolve(revision)

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one small file of a release, checked."""
        if path == DOCUMENT[self.kind]:
            return self._release_document(ref)
        wanted = next((file for file in self._files(ref) if file.name == path), None)
        if wanted is None:
            raise errors.NotFound(f"{ref} has no file {path!r}.", name=path)
        self._fill(ref, [wanted])
        content = self._cache.read(wanted.sha256, limit=wanted.size)
        if content is None:
            raise _damaged(wanted, self._cache)
        return content

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write a release's files into a new or empty folder, every hash checked, and return the folder."""
        return self._placed(ref, folder, link=False)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give a folder to read a release from while the context lasts; its files are those of the cache."""
        with self._cache.scratch() as folder:
            yield self._placed(ref, folder, link=True)

    def history(self, repo: str) -> list[Entry]:
        """Return every commit of the main branch that holds a release, the newest first."""
        return [entry for entry in self._repository(repo).history() if entry.digest]

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        return self._repository(repo).yanked()

    def private(self, repo: str) -> bool:
        """Return whether the hub shows a repository to some only; what nobody can be asked, offline, counts as such."""
        return settings.offline() or self._wire.private(repo)

    # What is known of a repository

    def _seen(self, repo: str) -> RepositoryRecord | None:
        """Return what the hub states of a repository, or offline what it last stated; None where there is none."""
        if not is_repository(repo):
            return None
        if settings.offline():
            return self._known.known(repo)
        heads = self._wire.heads(repo)
        return None if heads is None else self._known.note(repo, **vars(heads))

    def _repository(self, repo: str) -> Repository:
        seen = self._seen(repo)
        if seen is None:
            where = f"the cache has nothing of the {self.kind} repository {repo!r} of the hub"
            absent = where if settings.offline() else f"there is no {self.kind} repository {repo!r} in the hub"
            hint = f" ({settings.OFFLINE} is set)" if settings.offline() else ", or it is private: give a token"
            raise errors.NotFound(f"{absent} {self.address}{hint}.", name=repo)
        return self._shown(seen)

    def _shown(self, seen: RepositoryRecord) -> Repository:
        def line(tip: str | None) -> Iterable[Logged]:  # hubs are asked for the main branch's alone
            return self._log(seen) if tip == seen.branches.get("main") else [Logged(str(tip))]

        return Repository(
            seen.repo,
            self.address,
            self.kind,
            branches=seen.branches,
            tags=seen.tags,
            proposals=seen.proposals,
            document=lambda commit: self._document(seen.repo, commit),
            digest=lambda commit: self._digest(seen, commit),
            line=line,
            yanked=lambda: seen.yanked,
            claimed=True,
        )

    def _log(self, seen: RepositoryRecord) -> tuple[Logged, ...]:
        if settings.offline():
            return seen.log
        return self._known.note(seen.repo, log=self._wire.log(seen.repo)).log if seen.branches else ()

    def _digest(self, seen: RepositoryRecord, commit: str) -> str | None:
        """Return the digest of the release in a commit; None where it holds none, or offline is not in the cache."""
        if commit in seen.digests:
            return seen.digests[commit]
        document = None if settings.offline() else self._document(seen.repo, commit)
        return hashlib.sha256(document).hexdigest() if document is not None else None

    def _pinned(self, repo: str, revision: str) -> Ref | None:
        """Return the release with a whole commit or digest, if the cache has its document."""
        known = self._known.known(repo) if COMMIT.fullmatch(revision) or DIGEST.fullmatch(revision) else None
        if known is None:
            return None
        tagged = {commit: tag for tag, commit in known.tags.items() if is_version(tag)}
        for commit, digest in sorted(known.digests.items(), key=lambda one: (one[0] not in tagged, one[0])):
            if revision in (commit, f"sha256:{digest}") and self._cache.read(digest, limit=MAX_BYTES) is not None:
                return Ref(repo, commit, tagged.get(commit), digest, self.address)
        return None

    # Files

    def _document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document, from the cache where it was seen before; None where the commit has none."""
        known = self._known.known(repo)
        digest = known.digests.get(commit) if known else None
        kept = self._cache.read(digest, limit=MAX_BYTES) if digest else None
        if kept is not None:
            return kept
        if settings.offline():
            raise _not_cached(DOCUMENT[self.kind], f"{repo}, commit {commit[:12]}", self._cache)
        document = self._wire.document(repo, commit)
        if document is not None:
            self._known.note(repo, digests={commit: self._cache.put(document)})
        return document

    def _release_document(self, ref: Ref) -> bytes:
        document = self._cache.read(ref.digest, limit=MAX_BYTES)
        if document is None:
            document = self._document(ref.repo, ref.commit) or b""
        ref.check(hashlib.sha256(document).hexdigest(), file=DOCUMENT[self.kind])
        self._cache.used(ref.digest)
        return document

    def _files(self, ref: Ref) -> tuple[Wanted, ...]:
        return release_files.files_of(self._release_document(ref), source=str(ref))

    def _fill(self, ref: Ref, files: list[Wanted]) -> None:
        """Download what the cache lacks of a release's files."""
        missing = [file for file in files if self._cache.find(file) is None]
        if missing and settings.offline():
            raise _not_cached(errors.names(file.name for file in missing), str(ref), self._cache)
        with progress(sum(file.size for file in missing), what=f"{ref.repo} from {self.address}") as advance:
            for file in missing:
                source = partial(self._wire.stream, ref.repo, ref.commit, file)
                self._cache.fill(file, source, report=advance(file.name))

    def _placed(self, ref: Ref, folder: Path, *, link: bool) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        files = self._files(ref)
        self._fill(ref, list(files))
        for file in files:
            if not self._cache.place(file, folder / file.name, link=link):
                self._repair(ref, file, folder / file.name, link=link)
        (folder / DOCUMENT[self.kind]).write_bytes(self._release_document(ref))
        return folder

    def _repair(self, ref: Ref, file: Wanted, target: Path, *, link: bool) -> None:
        """Download a file again that was damaged in the cache."""
        if not settings.offline():
            self._fill(ref, [file])
            if self._cache.place(file, target, link=link):
                return
        raise _damaged(file, self._cache)


class WritableRemoteStore(RemoteStore):
    """A :class:`~hub_client.release.store.WritableStore` on the network, with a cache."""

    def __init__(self, wire: WritableWire, *, kind: RepoType, cache: Cache) -> None:
        super().__init__(wire, kind=kind, cache=cache)
        self._hub = wire

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Yank a version, or give another reason for it, and return its release; see the protocol."""
        reason = yanks.checked_reason(reason)
        settings.refuse_offline(self.address)
        ref, yank = self._repository(repo).yank(version, reason=reason)
        try:
            self._hub.yank(repo, yank)
        except MovedOn:
            raise errors.TransportError(
                f"somebody else yanked a version of {repo} in {self.address} meanwhile. Nothing was yanked; try again."
            ) from None
        return ref

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository where there is none; InvalidInput if it exists and is public, but private was asked."""
        settings.refuse_offline(self.address)
        self._hub.create(repo, private=private)

    def commit(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        """Store a release folder as the next commit of a repository; see the protocol.

        The commit releases: from then on everybody sees it. Its tag only repeats what its document states; where a push
        died between the two, readers take the head's version from the document, and the next push writes the tag.
        """
        version, digest = version_and_digest(folder, self.kind)
        self.create(repo, private=None)
        repository = self._repository(repo)
        for untagged, commit in repository.untagged().items():
            self._hub.tag(repo, untagged, commit)
        if again := repository.same(version, digest):
            return again
        head = repository.head_for(version, parent)
        change = Change(folder, self._gone(repo, parent, folder), message, head)
        ref = Ref(repo, self._published(repo, change, parent).commit, version, digest, self.address)
        self._check_shown(ref)
        try:
            self._hub.tag(repo, version, ref.commit)
        except errors.TransportError as error:
            _log.warning("%s is released; its tag is still to be written, which the next push does (%s)", ref, error)
        return ref

    def propose(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Proposal:
        """Open a pull request with a release folder, and leave the main branch as it is."""
        _, digest = version_and_digest(folder, self.kind)
        head = self._repository(repo).checked_head(parent)
        change = Change(folder, self._gone(repo, parent, folder), message, head, proposal=True)
        made = self._published(repo, change, parent)
        return Proposal(Ref(repo, made.commit, None, digest, self.address), made.url or self.address)

    def _published(self, repo: str, change: Change, parent: str | None) -> Published:
        try:
            return self._hub.publish(repo, change)
        except MovedOn:
            self._repository(repo).checked_head(parent)
            raise errors.TransportError(
                f"{repo} changed in {self.address} while this was pushed. Nothing was released; push again."
            ) from None

    def _gone(self, repo: str, parent: str | None, folder: Path) -> tuple[str, ...]:
        document = self._document(repo, parent) if parent else None
        before = release_files.files_of(document, source=repo) if document else ()
        return tuple(file.name for file in before if not (folder / file.name).exists())

    def _check_shown(self, ref: Ref) -> None:
        """Read back what was pushed: a hub that shows something else has not released it."""
        document = self._document(ref.repo, ref.commit)
        actual = hashlib.sha256(document).hexdigest() if document is not None else None
        if actual != ref.digest:
            raise errors.IntegrityError(
                f"{self.address} took the push as commit {ref.commit[:12]} but shows another document there. Tell "
                "whoever runs the hub; do not cite this commit.",
                file=DOCUMENT[self.kind],
                expected=ref.digest,
                actual=actual,
            )


def _not_cached(what: str, where: str, cache: Cache) -> errors.TransportError:
    return errors.TransportError(
        f"{what} of {where} is not in the cache {cache.root}, and {settings.OFFLINE} is set. Pull it once with the "
        "network on, or bring it as a file: archzoo bundle there, archzoo pull file.tar here."
    )


def _damaged(file: Wanted, cache: Cache) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file.name} is damaged in the cache {errors.names(cache.roots)}, and could not be fetched again. Run archzoo "
        "cache verify, then pull it with the network on.",
        file=file.name,
        expected=file.sha256,
    )

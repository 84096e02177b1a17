"""Hubs on the network: what they say is checked, and what was fetched once is in the cache.

:class:`RemoteStore` knows releases and the cache; a :class:`Wire` knows how one kind of hub is asked. A release's
document is fetched by commit, its other files by the sha256 that the document names: how a hub lists its files is
never asked, so that it cannot make us write any other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from hub_client import errors
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release import files as release_files
from hub_client.release import yanks
from hub_client.release.files import Wanted
from hub_client.release.names import COMMIT, DIGEST, is_repository, is_version, semver
from hub_client.release.ref import Ref
from hub_client.release.store import DOCUMENT, Entry, Kind, choose, stated_version
from hub_client.store import settings
from hub_client.store.cache.downloads import Cache
from hub_client.store.cache.repositories import Facts, Logged, Notebook
from hub_client.store.network import progress
from hub_client.store.network.stream import Stream

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
    """A commit to be made.

    Attributes
    ----------
    folder
        The release's files.
    gone
        Files of the parent that the release no longer has.
    message
        One line about it.
    parent
        The commit it has to follow; None where the repository has none.
    proposal
        Whether to open a pull request and leave the main branch as it is.
    """

    folder: Path
    gone: tuple[str, ...]
    message: str
    parent: str | None
    proposal: bool = False


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
    """How one kind of hub is asked; ``address`` says where.

    Every verb raises TransportError where the hub cannot be reached or refuses, and IntegrityError where it answers
    something that is not an answer.
    """

    address: str

    def repos(self) -> list[str]:
        """Return the full names of repositories that may hold releases."""
        ...

    def heads(self, repo: str) -> Heads | None:
        """Return a repository's names; None where it does not exist, or we may not know of it."""
        ...

    def log(self, repo: str) -> list[Logged]:
        """Return the commits of the main branch, the newest first."""
        ...

    def document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document; None where it has none."""
        ...

    def stream(self, repo: str, commit: str, file: Wanted, start: int) -> AbstractContextManager[Stream]:
        """Give a file of a commit from a byte on."""
        ...

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository; nothing happens where it exists, unless it is not as private as was asked for."""
        ...

    def publish(self, repo: str, change: Change) -> Published:
        """Make one commit; MovedOn if its parent is no longer the newest."""
        ...

    def tag(self, repo: str, version: str, commit: str) -> None:
        """Give a commit its version's tag."""
        ...

    def yank(self, repo: str, yank: yanks.Yank) -> None:
        """Add to what was yanked, in place of what was said of that version before; MovedOn if somebody was faster."""
        ...


class RemoteStore:
    """A :class:`~hub_client.release.store.Store` on the network, with a cache."""

    def __init__(self, wire: Wire, *, kind: Kind, cache: Cache) -> None:
        self.kind: Kind = kind
        self.address = wire.address
        self._wire = wire
        self._cache = cache
        self._notes = Notebook(cache, self.address, kind)

    # Reading

    def repos(self) -> list[str]:
        """Return the full names of all repositories that may hold a release, sorted; offline, of those in the cache."""
        if settings.offline():
            return self._notes.repos()
        return sorted({name for name in self._wire.repos() if is_repository(name)})

    def holds(self, repo: str) -> bool:
        """Return whether there is a repository of this full name that has a release."""
        if not is_repository(repo):
            return False
        facts = self._seen(repo)
        return facts is not None and bool(facts.branches or facts.tags) and self._released(facts)

    def releases(self, repo: str) -> list[Ref]:
        """Return every released version, the newest last."""
        facts = self._facts(repo)
        versions = self._versions(facts)
        return [self._ref(repo, versions[version], version) for version in sorted(versions, key=semver)]

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several.

        A whole commit or digest that is in the cache is not asked for again: it cannot have changed.
        """
        if ref := self._pinned(repo, revision or ""):
            return ref
        facts = self._facts(repo)
        versions = self._versions(facts)
        if COMMIT.fullmatch(revision or ""):
            commit = str(revision)
        else:
            commit = choose(
                repo,
                revision,
                versions=versions,
                names={**facts.branches, **facts.tags, **facts.proposals},
                history=lambda: self._entries(facts, versions),
                yanked=facts.yanked if revision is None else None,
            )
        return self._ref(repo, commit, _version_of(commit, versions))

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
        facts = self._facts(repo)
        return self._logged(facts, self._versions(facts), self._log(facts))

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        return self._facts(repo).yanked

    # Writing

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Yank a version, or give another reason for it, and return its release; see the protocol."""
        said = yanks.checked_reason(reason)
        settings.refuse_offline(self.address)
        versions = self._versions(self._facts(repo))
        ref = self._ref(repo, choose(repo, version, versions=versions, names={}, history=tuple), version)
        new = yanks.Yank(version=version, digest=ref.digest, reason=said, date=datetime.now(UTC))
        try:
            self._wire.yank(repo, new)
        except MovedOn:
            raise errors.TransportError(
                f"somebody else yanked a version of {repo} in {self.address} meanwhile. Nothing was yanked; try again."
            ) from None
        return ref

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository where there is none; InvalidInput if it exists and is public, but private was asked."""
        settings.refuse_offline(self.address)
        self._wire.create(repo, private=private)

    def commit(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        """Store a release folder as the next commit of a repository; see the protocol.

        The commit releases: from then on everybody sees it. Its tag only repeats what its document says; where a push
        died between the two, readers take the head's version from the document, and the next push writes the tag.
        """
        version, digest = self._stated(folder)
        self.create(repo, private=None)
        facts = self._facts(repo)
        self._finish_last_push(facts)
        taken = self._taken(facts, version)
        if taken and taken.digest == digest:
            return taken
        head = self._checked_head(facts, parent)
        if taken:
            raise errors.TransportError(
                f"{taken} is released already and a released version never changes. Push under another version.",
                ref=taken,
            )
        commit = self._published(repo, Change(folder, self._gone(facts, parent, folder), message, head), parent).commit
        self._check_shown(repo, commit, digest)
        ref = Ref(repo, commit, version, digest, self.address)
        try:
            self._wire.tag(repo, version, commit)
        except errors.TransportError as error:
            _log.warning("%s is released; its tag is still to be written, which the next push does (%s)", ref, error)
        return ref

    def propose(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Proposal:
        """Open a pull request with a release folder, and leave the main branch as it is."""
        _, digest = self._stated(folder)
        facts = self._facts(repo)
        head = self._checked_head(facts, parent)
        change = Change(folder, self._gone(facts, parent, folder), message, head, proposal=True)
        made = self._published(repo, change, parent)
        return Proposal(Ref(repo, made.commit, None, digest, self.address), made.url or self.address)

    def _published(self, repo: str, change: Change, parent: str | None) -> Published:
        try:
            return self._wire.publish(repo, change)
        except MovedOn:
            self._checked_head(self._facts(repo), parent)
            raise errors.TransportError(
                f"{repo} changed in {self.address} while this was pushed. Nothing was released; push again."
            ) from None

    def _stated(self, folder: Path) -> tuple[str, str]:
        document = (folder / DOCUMENT[self.kind]).read_bytes()
        version = stated_version(document)
        if version is None:
            raise errors.ManifestError(f"{folder / DOCUMENT[self.kind]} states no semantic version such as 1.0.0.")
        return version, hashlib.sha256(document).hexdigest()

    def _finish_last_push(self, facts: Facts) -> None:
        for version, commit in self._versions(facts).items():
            if version not in facts.tags:
                self._wire.tag(facts.repo, version, commit)

    def _taken(self, facts: Facts, version: str) -> Ref | None:
        commit = self._versions(facts).get(version)
        return self._ref(facts.repo, commit, version) if commit else None

    def _checked_head(self, facts: Facts, parent: str | None) -> str | None:
        """Return the head that a commit has to follow; TransportError if it holds another release than the parent."""
        head = facts.branches.get("main")
        if head == parent or (parent is None and head is not None and self._document(facts.repo, head) is None):
            return head
        if head is None or self._document(facts.repo, head) is None:
            raise errors.TransportError(
                f"{facts.repo} has no releases yet in the hub {self.address}: push without parent=."
            )
        ref = self._ref(facts.repo, head, _version_of(head, self._versions(facts)))
        raise errors.TransportError(
            f"{facts.repo} has moved on: its head is {ref}, and this push follows {(parent or 'nothing')[:12]}. Pull "
            "again and redo your change on it; or, if it may follow that one as it is, push with "
            f"parent={head[:12]!r}.",
            ref=ref,
        )

    def _gone(self, facts: Facts, parent: str | None, folder: Path) -> tuple[str, ...]:
        document = self._document(facts.repo, parent) if parent else None
        before = release_files.files_of(document, source=facts.repo) if document else ()
        return tuple(file.name for file in before if not (folder / file.name).exists())

    def _check_shown(self, repo: str, commit: str, digest: str) -> None:
        """Read back what was pushed: a hub that shows something else has not released it."""
        document = self._document(repo, commit)
        actual = hashlib.sha256(document).hexdigest() if document is not None else None
        if actual != digest:
            raise errors.IntegrityError(
                f"{self.address} took the push as commit {commit[:12]} but shows another document there. Tell whoever "
                "runs the hub; do not cite this commit.",
                file=DOCUMENT[self.kind],
                expected=digest,
                actual=actual,
            )

    # What is known of a repository

    def _seen(self, repo: str) -> Facts | None:
        """Return what the hub says of a repository, or offline what it last said; None where there is none."""
        if settings.offline():
            return self._notes.known(repo)
        heads = self._wire.heads(repo)
        if heads is None:
            return None
        return self._notes.note(repo, **vars(heads))

    def _facts(self, repo: str) -> Facts:
        facts = self._seen(repo) if is_repository(repo) else None
        if facts is None:
            where = f"the cache has nothing of the {self.kind} repository {repo!r} of the hub"
            absent = where if settings.offline() else f"there is no {self.kind} repository {repo!r} in the hub"
            hint = f" ({settings.OFFLINE} is set)" if settings.offline() else ", or it is private: give a token"
            raise errors.NotFound(f"{absent} {self.address}{hint}.", name=repo)
        return facts

    def _released(self, facts: Facts) -> bool:
        if any(is_version(tag) for tag in facts.tags):
            return True
        head = facts.branches.get("main")
        return head is not None and self._document(facts.repo, head) is not None

    def _versions(self, facts: Facts) -> dict[str, str]:
        """Return version to commit: the tags, and the head's own where a push died before tagging it."""
        versions = {name: commit for name, commit in facts.tags.items() if is_version(name)}
        head = facts.branches.get("main")
        if head is None or head in versions.values():
            return versions
        stated = stated_version(self._document(facts.repo, head) or b"")
        return ({stated: head} if stated else {}) | versions

    def _log(self, facts: Facts) -> tuple[Logged, ...]:
        if settings.offline():
            return facts.log
        return self._notes.note(facts.repo, log=self._wire.log(facts.repo)).log if facts.branches else ()

    def _entries(self, facts: Facts, versions: Mapping[str, str]) -> list[Entry]:
        """Return the commits of the main branch and those that other names point to, each once."""
        log = self._log(facts)
        seen = {one.commit for one in log}
        tips = dict.fromkeys([*facts.branches.values(), *facts.tags.values(), *facts.proposals.values()])
        others = [Logged(commit=tip) for tip in tips if tip not in seen]
        return self._logged(facts, versions, (*log, *others))

    def _logged(self, facts: Facts, versions: Mapping[str, str], log: tuple[Logged, ...]) -> list[Entry]:
        digests = {one.commit: self._digest(facts, one.commit) for one in log}
        return [
            Entry(one.commit, _version_of(one.commit, versions), digest, one.message, one.date)
            for one in log
            if (digest := digests[one.commit])
        ]

    def _digest(self, facts: Facts, commit: str) -> str | None:
        """Return the digest of the release in a commit; None where it holds none, or offline is not in the cache."""
        if commit in facts.digests:
            return facts.digests[commit]
        document = None if settings.offline() else self._document(facts.repo, commit)
        return hashlib.sha256(document).hexdigest() if document is not None else None

    def _pinned(self, repo: str, revision: str) -> Ref | None:
        """Return the release with a whole commit or digest, if the cache has its document."""
        facts = self._notes.known(repo) if COMMIT.fullmatch(revision) or DIGEST.fullmatch(revision) else None
        if facts is None:
            return None
        tagged = {commit: tag for tag, commit in facts.tags.items() if is_version(tag)}
        for commit, digest in sorted(facts.digests.items(), key=lambda one: (one[0] not in tagged, one[0])):
            if revision in (commit, f"sha256:{digest}") and self._cache.read(digest, limit=MAX_BYTES) is not None:
                return Ref(repo, commit, tagged.get(commit), digest, self.address)
        return None

    def _ref(self, repo: str, commit: str, version: str | None) -> Ref:
        document = self._document(repo, commit)
        if document is None:
            raise errors.NotFound(
                f"commit {commit[:12]} of {repo} in {self.address} holds no {DOCUMENT[self.kind]}: it is no release.",
                name=f"{repo}@{commit}",
            )
        if version is not None and stated_version(document) != version:
            raise errors.IntegrityError(
                f"{repo}@{version} in {self.address} points to a release that calls itself "
                f"{stated_version(document)}. Do not use it; tell whoever runs the hub.",
                file=DOCUMENT[self.kind],
                expected=version,
                actual=stated_version(document),
            )
        return Ref(repo, commit, version, hashlib.sha256(document).hexdigest(), self.address)

    # Files

    def _document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document, from the cache where it was seen before; None where the commit has none."""
        facts = self._notes.known(repo)
        digest = facts.digests.get(commit) if facts else None
        kept = self._cache.read(digest, limit=MAX_BYTES) if digest else None
        if kept is not None:
            return kept
        if settings.offline():
            raise _not_cached(DOCUMENT[self.kind], f"{repo}, commit {commit[:12]}", self._cache)
        document = self._wire.document(repo, commit)
        if document is not None:
            self._notes.note(repo, digests={commit: self._cache.put(document)})
        return document

    def _release_document(self, ref: Ref) -> bytes:
        document = self._cache.read(ref.digest, limit=MAX_BYTES)
        if document is None:
            document = self._document(ref.repo, ref.commit) or b""
        actual = hashlib.sha256(document).hexdigest()
        if actual != ref.digest:
            raise errors.IntegrityError(
                f"{DOCUMENT[self.kind]} has sha256 {actual}, but {ref} was asked for. Pull from another hub.",
                file=DOCUMENT[self.kind],
                expected=ref.digest,
                actual=actual,
            )
        self._cache.used(ref.digest)
        return document

    def _files(self, ref: Ref) -> tuple[Wanted, ...]:
        return release_files.files_of(self._release_document(ref), source=str(ref))

    def _fill(self, ref: Ref, files: list[Wanted]) -> None:
        """Download what the cache lacks of a release's files."""
        missing = [file for file in files if self._cache.find(file) is None]
        if missing and settings.offline():
            raise _not_cached(errors.names(file.name for file in missing), str(ref), self._cache)
        with progress.shown(sum(file.size for file in missing), what=f"{ref.repo} from {self.address}") as advance:
            for file in missing:
                self._cache.fill(file, self._source(ref, file), report=advance(file.name))

    def _source(self, ref: Ref, file: Wanted) -> Callable[[int], AbstractContextManager[Stream]]:
        return lambda start: self._wire.stream(ref.repo, ref.commit, file, start)

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


def _version_of(commit: str, versions: Mapping[str, str]) -> str | None:
    return next((version for version, tagged in versions.items() if tagged == commit), None)


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

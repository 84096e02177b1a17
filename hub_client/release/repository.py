"""The releases of one repository, and what may join them: the rules that every place keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from hub_client import errors
from hub_client.release import yanks
from hub_client.release.names import is_version, semver
from hub_client.release.store import DOCUMENT, Entry, Logged, Ref, RepoType, choose, stated_version


@dataclass(frozen=True)
class Repository:
    """A repository as its place shows it at one moment."""

    name: str
    """Its full name."""
    hub: str
    """The address of the place."""
    kind: RepoType
    """What it holds."""
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    """Like branches and proposals, names to commits; the branch of yanks is none of them."""
    document: Callable[[str], bytes | None]
    """Returns a commit's document; None where it has none."""
    digest: Callable[[str], str | None]
    """Returns the sha256 of a commit's document; None where it has none."""
    line: Callable[[str | None], Iterable[Logged]]
    """Returns a commit and those before it, the newest first; none of None."""
    yanked: Callable[[], Mapping[str, str]]
    """Returns the versions that were yanked, and why."""
    proposals: Mapping[str, str] = field(default_factory=dict)
    claimed: bool = False
    """Whether others keep the place, so that a tag is held against the version that its document states."""

    # What is released

    @property
    def head(self) -> str | None:
        """The newest commit of the main branch; None before the first."""
        return self.branches.get("main")

    @property
    def released(self) -> bool:
        """Whether there is a release."""
        return any(map(is_version, self.tags)) or (self.head is not None and self.digest(self.head) is not None)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Version to commit: the tags, and the head's own where a push died before tagging it."""
        tagged = {name: commit for name, commit in self.tags.items() if is_version(name)}
        if self.head is None or self.head in tagged.values():
            return tagged
        stated = stated_version(self.document(self.head) or b"")
        return ({stated: self.head} if stated else {}) | tagged

    def version_of(self, commit: str) -> str | None:
        """Return the version that a commit released, if any."""
        return next((version for version, tagged in self.versions.items() if tagged == commit), None)

    def releases(self) -> list[Ref]:
        """Return every released version, the newest last."""
        return [self.ref(self.versions[version], version) for version in sorted(self.versions, key=semver)]

    def resolve(self, revision: str | None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several."""
        names = {**self.branches, **self.tags, **self.proposals}
        commit = choose(
            self.name,
            revision,
            versions=self.versions,
            names=names,
            history=lambda: self._entries(set(names.values())),
            yanked=self.yanked() if revision is None else None,
        )
        return self.ref(commit, self.version_of(commit))

    def ref(self, commit: str, version: str | None) -> Ref:
        """Return the release in a commit.

        Raises
        ------
        NotFound
            If it holds none.
        IntegrityError
            If its document states another version than its tag.
        """
        digest = self.digest(commit)
        if digest is None:
            raise errors.NotFound(
                f"commit {commit[:12]} of {self.name} in {self.hub} holds no {DOCUMENT[self.kind]}: it is no release.",
                name=f"{self.name}@{commit}",
            )
        stated = stated_version(self.document(commit) or b"") if self.claimed and version is not None else version
        if stated != version:
            raise errors.IntegrityError(
                f"{self.name}@{version} in {self.hub} points to a release that calls itself {stated}. Do not use it; "
                "tell whoever runs the hub.",
                file=DOCUMENT[self.kind],
                expected=version,
                actual=stated,
            )
        return Ref(self.name, commit, version, digest, self.hub)

    def history(self) -> list[Entry]:
        """Return every commit of the main branch, the newest first."""
        return [self._entry(logged) for logged in self.line(self.head)]

    def _entries(self, tips: Iterable[str]) -> list[Entry]:
        """Return the commits of every branch and tag, each once."""
        logged = {one.commit: one for tip in tips for one in self.line(tip)}
        return [self._entry(one) for one in logged.values()]

    def _entry(self, one: Logged) -> Entry:
        return Entry(one.commit, self.version_of(one.commit), self.digest(one.commit) or "", one.message, one.date)

    # What may join

    def untagged(self) -> dict[str, str]:
        """Return the versions that a push released and died before tagging, and their commits."""
        return {version: commit for version, commit in self.versions.items() if version not in self.tags}

    def same(self, version: str, digest: str) -> Ref | None:
        """Return the release that has this version, if it is the very same one."""
        taken = self._taken(version)
        return taken if taken and taken.digest == digest else None

    def head_for(self, version: str, parent: str | None) -> str | None:
        """Return the commit that a new version has to follow.

        A first release follows what a served hub begins a repository with.

        Raises
        ------
        TransportError
            If the head is no longer the parent, or the version is released already.
        """
        head = self.checked_head(parent)
        if taken := self._taken(version):
            raise errors.TransportError(
                f"{taken} is released already and a released version never changes. Push under another version.",
                ref=taken,
            )
        return head

    def checked_head(self, parent: str | None) -> str | None:
        """Return the head, if a release that was made from ``parent`` may follow it; TransportError if not."""
        if self.head == parent or (parent is None and not self.released):
            return self.head
        if self.head is None or not self.released:
            raise errors.TransportError(f"{self.name} has no releases yet in the hub {self.hub}: push without parent=.")
        head = Ref(self.name, self.head, self.version_of(self.head), self.digest(self.head) or "", self.hub)
        raise errors.TransportError(
            f"{self.name} has moved on: its head is {head}, and this push follows {(parent or 'nothing')[:12]}. Pull "
            "again and redo your change on it; or, if it may follow that one as it is, push with "
            f"parent={head.commit[:12]!r}.",
            ref=head,
        )

    def yank(self, version: str, *, reason: str) -> tuple[Ref, yanks.Yank]:
        """Return the release of a version, and what yanks it; NotFound if it is not released."""
        ref = self.ref(choose(self.name, version, versions=self.versions, names={}, history=tuple), version)
        yank = yanks.Yank(version=version, digest=ref.digest, reason=reason, date=datetime.now(UTC))
        return ref, yank

    def _taken(self, version: str) -> Ref | None:
        return self.ref(self.versions[version], version) if version in self.versions else None


def version_and_digest(folder: Path, kind: RepoType) -> tuple[str, str]:
    """Return the version that the document of a release folder states, and its sha256.

    Raises
    ------
    ManifestError
        If it states none.
    """
    document = (folder / DOCUMENT[kind]).read_bytes()
    version = stated_version(document)
    if version is None:
        raise errors.ManifestError(f"{folder / DOCUMENT[kind]} states no semantic version such as 1.0.0.")
    return version, hashlib.sha256(document).hexdigest()

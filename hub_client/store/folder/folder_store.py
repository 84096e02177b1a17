"""The folder hub: git repositories in a folder, large files beside them as git-lfs keeps them.

::

    <root>/<models|datasets>/<owner>/<name>.git     a bare repository
    <root>/<models|datasets>/<owner>/<name>.lock    held by the one who pushes to it

Its branches are ``main`` and, once a release was yanked, ``yanked`` (see :mod:`hub_client.release.yanks`).

A push writes, each on the disk before the next begins: large files, git objects, the branch, the version's tag. Moving
the branch is the one step that releases: until then nobody sees anything of the push, from then on everybody sees all
of it. A tag only repeats what the head's document says; where a push died between branch and tag, readers take the
head's version from its document, and the next push writes the tag first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hub_client import errors
from hub_client.files import atomic, locks
from hub_client.release import yanks as yank_list
from hub_client.release.names import check_new, is_repository, is_version, semver
from hub_client.release.ref import Ref
from hub_client.release.store import DOCUMENT, Entry, Kind, choose, stated_version
from hub_client.store.folder import git, layout


class FolderStore:
    """A :class:`~hub_client.release.store.Store` in a folder that may not exist yet."""

    def __init__(self, root: Path, *, kind: Kind, timeout: float = 120.0) -> None:
        self.kind: Kind = kind
        self.address = str(root)
        self._root = root / kind
        self._timeout = timeout

    def repos(self) -> list[str]:
        """Return the full names of all repositories with at least one release, sorted, also damaged ones."""
        return [repo for repo in layout.repositories(self._root) if self._begun(self._path(repo))]

    def holds(self, repo: str) -> bool:
        """Return whether there is a repository of this name with a release."""
        return repo in self.repos()

    def releases(self, repo: str) -> list[Ref]:
        """Return every released version, the newest last."""
        with self._repository(repo) as repository:
            versions = self._versions(repository)
            return [self._ref(repository, repo, versions[v], v) for v in sorted(versions, key=semver)]

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several."""
        with self._repository(repo) as repository:
            versions = self._versions(repository)
            commit = choose(
                repo,
                revision,
                versions=versions,
                names=_names(repository),
                history=lambda: self._entries(repository, versions),
                yanked=yank_list.reasons(self._yanks(repository)) if revision is None else None,
            )
            return self._ref(repository, repo, commit, _version_of(commit, versions))

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one small file of a release, checked."""
        with self._repository(ref.repo) as repository:
            return repository.read(ref.commit, path)

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write a release's files into a new or empty folder, every hash checked, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._repository(ref.repo) as repository:
            repository.checkout(ref.commit, folder)
        _check_digest(folder / DOCUMENT[self.kind], ref)
        return folder

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give a folder to read a release from while the context lasts."""
        with TemporaryDirectory(prefix="archzoo-") as folder:
            yield self.fetch(ref, Path(folder) / "release")

    def history(self, repo: str) -> list[Entry]:
        """Return every commit, the newest first."""
        with self._repository(repo) as repository:
            versions = self._versions(repository)
            return [self._entry(repository, node, versions) for node in repository.line(repository.head())]

    def commit(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        """Store a release folder as the next commit of a repository; see the protocol and this module's head."""
        path = self._path(repo)
        if not is_repository(repo) or not path.is_dir():
            self._check_new(repo)
        with (
            atomic.writing(f"the hub {self.address}", otherwise="choose another hub with hub="),
            locks.writer(path.with_suffix(".lock"), timeout=self._timeout),
        ):
            git.create(path)
            with git.opened(path) as repository:
                return self._commit(repository, repo, folder, message=message, parent=parent)

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        with self._repository(repo) as repository:
            return yank_list.reasons(self._yanks(repository))

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Yank a version, or give another reason for it, and return its release; see the protocol."""
        reason = yank_list.checked_reason(reason)
        with (
            atomic.writing(f"the hub {self.address}", otherwise="ask whoever owns it"),
            self._repository(repo) as repository,
            locks.writer(self._path(repo).with_suffix(".lock"), timeout=self._timeout),
        ):
            ref = self._ref(repository, repo, self._released(repository, repo, version), version)
            new = yank_list.Yank(version=version, digest=ref.digest, reason=reason, date=datetime.now(UTC))
            kept = [yank for yank in self._yanks(repository) if yank.version != version]
            self._write_yanks(repository, [*kept, new], message=f"Yank {version}: {reason}")
        return ref

    def _released(self, repository: git.Repository, repo: str, version: str) -> str:
        """Return the commit of a version; NotFound if it is not released."""
        versions = self._versions(repository)
        return choose(repo, version, versions=versions, names={}, history=tuple)

    def _yanks(self, repository: git.Repository) -> tuple[yank_list.Yank, ...]:
        commit = repository.branches().get(yank_list.BRANCH)
        return yank_list.read(repository.read(commit, yank_list.FILE), source=self.address) if commit else ()

    def _write_yanks(self, repository: git.Repository, yanks: list[yank_list.Yank], *, message: str) -> None:
        before = repository.branches().get(yank_list.BRANCH)
        with TemporaryDirectory(prefix="archzoo-") as folder:
            (Path(folder) / yank_list.FILE).write_bytes(yank_list.dump(yanks))
            commit = repository.add(Path(folder), message=message, parent=before)
        if not repository.move(f"refs/heads/{yank_list.BRANCH}", before, commit):
            raise errors.TransportError(f"the branch {yank_list.BRANCH} of {self.address} has moved on: try again.")

    def _commit(self, repository: git.Repository, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        data = (folder / DOCUMENT[self.kind]).read_bytes()
        version, digest = stated_version(data), hashlib.sha256(data).hexdigest()
        if version is None:
            raise errors.ManifestError(f"{folder / DOCUMENT[self.kind]} states no semantic version such as 1.0.0.")
        self._finish_last_push(repository)
        taken = self._taken(repository, repo, version)
        if taken and taken.digest == digest:
            repository.store(folder)
            return taken
        parent = self._followed(repository, parent)
        self._check_parent(repository, repo, parent)
        if taken:
            raise errors.TransportError(
                f"{taken} is released already and a released version never changes. Push under another version.",
                ref=taken,
            )
        commit = repository.add(folder, message=message, parent=parent)
        while not repository.advance(parent, commit):
            self._check_parent(repository, repo, parent)
        with suppress(OSError):  # it is released by now; the next push writes the tag
            repository.tag(version, commit)
        return Ref(repo, commit, version, digest, self.address)

    def _followed(self, repository: git.Repository, parent: str | None) -> str | None:
        """Return the commit a push follows: a first release follows what a served hub begins a repository with."""
        head = repository.head()
        first = head is not None and not self._is_release(repository, head) and not self._versions(repository)
        return head if first and parent is None else parent

    def _finish_last_push(self, repository: git.Repository) -> None:
        for version, commit in self._versions(repository).items():
            if version not in repository.tags():
                repository.tag(version, commit)

    def _taken(self, repository: git.Repository, repo: str, version: str) -> Ref | None:
        commit = self._versions(repository).get(version)
        return self._ref(repository, repo, commit, version) if commit else None

    def _check_parent(self, repository: git.Repository, repo: str, parent: str | None) -> None:
        head = repository.head()
        if head == parent:
            return
        if head is None:
            raise errors.TransportError(f"{repo} has no commits yet in the hub {self.address}: push without parent=.")
        version = _version_of(head, self._versions(repository))
        ref = Ref(repo, head, version, self._entry(repository, next(repository.line(head)), {}).digest, self.address)
        raise errors.TransportError(
            f"{repo} has moved on: its head is {ref}, and this push follows {(parent or 'nothing')[:12]}. Pull again "
            f"and redo your change on it; or, if it may follow that one as it is, push with parent={head[:12]!r}.",
            ref=ref,
        )

    def _path(self, repo: str) -> Path:
        return layout.path(self._root, repo)

    def _check_new(self, repo: str) -> None:
        check_new(repo)
        if others := sorted(layout.namesakes(self._root, repo)):
            raise errors.InvalidInput(
                f"{repo} and {others[0]}, which is in the hub {self.address}, differ in case only: many computers take "
                f"them for one. Push to {others[0]}, or choose another name.",
                facts={"repo": repo},
            )

    @contextmanager
    def _repository(self, repo: str) -> Iterator[git.Repository]:
        path = self._path(repo)
        if not is_repository(repo) or not path.is_dir():
            raise errors.NotFound(f"the hub {self.address} has no {self.kind} repository {repo!r}.", name=repo)
        with git.opened(path) as repository:
            yield repository

    def _begun(self, path: Path) -> bool:
        """Return whether a repository has a release; one that is damaged had, and whoever reads it is told."""
        try:
            with git.opened(path) as repository:
                head = repository.head()
                return head is not None and (self._is_release(repository, head) or bool(self._versions(repository)))
        except errors.IntegrityError:
            return True

    def _document(self, repository: git.Repository, commit: str) -> bytes:
        return repository.read(commit, DOCUMENT[self.kind])

    def _versions(self, repository: git.Repository) -> dict[str, str]:
        """Return version to commit: the tags, and the head's own where a push died before tagging it."""
        versions = {name: commit for name, commit in repository.tags().items() if is_version(name)}
        head = repository.head()
        if head is None or head in versions.values() or not self._is_release(repository, head):
            return versions
        stated = stated_version(self._document(repository, head))
        return ({stated: head} if stated else {}) | versions

    def _is_release(self, repository: git.Repository, commit: str) -> bool:
        """Return whether a commit holds a release; a served hub has others too, such as the one it begins with."""
        return DOCUMENT[self.kind] in repository.names(commit)

    def _ref(self, repository: git.Repository, repo: str, commit: str, version: str | None) -> Ref:
        if not self._is_release(repository, commit):
            raise errors.NotFound(
                f"{repo} has no {DOCUMENT[self.kind]} at {commit[:12]}: no release was pushed there yet.", name=repo
            )
        digest = hashlib.sha256(self._document(repository, commit)).hexdigest()
        return Ref(repo, commit, version, digest, self.address)

    def _entry(self, repository: git.Repository, node: git.Node, versions: dict[str, str]) -> Entry:
        released = self._is_release(repository, node.id)
        digest = hashlib.sha256(self._document(repository, node.id)).hexdigest() if released else ""
        return Entry(node.id, _version_of(node.id, versions), digest, node.message, node.date)

    def _entries(self, repository: git.Repository, versions: dict[str, str]) -> list[Entry]:
        """Return the commits of every branch and tag, each once."""
        tips = _names(repository).values()
        nodes = {node.id: node for tip in tips for node in repository.line(tip)}
        return [self._entry(repository, node, versions) for node in nodes.values()]


def _names(repository: git.Repository) -> dict[str, str]:
    """Return branches and tags that hold releases, and their commits."""
    branches = {name: commit for name, commit in repository.branches().items() if name != yank_list.BRANCH}
    return branches | repository.tags()


def _version_of(commit: str, versions: dict[str, str]) -> str | None:
    return next((version for version, tagged in versions.items() if tagged == commit), None)


def _check_digest(path: Path, ref: Ref) -> None:
    actual = atomic.sha256(path)
    if actual != ref.digest:
        raise errors.IntegrityError(
            f"{path.name} has sha256 {actual}, but {ref} was asked for. Pull from another hub.",
            file=path.name,
            expected=ref.digest,
            actual=actual,
        )

"""The folder hub: git repositories in a folder, large files beside them as git-lfs keeps them.

::

    <root>/<models|datasets>/<owner>/<name>.git     a bare repository
    <root>/<models|datasets>/<owner>/<name>.lock    held by the one who pushes to it

Its branches are ``main`` and, once a release was yanked, ``yanked`` (see :mod:`hub_client.release.yanks`).

A push writes, each on the disk before the next begins: large files, git objects, the branch, the version's tag. Moving
the branch is the one step that releases: until then nobody sees anything of the push, from then on everybody sees all
of it. A tag only repeats what the head's document states; where a push died between branch and tag, readers take the
head's version from its document, and the next push writes the tag first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hub_client import errors
from hub_client.files import atomic, locks
from hub_client.release import yanks
from hub_client.release.names import check_new, is_repository
from hub_client.release.repository import Repository, version_and_digest
from hub_client.release.store import DOCUMENT, Entry, Logged, Ref, RepoType
from hub_client.store.folder import git

RECORD = "archzoo/record.json"
"""In a repository's folder, what a served hub knows of it beside its content."""
SERVED = ".serve"
"""In a root, the folder of the server's own files: it is there once the root was served."""
_SUFFIX = ".git"


class FolderStore:
    """A :class:`~hub_client.release.store.WritableStore` in a folder that may not exist yet."""

    def __init__(self, root: Path, *, kind: RepoType, timeout: float = 120.0) -> None:
        self.kind: RepoType = kind
        self.address = str(root)
        self._root = root / kind
        self._timeout = timeout

    def repos(self) -> list[str]:
        """Return the full names of all repositories with at least one release, sorted, also damaged ones."""
        return [repo for repo in repositories(self._root) if self._begun(self._path(repo))]

    def holds(self, repo: str) -> bool:
        """Return whether there is a repository of this name with a release."""
        return is_repository(repo) and self._path(repo).is_dir() and self._begun(self._path(repo))

    def releases(self, repo: str) -> list[Ref]:
        """Return every released version, the newest last."""
        with self._repository(repo) as repository:
            return self._shown(repository, repo).releases()

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several."""
        with self._repository(repo) as repository:
            return self._shown(repository, repo).resolve(revision)

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one small file of a release, checked."""
        with self._repository(ref.repo) as repository:
            return repository.read(ref.commit, path)

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write a release's files into a new or empty folder, every hash checked, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._repository(ref.repo) as repository:
            repository.checkout(ref.commit, folder)
        ref.check(atomic.sha256(folder / DOCUMENT[self.kind]), file=DOCUMENT[self.kind])
        return folder

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give a folder to read a release from while the context lasts."""
        with TemporaryDirectory(prefix="archzoo-") as folder:
            yield self.fetch(ref, Path(folder) / "release")

    def history(self, repo: str) -> list[Entry]:
        """Return every commit, the newest first."""
        with self._repository(repo) as repository:
            return self._shown(repository, repo).history()

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        with self._repository(repo) as repository:
            return self._shown(repository, repo).yanked()

    def private(self, repo: str) -> bool:
        """Return whether a served hub shows a repository to some only.

        Where a root was served, one whose visibility nobody chose counts as private, as it does to the server.
        """
        record = self._path(repo) / RECORD
        try:
            return json.loads(record.read_bytes()).get("private") is not False
        except FileNotFoundError:
            return (self._root.parent / SERVED).exists()
        except (ValueError, AttributeError):  # damaged
            return True

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

    def _commit(self, repository: git.Repository, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        version, digest = version_and_digest(folder, self.kind)
        shown = self._shown(repository, repo)
        for untagged, commit in shown.untagged().items():
            repository.tag(untagged, commit)
        if again := shown.same(version, digest):
            repository.store(folder)
            return again
        head = shown.head_for(version, parent)
        commit = repository.add(folder, message=message, parent=head)
        while not repository.advance(head, commit):
            self._shown(repository, repo).checked_head(parent)
        with suppress(OSError):  # it is released by now; the next push writes the tag
            repository.tag(version, commit)
        return Ref(repo, commit, version, digest, self.address)

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Yank a version, or give another reason for it, and return its release; see the protocol."""
        reason = yanks.checked_reason(reason)
        with (
            atomic.writing(f"the hub {self.address}", otherwise="ask whoever owns it"),
            self._repository(repo) as repository,
            locks.writer(self._path(repo).with_suffix(".lock"), timeout=self._timeout),
        ):
            ref, yank = self._shown(repository, repo).yank(version, reason=reason)
            content = yanks.dump([*yanks.without(self._yanks(repository), version), yank])
            self._write_yanks(repository, content, message=f"Yank {version}: {reason}")
        return ref

    def _yanks(self, repository: git.Repository) -> tuple[yanks.Yank, ...]:
        commit = repository.branches().get(yanks.BRANCH)
        return yanks.read(repository.read(commit, yanks.FILE), source=self.address) if commit else ()

    def _write_yanks(self, repository: git.Repository, content: bytes, *, message: str) -> None:
        before = repository.branches().get(yanks.BRANCH)
        with TemporaryDirectory(prefix="archzoo-") as folder:
            (Path(folder) / yanks.FILE).write_bytes(content)
            commit = repository.add(Path(folder), message=message, parent=before)
        if not repository.move(f"refs/heads/{yanks.BRANCH}", before, commit):
            raise errors.TransportError(f"the branch {yanks.BRANCH} of {self.address} has moved on: try again.")

    def _path(self, repo: str) -> Path:
        return repository_path(self._root, repo)

    def _check_new(self, repo: str) -> None:
        check_new(repo)
        if others := sorted(namesakes(self._root, repo)):
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
        """Return whether a repository has a release; a damaged one counts, and whoever reads it gets the error."""
        try:
            with git.opened(path) as repository:
                return repository.head() is not None and self._shown(repository, path.stem).released
        except errors.IntegrityError:
            return True

    def _shown(self, repository: git.Repository, repo: str) -> Repository:
        def document(commit: str) -> bytes | None:
            name = DOCUMENT[self.kind]  # a served hub has commits without one, such as the one it begins with
            return repository.read(commit, name) if name in repository.names(commit) else None

        def digest(commit: str) -> str | None:
            content = document(commit)
            return None if content is None else hashlib.sha256(content).hexdigest()

        return Repository(
            repo,
            self.address,
            self.kind,
            branches={name: commit for name, commit in repository.branches().items() if name != yanks.BRANCH},
            tags=repository.tags(),
            document=document,
            digest=digest,
            line=lambda tip: (Logged(node.id, node.message, node.date) for node in repository.line(tip)),
            yanked=lambda: yanks.reasons(self._yanks(repository)),
        )


# Where the repositories of one kind lie under a root, for folder hubs and served hubs alike. A root does not take two
# names that differ in case only: on many file systems they are one folder.


def repository_path(root: Path, repo: str) -> Path:
    """Return the folder of a repository, there or not."""
    return root / f"{repo}{_SUFFIX}"


def repositories(root: Path) -> list[str]:
    """Return the full names of what lies there as a repository does, sorted."""
    found = (f"{path.parent.name}/{path.name.removesuffix(_SUFFIX)}" for path in root.glob(f"*/*{_SUFFIX}"))
    return sorted(filter(is_repository, found))


def namesakes(root: Path, repo: str) -> set[str]:
    """Return the repositories in the way of one of this name on a file system that does not regard case.

    They lie where it would, or under an owner whose name differs from its owner's in case only.
    """
    owner, name = f"{repo}{_SUFFIX}".split("/")
    owners = [folder for folder in _entries(root) if folder.name.casefold() == owner.casefold()]
    held = [entry for folder in owners for entry in _entries(folder) if entry.name.endswith(_SUFFIX)]
    entries = [one for one in held if one.parent.name != owner or one.name.casefold() == name.casefold()]
    return {f"{entry.parent.name}/{entry.name.removesuffix(_SUFFIX)}" for entry in entries}


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []

"""The repositories under a root: found, made, renamed, deleted, opened to read and to write."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from hub_client.files import atomic, locks
from hub_client.release.names import is_repository
from hub_client.release.store import RepoType
from hub_client.serve import commit_tree, server_files
from hub_client.serve.refusals import Exists, Refused
from hub_client.serve.repository_names import Place
from hub_client.store.folder import folder_store, git, lfs

OWN = "archzoo"
"""The folder of a repository in which the server keeps what git does not."""
INCOMING = "incoming"
"""The folder beside a repository's large files in which they arrive."""
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Record:
    """What the server knows of a repository beside its content."""

    id: str = ""
    """The repository's for ever: another one of the same name has another. Empty before the server's first write."""
    private: bool = True
    """Whether only tokens for its owner's namespace see it."""
    created: str | None = None
    """ISO 8601, UTC; None where a folder hub made it."""
    creator: str = ""
    """A user's name."""


class Repositories:
    """A root's repositories of both kinds.

    Parameters
    ----------
    root
        The folder hub.
    private
        Whether a repository is private whose record does not state it.
    """

    def __init__(self, root: Path, *, private: bool) -> None:
        self.root = root
        self._private = private

    def path(self, place: Place) -> Path:
        """Return the folder of a repository, there or not."""
        return folder_store.repository_path(self.root / place.kind, str(place))

    def all(self, kind: RepoType) -> list[Place]:
        """Return every repository of a kind, sorted by name."""
        places = (Place.named(kind, repo) for repo in folder_store.repositories(self.root / kind))
        return [place for place in places if (self.path(place) / "HEAD").is_file()]

    def record(self, place: Place) -> Record | None:
        """Return what is known of a repository; None if there is none."""
        if not is_repository(str(place)) or not (self.path(place) / "HEAD").is_file():
            return None
        if (self.root / place.kind.upper()).exists() and str(place) not in self._namesakes(place):
            return None  # where case is not regarded, another owner's repository is not this one's by another spelling
        found = server_files.read_json(self.path(place) / folder_store.RECORD)
        return Record(private=self._private) if found is None else Record(**found)

    def identified(self, place: Place) -> Record:
        """Return a repository's record with its id, which it gets now if it has none yet."""
        record = self._there(place)
        if record.id:
            return record
        with self._locked(place):
            record = self._there(place)
            if not record.id:
                record = replace(record, id=uuid4().hex)
                _write_record(self.path(place), record)
            return record

    def create(self, place: Place, *, private: bool | None, creator: str, url: str) -> None:
        """Make a repository with one commit that holds only git's attributes; it appears whole.

        Raises
        ------
        Exists
            If there is one of this name.
        Refused
            If a name that is taken, or its owner's, differs from this one's in case only.
        """
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(uuid4().hex, self._private if private is None else private, created, creator)
        with self._locked(place):
            self._check_free(place, self._namesakes(place), url=url)
            with self._staged() as staged:
                git.create(staged)
                _begin(staged, author=creator)
                _write_record(staged, record)
                self.path(place).parent.mkdir(parents=True, exist_ok=True)
                staged.rename(self.path(place))
            atomic.sync(self.path(place).parent)

    def delete(self, place: Place) -> None:
        """Remove a repository; from one moment to the next nobody sees it."""
        with self._staged() as gone:
            with self._locked(place):
                self._there(place)
                self.path(place).rename(gone)
                atomic.sync(self.path(place).parent)
            shutil.rmtree(gone)

    def move(self, place: Place, target: Place, *, url: str) -> None:
        """Give a repository another name or owner, in one step."""
        with ExitStack() as held:
            for each in sorted({place, target}):
                held.enter_context(self._locked(each))
            self._there(place)
            self._check_free(target, self._namesakes(target) - ({str(place)} - {str(target)}), url=url)
            self.path(place).rename(self.path(target))
            atomic.sync(self.path(place).parent)
            atomic.sync(self.path(target).parent)

    def show(self, place: Place, *, private: bool) -> None:
        """Set who may see a repository."""
        with self._locked(place):
            record = self._there(place)
            _write_record(self.path(place), replace(record, id=record.id or uuid4().hex, private=private))

    @contextmanager
    def reading(self, place: Place) -> Iterator[git.Repository]:
        """Open a repository that is there."""
        with git.opened(self.path(place)) as repository:
            yield repository

    @contextmanager
    def writing(self, place: Place) -> Iterator[git.Repository]:
        """Open a repository and keep other writers out, those of folder hubs too."""
        with self._locked(place):
            self._there(place)
            with git.opened(self.path(place)) as repository:
                repository.large.staging.mkdir(parents=True, exist_ok=True)
                yield repository

    @contextmanager
    def _locked(self, place: Place) -> Iterator[None]:
        with (
            atomic.writing("this hub", otherwise="ask whoever runs it"),
            locks.writer(self.path(place).with_suffix(".lock"), timeout=_TIMEOUT),
        ):
            yield

    @staticmethod
    def _check_free(place: Place, taken: set[str], *, url: str) -> None:
        if str(place) in taken:
            raise Exists(url)
        if taken:
            raise Refused(
                400, f"{place} and a name that is taken differ in upper and lower case only: choose another name."
            )

    def _namesakes(self, place: Place) -> set[str]:
        return folder_store.namesakes(self.root / place.kind, str(place))

    def _there(self, place: Place) -> Record:
        record = self.record(place)
        if record is None:
            raise Refused(404, f"{place} was deleted or renamed meanwhile.", code="RepoNotFound")
        return record

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """Give a path on the same disk that nobody else uses; what is left there is removed."""
        path = server_files.folder(self.root) / "tmp" / f"{uuid4().hex}.git"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _write_record(repository: Path, record: Record) -> None:
    server_files.write_json(repository / folder_store.RECORD, asdict(record))


def _begin(path: Path, *, author: str) -> None:
    """Make the first commit, so that every later one, the first release too, has a parent to follow."""
    with git.opened(path) as repository:
        repository.large.staging.mkdir(parents=True, exist_ok=True)
        content = commit_tree.write(
            repository, {commit_tree.ATTRIBUTES: commit_tree.stored(repository, lfs.attributes([]))}
        )
        commit = repository.record(content, message="Initial commit", parents=[], author=commit_tree.signature(author))
        repository.advance(None, commit)

"""One bare git repository: commits of flat folders, read with every hash checked and written to last."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from dulwich.errors import ChecksumMismatch, FileFormatException, NotGitRepository
from dulwich.objects import Blob, Commit, ShaFile, Tree
from dulwich.patch import write_object_diff
from dulwich.repo import Repo

from hub_client import errors
from hub_client.files import atomic
from hub_client.release.names import COMMIT, is_file
from hub_client.store.folder import lfs

_BRANCH = "refs/heads/main"
_HEADS = "refs/heads/"
_TAGS = "refs/tags/"
_AUTHOR = b"archzoo <archzoo@localhost>"  # who and where stays with whoever pushed
_FILE = 0o100644
_ATTRIBUTES = ".gitattributes"
_PUSH_AGAIN = "push the release again to repair it"
_RESTORE = "restore the repository from a copy"
_FEW = 8
"""Up to so many objects are written one by one."""
_LOCK_AGE = 1.0  # seconds; git holds a ref's lock for far less


@dataclass(frozen=True)
class Node:
    """One commit: its id and its parent's, 40 hex digits; its message and author; when it was made, UTC."""

    id: str
    parent: str | None
    message: str
    date: datetime
    author: str


def create(path: Path) -> None:
    """Make an empty repository; it appears whole or not at all. The caller holds the repository's lock."""
    if path.exists():
        return
    staged = path.with_name(path.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        Repo.init_bare(str(staged), default_branch=b"main").close()
        staged.rename(path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


@contextmanager
def opened(path: Path) -> Iterator[Repository]:
    """Open a repository and close it again; IntegrityError if there is none at the path."""
    try:
        repo = Repo(str(path))
    except NotGitRepository as error:
        raise _broken(path.name, "is not a whole git repository", advice=_RESTORE) from error
    with repo:
        yield Repository(path, repo)


class Repository:
    """A bare repository whose large files are git-lfs objects."""

    def __init__(self, path: Path, repo: Any) -> None:
        self.path = path
        self.large = lfs.LargeFiles(path)
        self._repo = repo

    # Reading

    def head(self) -> str | None:
        """Return the newest commit of the main branch, or None before the first."""
        return self.branches().get("main")

    def branches(self) -> dict[str, str]:
        """Return branch names and their commits."""
        return self.refs(_HEADS)

    def tags(self) -> dict[str, str]:
        """Return tag names and their commits."""
        return self.refs(_TAGS)

    def refs(self, base: str) -> dict[str, str]:
        """Return the names after ``base``, as in ``refs/heads/``, and their commits."""
        refs = {name.decode(): commit.decode() for name, commit in self._repo.refs.as_dict(base.encode()).items()}
        if wrong := next((name for name, commit in refs.items() if not COMMIT.fullmatch(commit)), None):
            raise _broken(f"{base}{wrong}", "names no commit", advice=_RESTORE)
        return refs

    def line(self, tip: str | None) -> Iterator[Node]:
        """Return a commit and its ancestors, the newest first."""
        while tip is not None:
            commit = self.load(tip.encode(), Commit)
            parent = commit.parents[0].decode() if commit.parents else None
            date = datetime.fromtimestamp(commit.author_time, tz=UTC)
            author = commit.author.decode(errors="replace").partition(" <")[0]
            yield Node(tip, parent, commit.message.decode(errors="replace").strip(), date, author)
            tip = parent

    def names(self, commit: str) -> set[str]:
        """Return the names at the top of a commit's tree."""
        tree = self.load(self.load(commit.encode(), Commit).tree, Tree)
        return {entry.path.decode(errors="replace") for entry in tree.iteritems()}

    def read(self, commit: str, name: str) -> bytes:
        """Return one small file of a commit.

        Raises
        ------
        IntegrityError
            If the commit has no such file, or its bytes are not those that were committed.
        """
        entries = self._entries(commit)
        if name not in entries:
            raise _broken(name, f"is not in commit {commit[:12]}")
        return self.load(entries[name], Blob).as_raw_string()  # type: ignore[no-any-return]

    def diff(self, old: str, new: str, *, most: int) -> str | None:
        """Return what changed between two commits, as git shows it; None if that is longer than ``most`` bytes."""
        trees = [self.load(commit.encode(), Commit).tree for commit in (old, new)]
        store = self._repo.object_store
        changes = list(store.tree_changes(*trees))
        blobs = [sha for _, _, shas in changes for sha in shas if sha]
        if sum(len(self.load(sha, Blob).as_raw_string()) for sha in blobs) > most:
            return None
        written = BytesIO()
        for change in changes:
            write_object_diff(written, store, *zip(*change, strict=True))
        return written.getvalue().decode(errors="replace")

    def checkout(self, commit: str, folder: Path) -> None:
        """Write the files of a commit into a folder, every hash checked.

        Raises
        ------
        IntegrityError
            If a file is missing, has other bytes, or is not a plain file of a plain name.
        """
        for name, sha in self._entries(commit).items():
            data = self.load(sha, Blob).as_raw_string()
            if pointer := lfs.Pointer.parse(data):
                self.large.copy(pointer, folder / name)
            elif name != _ATTRIBUTES:
                (folder / name).write_bytes(data)

    def _entries(self, commit: str) -> dict[str, bytes]:
        tree = self.load(self.load(commit.encode(), Commit).tree, Tree)
        entries = {entry.path.decode(errors="replace"): entry for entry in tree.iteritems()}
        for name, entry in entries.items():
            if entry.mode != _FILE or not (name == _ATTRIBUTES or is_file(name)):
                raise _broken(name, "is not a plain file with a plain name")
        return {name: entry.sha for name, entry in entries.items()}

    def load(self, sha: bytes, kind: type[ShaFile]) -> Any:
        """Return one object; its bytes are hashed here, whichever version of dulwich reads them."""
        advice = _RESTORE if kind is Commit else _PUSH_AGAIN
        try:
            found = self._repo.object_store[sha]
        except KeyError:
            raise _broken(sha.decode(), "is missing", advice=advice) from None
        except (ChecksumMismatch, FileFormatException, zlib.error, ValueError) as error:
            raise _broken(sha.decode(), f"is damaged ({error})", advice=advice) from error
        if not isinstance(found, kind) or kind.from_string(found.as_raw_string()).id != sha:
            raise _broken(sha.decode(), "has other bytes than its name states", advice=advice)
        return found

    # Writing; the caller holds the repository's lock

    def add(self, folder: Path, *, message: str, parent: str | None) -> str:
        """Store a folder as a commit that no branch has yet, and return its id."""
        return self.record(self.store(folder), message=message, parents=[parent] if parent else [])

    def record(self, tree: bytes, *, message: str, parents: list[str], author: bytes = _AUTHOR) -> str:
        """Store a commit of a tree that no branch has yet, and return its id."""
        commit = Commit()
        commit.tree = tree
        commit.parents = [parent.encode() for parent in parents]
        commit.author = commit.committer = author
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding = b"UTF-8"
        commit.message = message.strip().encode() + b"\n"
        return self.put(commit).decode()

    def store(self, folder: Path) -> bytes:
        """Store a folder's files and return the id of their tree; broken copies of them are replaced."""
        self._sweep()
        files = sorted(folder.iterdir())
        pointers = {path.name: self.large.put(path).to_bytes() for path in files if lfs.is_large(path)}
        contents = {path.name: pointers.get(path.name) or path.read_bytes() for path in files}
        tree = Tree()
        for name, data in (contents | {_ATTRIBUTES: lfs.attributes(list(pointers))}).items():
            tree.add(name.encode(), _FILE, self.put(Blob.from_string(data)))
        return self.put(tree)

    def put(self, item: ShaFile) -> bytes:
        """Write one object durably, in git's own layout, unless it is there already."""
        sha: bytes = item.id
        path = self.path / "objects" / sha[:2].decode() / sha[2:].decode()
        if not self.sound(sha, type(item)):
            staged = atomic.stage([item.as_legacy_object()], staging=self.large.staging)
            atomic.publish(staged, path)
        return sha

    def put_all(self, items: Sequence[ShaFile]) -> None:
        """Write several objects durably; many of them as one pack, which reaches the disk in one go."""
        missing = [item for sha, item in {item.id: item for item in items}.items() if not self.sound(sha, type(item))]
        if len(missing) <= _FEW:
            for item in missing:
                self.put(item)
            return
        store = self._repo.object_store
        store.fsync_object_files = True
        store.add_objects([(item, None) for item in missing])
        atomic.sync(self.path / "objects" / "pack")

    def sound(self, sha: bytes, kind: type[ShaFile]) -> bool:
        """Return whether an object of this kind is here, whole."""
        try:
            self.load(sha, kind)
        except errors.IntegrityError:
            return False
        return True

    def _sweep(self) -> None:
        """Remove what a push that died had not finished writing."""
        self.large.staging.mkdir(parents=True, exist_ok=True)
        for path in self.large.staging.iterdir():
            path.unlink()

    def advance(self, old: str | None, new: str) -> bool:
        """Move the main branch from ``old`` to ``new``; False if it was elsewhere."""
        return self.move(_BRANCH, old, new)

    def tag(self, name: str, commit: str) -> bool:
        """Give a commit a tag for good; False if the tag has another commit."""
        return self.move(_TAGS + name, None, commit) or self.tags().get(name) == commit

    def move(self, name: str, old: str | None, new: str) -> bool:
        """Move a ref from ``old`` to ``new`` by git's own protocol, so that git itself keeps out meanwhile."""
        path = self.path / name
        lock = path.with_name(f"{path.name}.lock")
        self._release_stale(lock)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = lock.open("xb")
        except FileExistsError as error:
            raise errors.TransportError(f"{path} is being written by another program; try again.") from error
        try:
            with file:
                file.write(f"{new}\n".encode())
                atomic.flush(file)
            if self.ref(name) != old:
                lock.unlink()
                return False
            lock.replace(path)
        except BaseException:
            lock.unlink(missing_ok=True)
            raise
        atomic.sync(path.parent)
        return True

    def drop(self, name: str, old: str) -> bool:
        """Remove a ref that is at ``old``; False if it was elsewhere."""
        return bool(self._repo.refs.remove_if_equals(name.encode(), old.encode()))

    def ref(self, name: str) -> str | None:
        """Return the commit of a ref by its full name, or None."""
        found = self._repo.refs.read_ref(name.encode())
        return found.decode() if found else None

    def _release_stale(self, lock: Path) -> None:
        """Remove a ref lock whose owner died: no push of ours can hold it now, and git holds one for milliseconds."""
        deadline = time.monotonic() + _LOCK_AGE
        while lock.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        lock.unlink(missing_ok=True)


def _broken(file: str, what: str, *, advice: str = _PUSH_AGAIN) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file} {what}. The hub's copy is damaged: {advice}, or pull from another hub.", file=file
    )

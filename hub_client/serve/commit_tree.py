"""Folders within a commit: paths to objects, back, and two commits merged file by file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dulwich.objects import Blob, Commit, Tree

from hub_client.serve import repository_names
from hub_client.serve.refusals import Refused
from hub_client.store.folder import git, lfs

ATTRIBUTES = ".gitattributes"
_FILE = 0o100644
FILES = (_FILE, 0o100755)
"""Modes of what a commit may hold for us."""
FOLDER = 0o040000


@dataclass(frozen=True)
class Entry:
    """One file or folder of a commit: its path, its object's 40 hex digits, and whether it is a folder."""

    path: str
    id: str
    folder: bool


@dataclass(frozen=True)
class Content:
    """What a file's object holds: its bytes in git, and the pointer they are if the file is large."""

    id: str
    stored: int
    pointer: lfs.Pointer | None

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self.pointer.size if self.pointer else self.stored

    @property
    def etag(self) -> str:
        """The hash that stands for the file: sha256 of a large one, git's own of any other."""
        return self.pointer.sha256 if self.pointer else self.id


def walk(repository: git.Repository, commit: str, *, under: str = "", recursive: bool = True) -> Iterator[Entry]:
    """Return the entries under a folder of a commit, folders before what is in them."""
    root = find(repository, commit, under)
    if root is not None and root.folder:
        yield from _walk(repository, root.id, f"{under}/" if under else "", recursive=recursive)


def _walk(repository: git.Repository, tree: str, prefix: str, *, recursive: bool) -> Iterator[Entry]:
    for entry in _items(repository, tree, prefix):
        yield entry
        if entry.folder and recursive:
            yield from _walk(repository, entry.id, f"{entry.path}/", recursive=True)


def find(repository: git.Repository, commit: str, path: str) -> Entry | None:
    """Return what a commit has at a path, the root for an empty one; None if nothing."""
    found = Entry("", repository.load(commit.encode(), Commit).tree.decode(), True)
    for part in path.split("/") if path else ():
        if not found.folder:
            return None
        wanted = f"{found.path}/{part}" if found.path else part
        prefix = f"{found.path}/" if found.path else ""
        below = next((entry for entry in _items(repository, found.id, prefix) if entry.path == wanted), None)
        if below is None:
            return None
        found = below
    return found


def _items(repository: git.Repository, tree: str, prefix: str) -> Iterator[Entry]:
    """Return the plain files and folders of one tree; links and submodules, which only git can make, are left out."""
    for item in repository.load(tree.encode(), Tree).iteritems():
        if item.mode in (*FILES, FOLDER):
            yield Entry(prefix + item.path.decode(errors="replace"), item.sha.decode(), item.mode == FOLDER)


def files(repository: git.Repository, commit: str) -> dict[str, str]:
    """Return path to object of every file of a commit."""
    return {entry.path: entry.id for entry in walk(repository, commit) if not entry.folder}


def content(repository: git.Repository, blob: str) -> Content:
    """Return what a file's object holds."""
    data = read(repository, blob)
    return Content(blob, len(data), lfs.Pointer.parse(data))


def read(repository: git.Repository, blob: str) -> bytes:
    """Return the bytes of a file's object."""
    return bytes(repository.load(blob.encode(), Blob).as_raw_string())


def file(repository: git.Repository, commit: str, path: str) -> bytes | None:
    """Return a small file of a commit; None where there is none."""
    found = find(repository, commit, path)
    return None if found is None or found.folder else read(repository, found.id)


def stored(repository: git.Repository, data: bytes) -> str:
    """Store bytes as a file's object and return its id."""
    blob = Blob.from_string(data)
    repository.put_all([blob])
    return str(blob.id.decode())


def write(repository: git.Repository, paths: Mapping[str, str]) -> bytes:
    """Store folders with these files, path to object, and return the id of the topmost."""
    trees: list[Tree] = []
    top = _tree(paths, trees)
    repository.put_all(trees)
    return bytes(top)


def _tree(paths: Mapping[str, str], trees: list[Tree]) -> Any:
    tree, below = Tree(), defaultdict[str, dict[str, str]](dict)
    for path, blob in paths.items():
        first, slash, rest = path.partition("/")
        if slash:
            below[first][rest] = blob
        else:
            tree.add(first.encode(), _FILE, blob.encode())
    for name, inside in below.items():
        tree.add(name.encode(), FOLDER, _tree(inside, trees))
    trees.append(tree)
    return tree.id


def signature(user: str) -> bytes:
    """Return a user as git writes an author."""
    return f"{user} <{user}@localhost>".encode()


@dataclass(frozen=True)
class Merged:
    """The files of a merge, path to object, and those that both sides changed differently."""

    paths: dict[str, str]
    conflicts: list[str]


def ancestors(repository: git.Repository, commit: str | None) -> Iterator[str]:
    """Return a commit and everything it follows, over merges too, each once, the nearest first."""
    waiting, seen = [commit] if commit else [], {commit}
    while waiting:
        current = waiting.pop(0)
        yield current
        parents = [parent.decode() for parent in repository.load(current.encode(), Commit).parents]
        new = [parent for parent in parents if parent not in seen]
        seen.update(new)
        waiting += new


def fork(repository: git.Repository, ours: str, theirs: str) -> str | None:
    """Return the nearest commit that both follow."""
    mine = set(ancestors(repository, ours))
    return next((commit for commit in ancestors(repository, theirs) if commit in mine), None)


def merge(repository: git.Repository, ours: str, theirs: str) -> Merged:
    """Return the files of ``ours`` with what ``theirs`` changed since both were one."""
    shared = fork(repository, ours, theirs)
    old = files(repository, shared) if shared else {}
    mine, other = files(repository, ours), files(repository, theirs)
    changed = [path for path in sorted(old.keys() | other.keys()) if old.get(path) != other.get(path)]
    conflicts = [path for path in changed if mine.get(path) not in (old.get(path), other.get(path))]
    paths = {path: blob for path, blob in mine.items() if path not in changed}
    paths |= {path: other[path] for path in changed if path in other}
    return Merged(paths, conflicts or _impossible(paths, changed))


def _impossible(paths: dict[str, str], changed: list[str]) -> list[str]:
    """Return the changed paths if they cannot lie beside the others, as a file that is a folder on the other side."""
    try:
        repository_names.check_together(paths)
    except Refused:
        return changed
    return []

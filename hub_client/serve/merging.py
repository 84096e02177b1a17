"""Merging one commit into another, file by file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dulwich.objects import Commit

from hub_client.serve import commit_tree, repository_names
from hub_client.serve.refusals import Refused
from hub_client.store.folder import git


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
    old = commit_tree.files(repository, shared) if shared else {}
    mine, other = commit_tree.files(repository, ours), commit_tree.files(repository, theirs)
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

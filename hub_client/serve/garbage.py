"""Removes what no branch, tag or pull request refers to any more, while pushes may be under way.

An object is removed only under its repository's lock, and only when nobody has touched it for a while: what is being
uploaded is new, and what is reported to a push as here already is touched then.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dulwich.objects import Tree

from hub_client import errors
from hub_client.release.store import DOCUMENT
from hub_client.serve import commit_tree, server_files
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import INCOMING, OWN, Repositories
from hub_client.store.folder import git

SPARED = 24 * 3600
"""Seconds in which an object may be waiting for its commit."""
_UNFINISHED = "[0-9a-f]" * 32
"""Names of files that were being written; those that stay behind are a killed process's."""


@dataclass(frozen=True)
class Removed:
    """What was removed from a repository: objects, and their bytes; or what is wrong with it, so nothing was."""

    place: str
    objects: int
    bytes: int
    problem: str | None = None


def collect(repositories: Repositories, *, seconds: float = SPARED, dry_run: bool = False) -> Iterator[Removed]:
    """Remove unreferenced objects from every repository, and report what.

    Parameters
    ----------
    repositories
        Of a hub that may be running.
    seconds
        What was touched in the last so many seconds stays.
    dry_run
        Only report what would be removed.
    """
    before = time.time() - seconds
    for kind in DOCUMENT:
        for place in repositories.all(kind):
            yield _collected(repositories, place, before=before, dry_run=dry_run)
    if not dry_run:
        for left, _ in _old((server_files.folder(repositories.root) / "tmp").glob("*"), before=before):
            shutil.rmtree(left, ignore_errors=True)


def _collected(repositories: Repositories, place: Place, *, before: float, dry_run: bool) -> Removed:
    name = f"{place.kind}/{place}"
    try:
        with repositories.writing(place) as repository:
            found = dict(_unreferenced(repository, before=before))
            for path in () if dry_run else found:
                path.unlink(missing_ok=True)
    except errors.HubClientError as error:
        return Removed(name, 0, 0, str(error))
    return Removed(name, len(found), sum(found.values()))


def _unreferenced(repository: git.Repository, *, before: float) -> Iterator[tuple[Path, int]]:
    """Return the files of a repository that nothing needs, and their sizes."""
    objects, large = _needed(repository)
    loose = repository.path.glob(f"objects/{'[0-9a-f]' * 2}/{'[0-9a-f]' * 38}")
    yield from _old((path for path in loose if path.parent.name + path.name not in objects), before=before)
    kept = repository.large.objects.glob(f"*/*/{'[0-9a-f]' * 64}")
    yield from _old((path for path in kept if path.name not in large), before=before)
    for folder in (repository.large.objects.parent / INCOMING, repository.large.staging, repository.path / OWN):
        yield from _old(folder.glob(_UNFINISHED), before=before)
    yield from _old((repository.path / OWN / "discussions").glob(_UNFINISHED), before=before)


def _old(paths: Iterable[Path], *, before: float) -> Iterator[tuple[Path, int]]:
    """Return those that nobody has touched since, and their sizes."""
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            if status.st_mtime < before:
                yield path, status.st_size


def _needed(repository: git.Repository) -> tuple[set[str], set[str]]:
    """Return the git objects and the large files that some ref leads to."""
    objects: set[str] = set()
    large: set[str] = set()
    for tip in set(repository.refs("refs/").values()):
        for commit in commit_tree.ancestors(repository, tip):
            if commit not in objects:
                objects.add(commit)
                _need_tree(repository, commit, objects, large)
    return objects, large


def _need_tree(repository: git.Repository, commit: str, objects: set[str], large: set[str]) -> None:
    root = commit_tree.find(repository, commit, "")
    waiting = [root.id] if root else []
    while waiting:
        current = waiting.pop()
        if current in objects:
            continue
        objects.add(current)
        for item in repository.load(current.encode(), Tree).iteritems():
            child = item.sha.decode()
            if item.mode == commit_tree.FOLDER:
                waiting.append(child)
            elif item.mode in commit_tree.FILES and child not in objects:
                objects.add(child)
                if pointer := commit_tree.content(repository, child).pointer:
                    large.add(pointer.sha256)

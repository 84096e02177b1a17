"""What the cache holds, whether it is intact, and what of it can go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hub_client import errors
from hub_client.files import atomic, locks
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release import files as release_files
from hub_client.release.files import Wanted
from hub_client.release.names import SHA256, is_version
from hub_client.release.store import DOCUMENT, RepoType
from hub_client.store.cache import repositories
from hub_client.store.cache.downloads import Cache
from hub_client.store.cache.repositories import RepositoryRecord

DAY = 24 * 3600.0
YOUNG = 3600.0
"""Seconds in which a file may have come without a release that names it yet."""


@dataclass(frozen=True)
class Kept:
    """A release in the cache: which one, and what of it is here."""

    hub: str
    kind: RepoType
    repo: str
    version: str | None
    commit: str
    digest: str
    files: tuple[Wanted, ...]
    """What it is made of, its document among them."""
    size: int
    """Bytes of those that are here."""
    complete: bool
    """Whether all are."""
    used: float
    """When it was last read, seconds since 1970."""


@dataclass(frozen=True)
class Removal:
    """A file or folder that can go: where it is, its bytes, and why."""

    path: Path
    size: int
    why: str


def kept(cache: Cache) -> list[Kept]:
    """Return the releases whose documents are in the user's own cache, by hub, kind and name."""
    return [one for _, known in repositories.every(cache.root) for one in _kept(Cache(cache.root), known)]


def damaged(cache: Cache) -> Iterator[tuple[Path, str | None]]:
    """Return every file of the user's own cache and what is wrong with it, or None where it is intact."""
    for path in _blobs(cache.root):
        if path.suffix != ".part":
            yield path, _fault(path)


def prune(cache: Cache, *, unused_for: float | None = None, dry_run: bool = False) -> list[Removal]:
    """Remove what nobody needs from the user's own cache, and return it.

    That is: downloads and readings that nobody has gone on with for a day, and files that no release in the cache
    names. What is in use meanwhile is left.

    Parameters
    ----------
    cache
        The cache; a shared one under it is not touched.
    unused_for
        Also releases that were not read for so many seconds; None keeps them all.
    dry_run
        Only report what would be removed.

    Raises
    ------
    TransportError
        If the cache cannot be written.
    """
    old = [] if unused_for is None else [one for one in kept(cache) if one.used < time.time() - unused_for]
    found = [*_abandoned(cache), *_unneeded(cache, old)]
    if not dry_run:
        with atomic.writing(f"the cache {cache.root}", otherwise="leave it as it is"):
            _forget(cache, old)
            for removal in found:
                _remove(cache, removal)
    return found


def _kept(cache: Cache, known: RepositoryRecord) -> Iterator[Kept]:
    tagged = {commit: tag for tag, commit in known.tags.items() if is_version(tag)}
    for commit, digest in known.digests.items():
        document = cache.read(digest, limit=MAX_BYTES)
        if document is None:
            continue
        files = (*_files(document, known), Wanted(DOCUMENT[known.kind], digest, len(document)))
        here = [file.size for file in files if cache.find(file)]
        used = (cache.root / "blobs" / digest[:2] / digest).stat().st_mtime
        yield Kept(
            *(known.hub, known.kind, known.repo, tagged.get(commit), commit, digest),
            *(files, sum(here), len(here) == len(files), used),
        )


def _files(document: bytes, known: RepositoryRecord) -> tuple[Wanted, ...]:
    """Return a release's files; none of one that cannot be read, such as of a format to come."""
    try:
        return release_files.files_of(document, source=known.repo)
    except (errors.IntegrityError, errors.ManifestError):
        return ()


def _blobs(root: Path) -> Iterator[Path]:
    return (path for path in sorted((root / "blobs").glob("*/*")))


def _fault(path: Path) -> str | None:
    if path.is_symlink() or not path.is_file() or not SHA256.fullmatch(path.name):
        return "is not a file of the cache"
    actual = atomic.sha256(path)
    return None if actual == path.name else f"has sha256 {actual}"


def _abandoned(cache: Cache) -> Iterator[Removal]:
    before = time.time() - DAY
    for path in _blobs(cache.root):
        if path.suffix == ".part" and _time(path) < before:
            yield Removal(path, _size(path), "a download that nobody has gone on with for a day")
    for path in sorted([*(cache.root / "opened").glob("*"), *(cache.root / "staged").glob("*")]):
        if _time(path) < before:
            yield Removal(path, _size(path) if path.is_file() else 0, "left by a process that was killed")


def _unneeded(cache: Cache, old: list[Kept]) -> Iterator[Removal]:
    gone = {(one.hub, one.repo, one.commit) for one in old}
    needed = {f.sha256 for one in kept(cache) if (one.hub, one.repo, one.commit) not in gone for f in one.files}
    unused = {file.sha256 for one in old for file in one.files}
    for path in _blobs(cache.root):
        if path.suffix == ".part" or path.name in needed:
            continue
        if path.name in unused:
            yield Removal(path, _size(path), "of a release that was not read for long")
        elif _time(path) < time.time() - YOUNG:
            yield Removal(path, _size(path), "of no release in the cache")


def _forget(cache: Cache, old: list[Kept]) -> None:
    for path, known in repositories.every(cache.root):
        place = (known.hub, known.kind, known.repo)
        if commits := {one.commit for one in old if (one.hub, one.kind, one.repo) == place}:
            repositories.forget(cache, path, commits)


def _remove(cache: Cache, removal: Removal) -> None:
    """Remove a file under its lock, or leave it where somebody downloads it just now."""
    if removal.path.is_dir() and not removal.path.is_symlink():
        shutil.rmtree(removal.path, ignore_errors=True)
        return
    lock = cache.root / "locks" / f"{removal.path.name[:2]}.lock"
    try:
        with locks.held(lock, timeout=0, otherwise="in use"):
            removal.path.unlink(missing_ok=True)
    except errors.TransportError:
        return


def _time(path: Path) -> float:
    return path.lstat().st_mtime


def _size(path: Path) -> int:
    return path.lstat().st_size

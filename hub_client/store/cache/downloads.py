"""The cache: every file that was downloaded, once, under its sha256, whichever release and hub it came from.

::

    <root>/blobs/<aa>/<sha256>                   a file; never changed, only removed
    <root>/blobs/<aa>/<sha256>.part              as much of it as has come
    <root>/hubs/<hub>/<kind>/<owner>/<name>.json what a hub stated of a repository; see repositories.py
    <root>/opened/<random>/                      releases that are being read
    <root>/staged/                               small files that are being written
    <root>/locks/                                held by the one who downloads

Nothing needs symbolic links. A download goes on where it broke off, also in another process after this one was
killed; what came is believed when its sha256 is right. A second cache, which others keep, can lie under this one: it
is looked into and never written to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from hub_client import errors
from hub_client.files import atomic, locks
from hub_client.release.files import Wanted
from hub_client.store import settings
from hub_client.store.network.stream import PAUSES, Dropped, Stream

PATIENCE = 24 * 3600.0
"""Seconds to wait for another process that downloads the same file."""

Source = Callable[[int], AbstractContextManager[Stream]]
"""Gives a file from a byte on."""
Report = Callable[[int], object]
"""Gets how many bytes of a file have come."""


@dataclass(frozen=True)
class Cache:
    """The user's cache at ``root``, and perhaps one that others keep at ``shared``; neither has to exist."""

    root: Path
    shared: Path | None = None

    @classmethod
    def default(cls) -> Cache:
        """Return the cache that the environment and the config file name."""
        return cls(settings.cache_folder(), settings.shared_cache_folder())

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders to look into, the user's own first."""
        return (self.root, self.shared) if self.shared else (self.root,)

    # Reading

    def find(self, wanted: Wanted) -> Path | None:
        """Return where a file lies, unchecked but for its size, or None."""
        return next((path for path in self._places(wanted.sha256) if _plain_size(path) == wanted.size), None)

    def read(self, sha256: str, *, limit: int) -> bytes | None:
        """Return a small file's bytes, checked, or None where no intact one of at most ``limit`` bytes is there."""
        for path in self._places(sha256):
            with suppress(OSError), _opened(path) as file:
                content = file.read(limit + 1)
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content
        return None

    def place(self, wanted: Wanted, target: Path, *, link: bool) -> bool:
        """Write a file to ``target`` and return whether an intact one was there; a damaged one is removed.

        Parameters
        ----------
        wanted
            The file.
        target
            Where to; nothing may be there yet.
        link
            Whether ``target`` is only read: then it may be the cached file itself, by a hard link.
        """
        for path in self._places(wanted.sha256):
            if _plain_size(path) is None:
                continue
            if _placed(path, target, link=link) == wanted.sha256:
                return True
            target.unlink()
            if path.is_relative_to(self.root):
                path.unlink(missing_ok=True)
        return False

    # Writing

    def put(self, content: bytes) -> str:
        """Keep a small file and return its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if self.read(sha256, limit=len(content)) is None:
            with self._writing():
                self.publish(content, self._blob(sha256))
        return sha256

    def publish(self, content: bytes, path: Path) -> None:
        """Write a small file somewhere in the cache, in one step."""
        atomic.publish(atomic.stage([content], staging=self._folder("staged")), path)

    def fill(self, wanted: Wanted, source: Source, *, report: Report = lambda size: None) -> Path:
        """Return where a file lies, after downloading what is missing of it.

        Raises
        ------
        IntegrityError
            If what comes is not the file.
        TransportError
            If it does not come, or cannot be written.
        """
        if found := self.find(wanted):
            return found
        with self._writing(), self._alone(wanted.sha256):
            if (found := self.find(wanted)) is None:
                found = self._downloaded(wanted, source, report)
        return found

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a new folder in the cache, where files can be placed by hard links; it is gone afterwards."""
        with self._writing():
            folder = self._folder("opened", uuid4().hex)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def used(self, sha256: str) -> None:
        """Note that a release is used now, by its document: what is unused for long can be pruned."""
        with suppress(OSError):
            os.utime(self._blob(sha256))

    def _downloaded(self, wanted: Wanted, source: Source, report: Report) -> Path:
        part = self._blob(wanted.sha256).with_suffix(".part")
        self._check_room(part, wanted)
        resumed = _size_or_removed(part, wanted.size) > 0
        _receive(part, wanted, source, report)
        actual = atomic.sha256(part)
        if actual != wanted.sha256 and resumed:  # what an earlier run left was not the beginning of this file
            part.unlink()
            _receive(part, wanted, source, report)
            actual = atomic.sha256(part)
        if actual != wanted.sha256:
            part.unlink()
            raise errors.IntegrityError(
                f"{wanted.name} came with sha256 {actual}, but its release names {wanted.sha256}. It was not kept; "
                "pull from another hub, and tell whoever runs this one.",
                file=wanted.name,
                expected=wanted.sha256,
                actual=actual,
            )
        atomic.publish(part, self._blob(wanted.sha256))
        return self._blob(wanted.sha256)

    def _check_room(self, part: Path, wanted: Wanted) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        missing = wanted.size - (_plain_size(part) or 0)
        if shutil.disk_usage(part.parent).free < missing:
            raise errors.TransportError(
                f"{wanted.name} takes {missing:,} more bytes than the disk of the cache {self.root} has free. Remove "
                f"what is not needed (archzoo cache prune), or name another cache in {settings.CACHE}."
            )

    def _places(self, sha256: str) -> Iterator[Path]:
        return (root / "blobs" / sha256[:2] / sha256 for root in self.roots)

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def _folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _writing(self) -> AbstractContextManager[None]:
        return atomic.writing(f"the cache {self.root}", otherwise=f"name another folder in {settings.CACHE}")

    @contextmanager
    def _alone(self, sha256: str) -> Iterator[None]:
        """Hold the lock of a file; files that begin alike share one, so that there are 256 locks and not millions."""
        held = f"another process has been downloading to {self.root} for a day; end it, then try again."
        with locks.held(self._folder("locks") / f"{sha256[:2]}.lock", timeout=PATIENCE, otherwise=held):
            yield


def _receive(part: Path, wanted: Wanted, source: Source, report: Report) -> None:
    """Append to a part until it has the file's size; a connection that broke off is taken up again while bytes come."""
    pauses = list(PAUSES)
    while (size := _size_or_removed(part, wanted.size)) < wanted.size or not part.exists():
        try:
            with source(size) as stream, _appending(part, stream.start) as file:
                _copy(stream, file, wanted, report)
        except Dropped as dropped:
            if (_plain_size(part) or 0) > size:
                pauses = list(PAUSES)
            if not pauses:
                raise errors.TransportError(
                    f"the connection keeps breaking off while {wanted.name} is on its way. What came is kept: run the "
                    "same again to go on from there."
                ) from dropped
            time.sleep(pauses.pop(0))


def _copy(stream: Stream, file: BinaryIO, wanted: Wanted, report: Report) -> None:
    size = stream.start
    for piece in stream.pieces:
        size += len(piece)
        if size > wanted.size:
            raise errors.IntegrityError(
                f"{wanted.name} goes on after the {wanted.size:,} bytes that its release names. The rest was not read; "
                "pull from another hub.",
                file=wanted.name,
                expected=wanted.size,
                actual=f"more than {wanted.size}",
            )
        file.write(piece)
        report(size)
    atomic.flush(file)
    if size < wanted.size:
        raise Dropped(f"{size} of {wanted.size} bytes")


@contextmanager
def _appending(part: Path, start: int) -> Iterator[BinaryIO]:
    """Give a part to write to from byte ``start`` on; unbuffered, so that what came survives this process."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(part, flags, 0o644), "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        file.truncate(start)
        file.seek(start)
        yield file


def _size_or_removed(part: Path, size: int) -> int:
    """Return how much of a file has come; whatever else lies at its place is removed."""
    found = _plain_size(part)
    if found is not None and found <= size:
        return found
    part.unlink(missing_ok=True)
    return 0


def _plain_size(path: Path) -> int | None:
    """Return the size of a plain file, or None where there is none; links are not followed."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        yield file


def _placed(path: Path, target: Path, *, link: bool) -> str:
    """Link or copy a file and return the sha256 of what lies at ``target`` then."""
    if link:
        with suppress(OSError, NotImplementedError):  # other disks and systems: a copy
            os.link(path, target, follow_symlinks=False)
            return atomic.sha256(target)
    digest = hashlib.sha256()
    with _opened(path) as source, target.open("xb") as file:
        while piece := source.read(1 << 20):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()

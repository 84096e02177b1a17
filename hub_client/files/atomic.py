"""Files and folders that appear whole or not at all, whatever happens to the process that writes them.

Bytes are written to a stage beside their place, brought to the disk, and renamed in one step. A name that replaces
another does so in one system call, so that at every moment the old or the new one is there, complete.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from hub_client import errors

STALE = 24 * 3600
"""Seconds after which a stage nobody finished is taken for a killed writer's."""
OWNER_ONLY = 0o600
"""The mode of a file that nobody but its owner may read."""
_EVERYBODY = 0o666
_CHUNK = 1 << 20
_REFUSED = {
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "is read-only for you: check its permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "has no room left: free some space"),
}
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a system answers that cannot do what was asked of it."""
_HERE = -100
_SWAP = 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux; ``RENAME_SWAP`` of macOS has the same number."""


@contextmanager
def writing(place: str, *, otherwise: str) -> Iterator[None]:
    """Turn an operating system's refusal to write into a TransportError that states what to do.

    Parameters
    ----------
    place
        What is being written, as in ``the hub /data/hub``.
    otherwise
        What the user can do instead, as in ``choose another hub with hub=``.

    Raises
    ------
    TransportError
        In place of any OSError that is not one of ours.
    """
    try:
        yield
    except errors.HubClientError:
        raise
    except OSError as error:
        reason = _REFUSED.get(error.errno or 0, f"cannot be written ({error.strerror or error}): check its path")
        raise errors.TransportError(f"{place} {reason}, or {otherwise}. Nothing was changed.") from error


# Reading


def chunks(path: Path) -> Iterator[bytes]:
    """Return the file's bytes, piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def sha256(path: Path) -> str:
    """Return the file's sha256, 64 hex digits."""
    digest = hashlib.sha256()
    for piece in chunks(path):
        digest.update(piece)
    return digest.hexdigest()


# Files


def create(path: Path, pieces: Iterable[bytes | bytearray | memoryview], *, mode: int = _EVERYBODY) -> None:
    """Write a new file, on the disk when this returns; nothing stays behind if it fails.

    Parameters
    ----------
    path
        Where nothing may be yet: a link is not followed.
    pieces
        Its bytes.
    mode
        Who may read it, less what the process's umask takes away.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.writelines(pieces)
            flush(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def stage(pieces: Iterable[bytes], *, staging: Path, mode: int = _EVERYBODY) -> Path:
    """Return a new file in ``staging`` with these bytes, as :func:`create` writes it."""
    path = staging / uuid4().hex
    create(path, pieces, mode=mode)
    return path


def publish(staged: Path, path: Path) -> None:
    """Give a staged file its final name, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(path)
    sync(path.parent)


def write(path: Path, content: bytes, *, mode: int = _EVERYBODY) -> None:
    """Write a file in place of what was there, on the disk when this returns; its folder is there."""
    publish(stage([content], staging=path.parent, mode=mode), path)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Give a new file beside ``path`` that takes its place when the block ends well; errors as :func:`staged`."""
    with _beside(path.resolve()) as (new, path):
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        publish(new, path)


def carry(path: Path, target: Path) -> None:
    """Give a file a second name on the same disk; a copy where the disk has no such thing."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


# Folders


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` that takes its place when the block ends well.

    What was at ``folder`` is exchanged in one system call (Linux, macOS), so that a complete folder is there at every
    moment; only then is it removed. If the block raises, nothing has changed and nothing is left behind; what a killed
    process left behind is removed by the first writer a day later.

    Raises
    ------
    TransportError
        If the folder cannot be written: no permission, read-only, disk full.
    """
    with _beside(folder.resolve()) as (new, folder):
        new.mkdir()
        yield new
        sync(new)
        if folder.exists():
            exchange(new, folder)
        else:
            new.rename(folder)
        sync(folder.parent)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """Give a name beside ``path`` under which nothing stays when the block ends, and ``path``."""
    with writing(str(path), otherwise="choose another place"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        new = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        try:
            yield new, path
        finally:
            _remove(new)


def _sweep(path: Path) -> None:
    """Remove the stages of writers that were killed, known by their age: no lock is sure on every cluster's disk."""
    for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE:
                _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def exchange(left: Path, right: Path) -> None:
    """Swap two folders, in one system call where there is one."""
    if not _exchanged(left, right):
        renamed_thrice(left, right)


def renamed_thrice(left: Path, right: Path) -> None:
    """Swap two folders where no system call does; for a moment ``right`` is absent."""
    aside = left.with_name(f"{left.name}.old")
    right.rename(aside)
    left.rename(right)
    aside.rename(left)


def _exchanged(left: Path, right: Path) -> bool:
    """Return whether the system swapped the two; False where it has no call for it."""
    if sys.platform not in ("linux", "darwin"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(left), os.fsencode(right)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_HERE, a, _HERE, b, _SWAP)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(a, b, _SWAP)
    else:
        return False
    code = ctypes.get_errno()
    if failed and code not in _UNKNOWN:
        raise OSError(code, os.strerror(code), str(right))
    return not failed


# The disk


def flush(file: IO[Any]) -> None:
    """Bring what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Make a folder's entries durable; a system that cannot open folders keeps them safe itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Make sure that a new file of ``size`` bytes has room at ``path``; nothing is left there.

    Raises
    ------
    OSError
        If it has not, by the disk's size, a quota or a limit; systems that do not know let it pass.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    finally:
        path.unlink(missing_ok=True)

"""Folders that appear whole or not at all, also when the process is killed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from hub_client import errors

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` that takes its place when the block ends well.

    What was at ``folder`` is exchanged in one system call (Linux, macOS), so that a complete folder is there at every
    moment; only then is it removed. If the block raises, nothing has changed and nothing is left behind.

    Raises
    ------
    TransportError
        If the folder cannot be written: no permission, read-only, disk full.
    """
    try:
        folder = folder.resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        stage.mkdir()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield stage
        _settle(stage, folder)
    except OSError as error:
        if isinstance(error, errors.HubClientError):
            raise
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write(path: Path, content: bytes | bytearray | memoryview) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _settle(stage: Path, folder: Path) -> None:
    _sync(stage)
    if folder.exists():
        exchange(stage, folder)
    else:
        stage.rename(folder)
    _sync(folder.parent)


def exchange(left: Path, right: Path) -> None:
    """Swap two folders: in one system call where there is one, else by three renames."""
    if not _exchanged(left, right):
        aside = left.with_name(left.name + ".old")
        right.rename(aside)
        left.rename(right)
        aside.rename(left)


def _exchanged(left: Path, right: Path) -> bool:
    """Return whether the system swapped the two; False where it has no call for it."""
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(left), os.fsencode(right)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)
    elif sys.platform == "darwin":
        failed = library.renamex_np(a, b, _RENAME_SWAP)
    else:
        return False
    code = ctypes.get_errno()
    if failed and code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(right))
    return not failed


def _sync(folder: Path) -> None:
    """Make a folder's entries durable; systems that cannot open folders keep them safe themselves."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> errors.TransportError:
    reason = error.strerror or str(error)
    return errors.TransportError(
        f"{folder} cannot be written: {reason}. Nothing was changed; free some space or choose another folder.",
        ref=folder,
    )

"""Folders and files that appear whole or not at all, also when the process is killed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

from hub_client import errors

STALE = 24 * 3600
"""Seconds after which a stage nobody finished is taken for a killed writer's."""
_HERE = -100
_SWAP = 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux; ``RENAME_SWAP`` of macOS has the same number."""
_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


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
    folder = folder.resolve()
    with _refusals(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with _stage(folder) as stage:
            yield stage
            _settle(stage, folder)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Give a new file beside ``path`` that takes its place when the block ends well; errors as :func:`staged`."""
    path = path.resolve()
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        try:
            yield stage
            with stage.open("rb") as file:
                os.fsync(file.fileno())
            stage.replace(path)
            sync(path.parent)
        finally:
            stage.unlink(missing_ok=True)


def write(path: Path, content: bytes | bytearray | memoryview) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, errors.HubClientError):
            raise
        raise errors.TransportError(
            f"{folder} cannot be written: {error.strerror or error}. Nothing was changed; free some space, or choose "
            "another folder.",
            ref=folder,
        ) from error


@contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """Give an empty folder that is gone, whatever it holds then, when the block ends."""
    stage = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove the stages of writers that were killed, known by their age: no lock is sure on every cluster's disk."""
    for stage in folder.parent.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 32}.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - stage.stat().st_mtime > STALE:
                shutil.rmtree(stage, ignore_errors=True)


def _settle(stage: Path, folder: Path) -> None:
    sync(stage)
    if folder.exists():
        exchange(stage, folder)
    else:
        stage.rename(folder)
    sync(folder.parent)


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
    if failed and code not in _NO_SWAP:
        raise OSError(code, os.strerror(code), str(right))
    return not failed


def sync(folder: Path) -> None:
    """Make a folder's entries durable; a system that cannot open folders keeps them safe itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

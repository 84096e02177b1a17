"""One writer at a time, for each repository of a folder hub and each file that is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hub_client import errors


def writer(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Hold the lock file of a repository; errors as :func:`held`."""
    waited = f"another push has held {path} for {timeout:g} seconds; wait for it to end, then push again."
    return held(path, timeout=timeout, otherwise=waited)


@contextmanager
def held(path: Path, *, timeout: float, otherwise: str) -> Iterator[None]:
    """Hold the lock file at ``path``; the kernel lets go of it if this process dies.

    Parameters
    ----------
    path
        The lock file; its folder is made.
    timeout
        Seconds to wait for another who holds it.
    otherwise
        The error's message if that is not enough.

    Raises
    ------
    TransportError
        If another still holds it after ``timeout`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise errors.TransportError(otherwise) from None
    try:
        yield
    finally:
        lock.release()

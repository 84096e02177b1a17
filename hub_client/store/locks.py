"""One writer at a time for each repository of a folder hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hub_client import errors


@contextmanager
def writer(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock file at ``path``; the kernel lets go of it if this process dies.

    Parameters
    ----------
    path
        The lock file; its folder is made.
    timeout
        Seconds to wait for another writer.

    Raises
    ------
    TransportError
        If another writer still holds it after ``timeout`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise errors.TransportError(
            f"another push has held {path} for {timeout:g} seconds; wait for it to end, then push again."
        ) from None
    try:
        yield
    finally:
        lock.release()

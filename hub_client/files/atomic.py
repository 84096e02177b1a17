"""Files that appear whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from hub_client import errors
from hub_client.files.folders import sync

__all__ = ["chunks", "publish", "reserve", "sha256", "stage", "sync", "writing"]

_CHUNK = 1 << 20
_REFUSED = {
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "is read-only for you: check its permissions"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "has no room left: free some space"),
}


_CANNOT_TELL = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def writing(place: str, *, otherwise: str) -> Iterator[None]:
    """Turn an operating system's refusal to write into a TransportError that says what to do.

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


def reserve(path: Path, size: int) -> None:
    """Make sure that a new file of ``size`` bytes has room at ``path``; nothing is left there.

    Raises
    ------
    OSError
        If it has not, by the disk's size, a quota or a limit; systems that cannot tell let it pass.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_TELL:
            raise
    finally:
        path.unlink(missing_ok=True)


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


def stage(pieces: Iterable[bytes], *, staging: Path) -> Path:
    """Write bytes to a new file in ``staging``, on the disk when this returns; nothing stays behind if it fails."""
    path = staging / uuid4().hex
    try:
        with path.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def publish(staged: Path, path: Path) -> None:
    """Give a staged file its final name, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(path)
    sync(path.parent)

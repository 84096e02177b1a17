"""Large files of a repository, kept by sha256 the way git-lfs keeps them; git itself sees pointers.

The layout is git-lfs' own (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md), so that ``git clone`` with
git-lfs gives identical bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hub_client import errors
from hub_client.files import atomic
from hub_client.release.names import SHA256

SUFFIXES = (".safetensors", ".zip")
THRESHOLD = 1 << 20
"""Bytes from which any other file is large."""

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:(%b)\nsize (0|[1-9]\d{0,18})\n"
    % SHA256.pattern.encode()
)


@dataclass(frozen=True)
class Pointer:
    """What git holds in place of a large file."""

    sha256: str
    size: int

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return the pointer that ``data`` is, or None."""
        match = _POINTER.fullmatch(data)
        return cls(match[1].decode(), int(match[2])) if match else None

    def to_bytes(self) -> bytes:
        """Return the pointer file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


def is_large(path: Path) -> bool:
    """Return whether a file is kept out of git; JSON and Markdown, which people compare, never are."""
    if path.suffix in (".json", ".md"):
        return False
    return path.suffix in SUFFIXES or path.stat().st_size >= THRESHOLD


def attributes(large: list[str]) -> bytes:
    """Return the ``.gitattributes`` under which git gives back exactly the bytes that were pushed."""
    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    patterns += sorted(name for name in large if not name.endswith(SUFFIXES))
    lines = ["* -text", *(f"{pattern} filter=lfs diff=lfs merge=lfs -text" for pattern in patterns)]
    return ("\n".join(lines) + "\n").encode()


class LargeFiles:
    """The large files under ``<repository>/lfs``."""

    def __init__(self, repository: Path) -> None:
        self.objects = repository / "lfs" / "objects"
        self.staging = repository / "lfs" / "tmp"

    def path(self, sha256: str) -> Path:
        """Return where a file is kept, there or not."""
        return self.objects / sha256[:2] / sha256[2:4] / sha256

    def size(self, sha256: str) -> int | None:
        """Return how many bytes a file has that is here; None if it is not."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, source: Path) -> Pointer:
        """Store a file and return its pointer; a broken copy of it is replaced."""
        self.staging.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        staged = atomic.stage(_hashed(source, digest.update), staging=self.staging)
        pointer = Pointer(digest.hexdigest(), staged.stat().st_size)
        target = self.path(pointer.sha256)
        if target.exists() and atomic.sha256(target) == pointer.sha256:
            staged.unlink()
        else:
            atomic.publish(staged, target)
        return pointer

    def copy(self, pointer: Pointer, target: Path) -> None:
        """Write the file a pointer stands for to ``target``.

        Raises
        ------
        IntegrityError
            If the stored file is missing or has other bytes.
        """
        source, digest = self.path(pointer.sha256), hashlib.sha256()
        if not source.is_file():
            raise _broken(target.name, expected=pointer.sha256, actual=None)
        with target.open("xb") as file:
            file.writelines(_hashed(source, digest.update))
        if digest.hexdigest() != pointer.sha256:
            target.unlink()
            raise _broken(target.name, expected=pointer.sha256, actual=digest.hexdigest())


def _hashed(source: Path, update: Callable[[bytes], object]) -> Iterator[bytes]:
    for piece in atomic.chunks(source):
        update(piece)
        yield piece


def _broken(name: str, *, expected: str, actual: str | None) -> errors.IntegrityError:
    found = f"has sha256 {actual}" if actual else "is missing from the hub"
    return errors.IntegrityError(
        f"{name} should have sha256 {expected} but {found}. The hub's copy is damaged: push the release again "
        "to repair it, or pull it from another hub.",
        file=name,
        expected=expected,
        actual=actual,
    )

"""How much a file, a commit and a namespace may hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from hub_client.release.store import DOCUMENT
from hub_client.serve.refusals import Refused

LARGEST_REGULAR = 10 * 2**20
"""Bytes of a file that is kept in git itself."""
LARGEST_COMMIT = 2**30
"""Bytes of a commit's request, in which files that are kept in git are written out."""
LARGEST_JSON = 8 * 2**20
MOST_FILES = 50_000
"""Files of one commit."""


class Quota:
    """Limits of a root; uploads that are under way count by the size they announce.

    Parameters
    ----------
    root
        The folder hub.
    file
        Bytes of the largest file.
    namespace
        Bytes of all repositories of an owner; None is no limit.
    """

    def __init__(self, root: Path, *, file: int, namespace: int | None) -> None:
        self._root = root
        self._file = file
        self._namespace = namespace
        self._arriving: Counter[str] = Counter()
        self._lock = Lock()

    def check(self, owner: str, size: int) -> None:
        """Refuse a file that is too large, or for which its namespace has no room."""
        if size > self._file:
            raise Refused(413, f"The file has {size:,} bytes, more than the {self._file:,} this hub takes.")
        if self._namespace is None:
            return
        used = self.used(owner) + self._arriving[owner]
        if used + size > self._namespace:
            raise Refused(
                413,
                f"The namespace {owner} holds {used:,} of its {self._namespace:,} bytes: {size:,} more do not fit. "
                "Delete what is not needed and have `archzoo serve gc` run, or ask for a larger quota.",
            )

    @contextmanager
    def room(self, owner: str, size: int) -> Iterator[None]:
        """Keep room for an upload while it arrives; Refused if there is none."""
        with self._lock:
            self.check(owner, size)
            self._arriving[owner] += size
        try:
            yield
        finally:
            with self._lock:
                self._arriving[owner] -= size

    def used(self, owner: str) -> int:
        """Return how many bytes an owner's repositories have on the disk."""
        return sum(_size(self._root / kind / owner) for kind in DOCUMENT)


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total

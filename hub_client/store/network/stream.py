"""A file on its way, however it travels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts, where the network or the server failed."""


@dataclass(frozen=True)
class Stream:
    """A file on its way: the first byte that comes, the headers of the hub itself, and the pieces."""

    start: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class Dropped(Exception):
    """A connection broke off while a file was on its way; it can be resumed."""

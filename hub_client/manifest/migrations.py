"""Older manifest formats brought forward, one step a function: pure, ``dict -> dict``, tensors untouched.

A step rewrites what it recognises and leaves the rest to validation, which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def from_0_9(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of the 0.9 draft as format 1.0.

    The draft kept ``genes`` as a flat list of symbols, and spelt ``licence``.
    """
    moved = {_RENAMED_AFTER_0_9.get(key, key): value for key, value in raw.items()}
    if isinstance(genes := raw.get("genes"), list):
        moved["genes"] = {"id_type": "symbol", "panel": [{"symbol": symbol} for symbol in genes]}
    return moved | {"schema_version": "1.0"}


_RENAMED_AFTER_0_9 = {"licence": "license", "data_licence": "data_license"}

MIGRATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"0.9": from_0_9}

"""JSON from outside, read strictly: no repeated keys, no NaN, no nesting bombs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn


def strict(data: bytes | str, *, limit: int) -> Any:
    """Return what the JSON text holds.

    Parameters
    ----------
    data
        UTF-8 bytes, or text.
    limit
        The most bytes (or characters) that are read.

    Raises
    ------
    ValueError
        If it is longer than ``limit``, not UTF-8, not JSON, repeats a key, holds NaN or an infinity, or nests too
        deeply. The message is a clause that follows the file's name.
    """
    if len(data) > limit:
        raise ValueError(f"is larger than the {limit:,} bytes that are read")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        text.encode("utf-8")
        found = _parsed(text)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise ValueError("is not UTF-8 text, or escapes half a character") from None
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("nests too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"repeats the key {_repeated(key for key, _ in pairs)!r}")
    return found


def _repeated(keys: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"holds {text[:20]}, which is beyond a 64-bit float")
    return value

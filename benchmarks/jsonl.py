"""Results of benchmarks as lines of JSON, a row each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the fields of each row in a file, none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows in their order: all of them, or, when killed, those that were there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    part.replace(path)

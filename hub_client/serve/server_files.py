"""Small files of the server's own: written whole or not at all, and nobody else may read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hub_client import errors
from hub_client.files import atomic

FOLDER = ".serve"


def folder(root: Path) -> Path:
    """Return the folder of the server's own files, which only its owner may enter."""
    path = root / FOLDER
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_json(path: Path, value: Any) -> None:
    """Write JSON in place of what was there, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps(value, indent=1, ensure_ascii=False).encode(), mode=atomic.OWNER_ONLY)


def read_json(path: Path) -> Any:
    """Return a file's JSON, or None where there is no file.

    Raises
    ------
    IntegrityError
        If it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise errors.IntegrityError(f"{path} is damaged ({error}). Restore it from a copy.", file=path.name) from error

"""Small files of the server's own: written whole or not at all, or line by line, and nobody else may read them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hub_client import errors
from hub_client.files import atomic
from hub_client.store.folder.folder_store import SERVED

AUDIT = "audit.jsonl"


def folder(root: Path) -> Path:
    """Return the folder of the server's own files, which only its owner may enter."""
    path = root / SERVED
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


class Audit:
    """The audit log: who did what to which repository, one JSON object a line, without secrets.

    The file is opened anew for each line, so that logrotate may move it away at any time.
    """

    def __init__(self, root: Path) -> None:
        self._path = folder(root) / AUDIT

    def write(self, **facts: object) -> None:
        """Append one line: the time, and every fact that is not None."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | facts
        line = json.dumps({key: value for key, value in record.items() if value is not None}, ensure_ascii=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, atomic.OWNER_ONLY)
        try:
            os.write(descriptor, line.encode() + b"\n")  # one system call: lines of two processes do not mix
        finally:
            os.close(descriptor)

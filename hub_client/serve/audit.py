"""The audit log: who did what to which repository, one JSON object a line, without secrets.

The file is opened anew for each line, so that logrotate may move it away at any time.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from hub_client.files import atomic
from hub_client.serve import server_files

FILE = "audit.jsonl"


class Audit:
    """Appends to ``<root>/.serve/audit.jsonl``."""

    def __init__(self, root: Path) -> None:
        self._path = server_files.folder(root) / FILE

    def write(self, **facts: object) -> None:
        """Append one line: the time, and every fact that is not None."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | facts
        line = json.dumps({key: value for key, value in record.items() if value is not None}, ensure_ascii=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, atomic.OWNER_ONLY)
        try:
            os.write(descriptor, line.encode() + b"\n")  # one system call: lines of two processes do not mix
        finally:
            os.close(descriptor)

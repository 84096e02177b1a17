"""Rewrite messages about Python's arguments for the command's options."""

from __future__ import annotations

import re

OPTIONS = {"conditions": "--condition", "labels": "--labels", "accelerator": "--device", "device": "--device"} | {
    name: f"--{name.replace('_', '-')}"
    for name in ("hub", "layer", "min_coverage", "parent", "start", "unknown_above", "version")
}
"""Argument of a verb to the option that sets it."""

_COLUMNS = re.compile(r"\b(conditions|labels)=\{(?:'([^']+)': )?[^}]*\}")
_FLAG = re.compile(r"\boverwrite=True\b")
_VALUE = re.compile(rf"\b({'|'.join(OPTIONS)})=(?:'([^']*)')?")


def as_options(message: str) -> str:
    """Return a message with ``layer='raw'`` as ``--layer raw``, and so on."""
    message = _COLUMNS.sub(lambda found: f"{OPTIONS[found[1]]} {found[2] or 'KEY'}=COLUMN", message)
    message = _FLAG.sub("--force", message)
    return _VALUE.sub(lambda found: " ".join(filter(None, [OPTIONS[found[1]], found[2]])), message)

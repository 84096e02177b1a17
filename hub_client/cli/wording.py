"""What messages say about Python's arguments, said about the command's options."""

from __future__ import annotations

import re

OPTIONS = {"conditions": "--condition", "labels": "--labels", "overwrite": "--force"} | {
    name: f"--{name.replace('_', '-')}" for name in ("hub", "layer", "min_coverage", "unknown_above", "version")
}
"""Argument of a verb to the option that sets it."""

_COLUMN = re.compile(r"\b(conditions|labels)=\{'([^']+)': [^}]*\}")
_FLAG = re.compile(r"\b(overwrite)=True\b")
_VALUE = re.compile(r"\b(hub|layer|min_coverage|unknown_above|version)=(?:'([^']*)')?")


def as_options(message: str) -> str:
    """Return a message with ``layer='raw'`` as ``--layer raw``, and so on."""
    message = _COLUMN.sub(lambda found: f"{OPTIONS[found[1]]} {found[2]}=COLUMN", message)
    message = _FLAG.sub(lambda found: OPTIONS[found[1]], message)
    return _VALUE.sub(lambda found: " ".join(filter(None, [OPTIONS[found[1]], found[2]])), message)

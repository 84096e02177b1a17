"""Markdown and YAML written safely: what a manifest states is shown, never interpreted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_BREAKS_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAKS_TEXT = re.compile(r"[\\`*\[\]|]")


def yaml(value: dict[str, Any], *, indent: int = 0) -> str:
    """Return a mapping as block YAML with every scalar written as JSON does, so that no text can change type."""
    return "".join(f"{' ' * indent}{key}:{_yaml_value(item, indent)}" for key, item in value.items())


def _yaml_value(value: Any, indent: int) -> str:
    if isinstance(value, dict):
        return "\n" + yaml(value, indent=indent + 2)
    if isinstance(value, list | tuple):
        return "\n" + "".join(f"{' ' * indent}- {_yaml_item(item, indent + 2)}" for item in value)
    return f" {scalar(value)}\n"


def _yaml_item(value: Any, indent: int) -> str:
    return yaml(value, indent=indent).lstrip(" ") if isinstance(value, dict) else f"{scalar(value)}\n"


def scalar(value: str | float | bool | None) -> str:
    """Return one YAML scalar: quoted text, or a number as JSON writes it."""
    return _BREAKS_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def text(value: object) -> str:
    """Return text that Markdown shows as it is, in one line."""
    plain = _BREAKS_TEXT.sub(lambda found: "\\" + found[0], " ".join(str(value).split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def prose(value: str) -> str:
    """Return an author's paragraphs: Markdown stays, HTML is shown and not obeyed."""
    return value.strip().replace("<", "&lt;")


def code(value: object) -> str:
    """Return a code span, in one line."""
    plain = " ".join(str(value).split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{pad}{plain}{pad}{ticks}"


def fence(value: str, *, language: str) -> str:
    """Return a fenced block that its content cannot close."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", value)), default=0))
    return f"{ticks}{language}\n{value.strip()}\n{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already, without empty columns; no content gives no table."""
    kept = [list(row) for row in rows]
    columns = [index for index in range(len(header)) if any(row[index] for row in kept)]
    if not columns:
        return ""
    lines = [[header[index] for index in columns], ["---"] * len(columns)]
    lines += [[row[index] for index in columns] for row in kept]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

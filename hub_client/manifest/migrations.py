"""Older manifest formats brought forward, one step a function: pure, ``dict -> dict``, tensors untouched.

A step rewrites what it recognises and leaves the rest to validation, which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def from_1_0(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1.0 as format 1.1.

    Format 1.0 named the genes of terms, and the proteins that a batch measured, by their position in the panel.
    """
    moved = raw | {"schema_version": "1.1"}
    if isinstance(genes := raw.get("genes"), dict) and isinstance(raw.get("terms"), list):
        own = "id" if genes.get("id_type") == "ensembl" else "symbol"
        names = [gene.get(own) if isinstance(gene, dict) else None for gene in _entries(genes.get("panel"))]
        moved["terms"] = [_with_names(term, "genes", names) for term in raw["terms"]]
    if isinstance(proteins := raw.get("proteins"), dict) and isinstance(measured := proteins.get("measured"), dict):
        panel = _entries(proteins.get("panel"))
        moved["proteins"] = proteins | {"measured": {batch: _named(at, panel) for batch, at in measured.items()}}
    return moved


def _with_names(record: Any, key: str, names: Sequence[Any]) -> Any:
    return record | {key: _named(record[key], names)} if isinstance(record, dict) and key in record else record


def _named(positions: Any, names: Sequence[Any]) -> Any:
    """Return names in the place of positions; validation names those that the list has not, and what is no position."""
    return [_name(at, names) if type(at) is int else at for at in _entries(positions)]


def _name(position: int, names: Sequence[Any]) -> Any:
    return names[position] if 0 <= position < len(names) else f"position {position}"


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else []


def migrated(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of an older format as the current one; a current or newer one, or none at all, as it is."""
    while isinstance(version := raw.get("schema_version"), str) and (step := MIGRATIONS.get(version)):
        raw = step(raw)
    return raw


MIGRATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"0.9": from_0_9, "1.0": from_1_0}
"""The step from each older format to the one after it."""

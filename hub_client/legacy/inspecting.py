"""What is in a folder that scArches saved, told without making anything of it: nothing is executed, however hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_client.legacy import folders
from hub_client.legacy.folders import Contents
from hub_client.legacy.importing import kind_of
from hub_client.legacy.pickles import printable

PLAIN = (str, int, float, type(None))
UNTOLD = "?"
"""Stands for a name that is no plain text or number."""
LONGEST = 8
"""Items of a list that is told as a setting."""


@dataclass(frozen=True)
class Inspection:
    """What a folder says.

    Attributes
    ----------
    kind
        The kind of model; None if it is none that can be imported.
    conditions, labels
        Condition key and label level to categories.
    programs
        How many gene programs it has, by how they came to be.
    settings
        Further attributes that are a number, a text or a short list of them.
    contents
        Files, names, tensors and genes.
    """

    kind: str | None
    conditions: dict[str, list[str]]
    labels: dict[str, list[str]]
    programs: dict[str, int]
    settings: dict[str, Any]
    contents: Contents

    @property
    def refused(self) -> tuple[str, ...]:
        """What its files ask for and no saved model needs."""
        return tuple(asked.name for asked in self.contents.asked if not asked.allowed)


def inspect(path: str | Path) -> Inspection:
    """Return what a folder says that scArches saved, without loading it.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged. One that asks for what no model needs is told of in ``refused``.
    """
    contents = folders.look(Path(path).expanduser())
    said = contents.attributes
    return Inspection(
        kind=kind_of(said),
        conditions=_conditions(said),
        labels=_labels(said),
        programs={name: count for name, count in _programs(said).items() if count},
        settings={_text(name.rstrip("_")): value for name, value in sorted(said.items()) if _is_setting(name, value)},
        contents=contents,
    )


def _conditions(said: Mapping[str, Any]) -> dict[str, list[str]]:
    known = said.get("conditions_")
    if isinstance(known, dict):
        return {_text(key): _texts(names) for key, names in known.items()}
    return {_text(said.get("condition_key_")): _texts(known)} if known else {}


def _labels(said: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of each level; scArches keeps the levels of each label."""
    found: dict[str, list[str]] = {}
    types = said.get("cell_types_")
    for name, levels in types.items() if isinstance(types, dict) else ():
        for level in _texts(levels):
            found.setdefault(level, []).append(_text(name))
    return found


def _programs(said: Mapping[str, Any]) -> dict[str, int]:
    mask = said.get("mask_")
    return {
        "annotated": len(mask) if isinstance(mask, list) else 0,
        "constrained": _count(said.get("n_ext_m_")),
        "unconstrained": _count(said.get("n_ext_")),
    }


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


_TOLD = {"conditions_", "condition_key_", "condition_keys_", "conditions_combined_", "cell_types_", "cell_type_keys_"}
_TOLD |= {"ext_mask_", "input_dim_", "labeled_indices_", "mask_", "n_ext_", "n_ext_m_"}
"""Attributes that are told in words of ours, or are long."""


def _is_setting(name: str, value: Any) -> bool:
    if name in _TOLD or not name.endswith("_"):
        return False
    items = value if isinstance(value, list) else [value]
    return len(items) <= LONGEST and all(isinstance(item, PLAIN) for item in items)


def _texts(values: Any) -> list[str]:
    return list(map(_text, values)) if isinstance(values, Iterable) and not isinstance(values, str) else [_text(values)]


def _text(value: Any) -> str:
    return printable(str(value)) if isinstance(value, PLAIN) else UNTOLD

"""What is in a folder that scArches or scvi-tools saved: nothing is executed to tell it, however hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub_client import errors
from hub_client.interop import scarches_files, scvi_files, scvi_models
from hub_client.interop.import_legacy import kind_of
from hub_client.interop.pickles import printable
from hub_client.interop.scarches_files import Asked, Contents

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


def inspect(path: str | Path, *, prefix: str = "") -> Inspection:
    """Return what a folder says that scArches or scvi-tools saved, without loading it.

    Parameters
    ----------
    path
        The folder.
    prefix
        What scvi-tools was told to begin its files' names with.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged. One that asks for what no model needs is told of in ``refused``.
    """
    place = Path(path).expanduser()
    if scvi_files.is_saved(place, prefix=prefix):
        return _of_scvi_tools(place, prefix)
    contents = scarches_files.look(place)
    said = contents.attributes
    return Inspection(
        kind=kind_of(said),
        conditions=_conditions(said),
        labels=_labels(said),
        programs={name: count for name, count in _programs(said).items() if count},
        settings={_text(name.rstrip("_")): value for name, value in sorted(said.items()) if _is_setting(name, value)},
        contents=contents,
    )


def _of_scvi_tools(folder: Path, prefix: str) -> Inspection:
    """Return what scvi-tools saved; where its files ask for what no model needs, that alone."""
    asked = scvi_files.asked(folder, prefix=prefix)
    if not all(one.allowed for one in asked):
        return Inspection(None, {}, {}, {}, {}, Contents({}, asked, None, (), None))
    saved = scvi_files.read(folder, prefix=prefix)
    kind = _known_kind(saved)
    if kind is None and saved.is_old:
        return Inspection(None, {}, {}, {}, {}, _contents(saved, asked))
    said = scvi_models.outlined(saved)
    return Inspection(
        kind=kind,
        conditions={_text(key): _texts(names) for key, names in said.conditions.items()},
        labels={_text(key): _texts(names) for key, names in said.labels.items()},
        programs={},
        settings={"scvi-tools": _text(said.version)}
        | {_text(name): _told(value) for name, value in sorted(said.parameters.items()) if _is_short(value)},
        contents=_contents(saved, asked),
    )


def _contents(saved: scvi_files.Saved, asked: tuple[Asked, ...]) -> Contents:
    genes = np.concatenate([*saved.genes.values()]) if isinstance(saved.genes, dict) else saved.genes
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.state.items()}
    return Contents(saved.attributes, asked, shapes, tuple(map(str, genes)), saved.cells)


def _known_kind(saved: scvi_files.Saved) -> str | None:
    try:
        return scvi_files.kind_of(saved)
    except errors.Unsupported:
        return None


def _told(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


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
    return name not in _TOLD and name.endswith("_") and _is_short(value)


def _is_short(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return len(items) <= LONGEST and all(isinstance(item, PLAIN) for item in items)


def _texts(values: Any) -> list[str]:
    return list(map(_text, values)) if isinstance(values, Iterable) and not isinstance(values, str) else [_text(values)]


def _text(value: Any) -> str:
    return printable(str(value)) if isinstance(value, PLAIN) else UNTOLD

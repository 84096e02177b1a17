"""inspect(): describe a folder that scArches or scvi-tools saved; nothing in it is executed, however hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hub_client import errors
from hub_client.interop import scarches_files, scvi_files, scvi_models
from hub_client.interop.import_legacy import kind_of
from hub_client.interop.pickles import printable
from hub_client.interop.scarches_files import Contents

PLAIN = (str, int, float, type(None))
UNREADABLE = "?"
"""Stands for a name that is no plain text or number."""
LONGEST = 8
"""Items of a list that is shown as a setting."""


@dataclass(frozen=True)
class Inspection:
    """What a folder holds."""

    kind: str | None
    """The kind of model; None if it is none that can be imported."""
    conditions: dict[str, list[str]]
    labels: dict[str, list[str]]
    """Condition key and label level to categories."""
    programs: dict[str, int]
    """How many gene programs it has, by how they came to be."""
    settings: dict[str, Any]
    """Further attributes that are a number, a text or a short list of them."""
    contents: Contents
    """Files, names, tensors and genes."""

    @property
    def refused(self) -> tuple[str, ...]:
        """What its files ask for and no saved model needs."""
        return tuple(request.name for request in self.contents.requests if not request.allowed)


def inspect(path: str | Path, *, prefix: str = "") -> Inspection:
    """Return what a folder holds that scArches or scvi-tools saved, without loading it.

    Parameters
    ----------
    path
        The folder.
    prefix
        What the names of scvi-tools' files begin with: the ``prefix`` of its ``save``.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged. What a file asks for and no model needs is in ``refused``.
    """
    place = Path(path).expanduser()
    if scvi_files.is_saved(place, prefix=prefix):
        return _of_scvi_tools(place, prefix)
    contents = scarches_files.look(place)
    attributes = contents.attributes
    return Inspection(
        kind=kind_of(attributes),
        conditions=_conditions(attributes),
        labels=_labels(attributes),
        programs=_programs(attributes),
        settings={
            _text(name.rstrip("_")): value
            for name, value in sorted(attributes.items())
            if name not in _SHOWN_OTHERWISE and name.endswith("_") and _is_short(value)
        },
        contents=contents,
    )


def _of_scvi_tools(folder: Path, prefix: str) -> Inspection:
    """Return what scvi-tools saved; where its files ask for what no model needs, that alone."""
    requests = scvi_files.requests(folder, prefix=prefix)
    if not all(request.allowed for request in requests):
        return Inspection(None, {}, {}, {}, {}, Contents({}, requests, None, (), None))
    saved = scvi_files.read(folder, prefix=prefix)
    genes = np.concatenate([*saved.genes.values()]) if isinstance(saved.genes, dict) else saved.genes
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.state.items()}
    contents = Contents(saved.attributes, requests, shapes, tuple(map(str, genes)), saved.cells)
    kind = None
    with suppress(errors.Unsupported):
        kind = scvi_files.kind_of(saved)
    if kind is None and saved.is_old:
        return Inspection(None, {}, {}, {}, {}, contents)
    outline = scvi_models.outlined(saved)
    shown = {"scvi-tools": outline.version}
    shown |= {_text(name): value for name, value in sorted(outline.parameters.items()) if _is_short(value)}
    return Inspection(
        kind=kind,
        conditions={_text(key): _texts(names) for key, names in outline.conditions.items()},
        labels={_text(key): _texts(names) for key, names in outline.labels.items()},
        programs={},
        settings={name: _text(value) if isinstance(value, str) else value for name, value in shown.items()},
        contents=contents,
    )


def _conditions(attributes: Mapping[str, Any]) -> dict[str, list[str]]:
    known = attributes.get("conditions_")
    if isinstance(known, dict):
        return {_text(key): _texts(names) for key, names in known.items()}
    return {_text(attributes.get("condition_key_")): _texts(known)} if known else {}


def _labels(attributes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of each level; scArches keeps the levels of each label."""
    labels: dict[str, list[str]] = {}
    types = attributes.get("cell_types_")
    for name, levels in types.items() if isinstance(types, dict) else ():
        for level in _texts(levels):
            labels.setdefault(level, []).append(_text(name))
    return labels


def _programs(attributes: Mapping[str, Any]) -> dict[str, int]:
    mask, extensions = attributes.get("mask_"), {"constrained": "n_ext_m_", "unconstrained": "n_ext_"}
    counts: dict[str, Any] = {"annotated": len(mask) if isinstance(mask, list) else 0}
    counts |= {kind: attributes.get(name) for kind, name in extensions.items()}
    return {kind: count for kind, count in counts.items() if isinstance(count, int) and count}


_SHOWN_OTHERWISE = {"conditions_", "condition_key_", "condition_keys_", "conditions_combined_", "cell_types_"}
_SHOWN_OTHERWISE |= {"cell_type_keys_", "ext_mask_", "input_dim_", "labeled_indices_", "mask_", "n_ext_", "n_ext_m_"}
"""Attributes that are shown in words of ours, or are long."""


def _is_short(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return len(items) <= LONGEST and all(isinstance(item, PLAIN) for item in items)


def _texts(values: Any) -> list[str]:
    return list(map(_text, values)) if isinstance(values, Iterable) and not isinstance(values, str) else [_text(values)]


def _text(value: Any) -> str:
    return printable(str(value)) if isinstance(value, PLAIN) else UNREADABLE

"""Turn scArches' scPoli into ours: attributes into a manifest, state into tensors. Pure functions, no files.

Names and layouts are those of scArches 0.6.1 (Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7). Attributes are
those it saves, with their trailing underscore. Its versions 0.5.6 to 0.5.8 had one condition key, under other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hub_client import errors
from hub_client.interop.scarches_vaes import (
    QUERY,
    Attributes,
    State,
    added,
    described,
    layer_tensors,
    layers_of,
    network_names,
    shared_fields,
    tensor,
    transposed,
)
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Manifest, PrototypeLevel

OLD_NAMES = {"embedding.weight": "embeddings.0.weight"}
"""What tensors were called when there was one condition key."""


def manifest_of(
    attributes: Attributes, genes: Sequence[str], *, name: str, unlabelled: int = 0, reference: Attributes | None = None
) -> Manifest:
    """Return the manifest of a scArches scPoli.

    Parameters and errors are those of :func:`hub_client.interop.trvae.manifest_of`. Of the reference ``conditions_``,
    ``conditions_combined_`` and ``cell_types_`` are read: what it lacks is the query's and can be trained, its own is
    frozen. ``unlabelled`` counts the unlabelled prototypes.
    """
    attributes = modern(attributes)
    old = attributes if reference is None else modern(reference)
    levels = [_level(key, attributes, old) for key in attributes["cell_type_keys_"] or () if _labels(key, attributes)]
    prototypes = [PrototypeLevel.of(position, level["key"]) for position, level in enumerate(levels)]
    fields = {
        **shared_fields(attributes, genes, name=name, reference=reference),
        "architecture": {
            "kind": "scpoli",
            **layers_of(attributes),
            "latent": attributes["latent_dim_"],
            "inject": attributes["inject_condition_"],
        },
        "conditions": [_condition(position, attributes, old) for position in range(len(attributes["conditions_"]))],
        "combinations": _combinations(attributes, old),
        "labels": levels,
        "prototypes": {"levels": prototypes, "unlabelled": unlabelled},
    }
    return described(fields, what="scPoli")


def tensors_of(
    state: State, attributes: Attributes, *, labelled: State | None = None, unlabelled: State | None = None
) -> dict[str, Tensor]:
    """Return our network's tensors (float32) from scArches' state.

    Theta is transposed to ``(combinations, genes)``. Embedding rows longer than ``embedding_max_norm_`` are shortened,
    which scArches does when it looks them up. scArches does not save how many cells a prototype stands for: 1 is taken.

    Parameters
    ----------
    state
        Every tensor of scArches' ``state_dict``.
    attributes
        What scArches saved of the model.
    labelled
        Its labelled prototypes: ``mean`` ``(labels, latent)`` and ``cov`` ``(labels, latent, latent)``.
    unlabelled
        Its unlabelled prototypes: ``mean`` ``(prototypes, latent)``.

    Raises
    ------
    ManifestError
        If the state holds a tensor that a scPoli with these attributes does not have.
    """
    attributes, state = modern(attributes), {OLD_NAMES.get(name, name): values for name, values in state.items()}
    embeddings = [f"embeddings.{i}" for i in range(len(attributes["condition_keys_"]))]
    tables = {"theta", *(f"{name}.weight" for name in embeddings)}
    layers = {name: values for name, values in state.items() if name not in tables}
    tensors = layer_tensors(layers, network_names(attributes), what="scPoli")
    longest = attributes["embedding_max_norm_"]
    for name in embeddings:
        rows = tensor(state[f"{name}.weight"])
        if longest is not None:
            torch.embedding_renorm_(rows, torch.arange(len(rows)), longest, 2.0)
        tensors[f"{name}.rows"] = rows
    if "theta" in state:
        tensors["theta.rows"] = transposed(state["theta"])
    latent = int(attributes["latent_dim_"])
    means = torch.zeros(0, latent) if unlabelled is None else tensor(unlabelled["mean"]).reshape(-1, latent)
    return tensors | _labelled(labelled, attributes, latent) | {"unlabelled": means}


def modern(attributes: Attributes) -> Attributes:
    """Return the attributes by the names scArches has had since 0.5.9: before, there was one condition key."""
    if "condition_keys_" in attributes:
        return attributes
    key, known = attributes["condition_key_"], list(attributes["conditions_"])
    return {
        **attributes,
        "condition_keys_": [] if key is None else [key],
        "conditions_": {} if key is None else {key: known},
        "conditions_combined_": known,
        "embedding_dims_": [attributes["embedding_dim_"]],
    }


def relative_uncertainty(distances: ArrayLike) -> NDArray[np.float64]:
    """Return distances scaled to [0, 1] over the given cells, as scArches' ``scale_uncertainties``.

    It scales by the quartiles and then by the extremes; the first is undone by the second.
    """
    values = np.asarray(distances, dtype=np.float64)
    span = np.ptp(values) if values.size else 0.0
    scaled: NDArray[np.float64] = (values - values.min(initial=np.inf)) / (span or 1.0)
    return scaled


# --- the manifest ----------------------------------------------------------------------------------------------------


def _condition(position: int, attributes: Attributes, old: Attributes) -> dict[str, Any]:
    column = attributes["condition_keys_"][position]
    encoding = {"kind": "embedding", "dim": attributes["embedding_dims_"][position]}
    return {
        "key": key_of(column),
        "categories": _categories(column, attributes),
        "encoding": encoding | {"max_norm": attributes["embedding_max_norm_"]},
        "added_in": added(_categories(column, attributes), _categories(column, old)),
    }


def _categories(column: str, attributes: Attributes) -> list[str]:
    return [str(value) for value in attributes["conditions_"][column]]


def _combinations(attributes: Attributes, old: Attributes) -> list[dict[str, Any]]:
    columns = list(attributes["condition_keys_"])
    if len(columns) < 2:
        return []
    axes = [_categories(column, attributes) for column in columns]
    known = set(old["conditions_combined_"])
    return [
        {"values": _split(joined, axes), "added_in": None if joined in known else QUERY}
        for joined in attributes["conditions_combined_"]
    ]


def _split(joined: str, axes: list[list[str]]) -> tuple[str, ...]:
    """Return the one category per key that, joined by ``_``, make ``joined``."""
    found = list(_splits(joined, axes))
    if len(found) == 1:
        return found[0]
    raise errors.ManifestError(
        f"the combined condition {joined!r} is {len(found)} combinations of the conditions' values, not one. "
        "Rename values so that joining them by '_' is unambiguous, and train again.",
        path="combinations",
        problems=[" + ".join(values) for values in found],
    )


def _splits(joined: str, axes: list[list[str]]) -> Iterator[tuple[str, ...]]:
    if len(axes) == 1:
        yield from ((value,) for value in axes[0] if value == joined)
        return
    for value in axes[0]:
        if joined.startswith(f"{value}_"):
            yield from ((value, *rest) for rest in _splits(joined[len(value) + 1 :], axes[1:]))


def _level(column: str, attributes: Attributes, old: Attributes) -> dict[str, Any]:
    categories = _labels(column, attributes)
    return {
        "key": key_of(column),
        "categories": categories,
        "ontology": dict.fromkeys(categories),
        "unlabelled": next(iter(attributes.get("unknown_ct_names_") or ()), None),
        "added_in": added(categories, _labels(column, old)),
    }


def _labels(column: str, attributes: Attributes) -> list[str]:
    """Return the labels of one level; scArches keeps those of all levels in one list."""
    return [str(name) for name, columns in attributes["cell_types_"].items() if column in columns]


# --- the tensors -----------------------------------------------------------------------------------------------------


def _labelled(prototypes: State | None, attributes: Attributes, latent: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    names = [str(name) for name in attributes["cell_types_"]]
    levels = [labels for key in attributes["cell_type_keys_"] or () if (labels := _labels(key, attributes))]
    for i, labels in enumerate(levels):
        rows = [names.index(label) for label in labels]
        tensors |= {f"prototypes.{i}.{part}": value for part, value in _table(prototypes, rows, latent).items()}
    return tensors


def _table(prototypes: State | None, rows: list[int], latent: int) -> dict[str, Tensor]:
    if prototypes is None:
        sizes = {"means": (len(rows), latent), "covariances": (len(rows), latent, latent), "cells": (len(rows),)}
        return {part: torch.zeros(size) for part, size in sizes.items()}
    means, covariances = tensor(prototypes["mean"]), torch.nan_to_num(tensor(prototypes["cov"]))
    return {
        "means": _padded(means, rows),
        "covariances": _padded(covariances, rows),
        "cells": (torch.tensor(rows) < len(means)).float(),  # a label that surgery added has none before training
    }


def _padded(values: Tensor, rows: list[int]) -> Tensor:
    """Return rows of a tensor, zeros for those beyond its end."""
    missing = max(rows) + 1 - len(values)
    return torch.cat([values, values.new_zeros(max(missing, 0), *values.shape[1:])])[rows]

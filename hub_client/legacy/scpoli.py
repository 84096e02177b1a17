"""scArches' scPoli to ours: its attributes to a manifest, its state to our tensors. Pure functions, no files.

Names and layouts are those of scArches 0.6.1 (Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7). Attributes are
those it saves, with their trailing underscore. Its versions 0.5.6 to 0.5.8 had one condition key, under other names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from torch import Tensor

from hub_client import errors
from hub_client.manifest._frozen import problems
from hub_client.manifest.v1 import Manifest, PrototypeLevel

Attributes = Mapping[str, Any]
State = Mapping[str, ArrayLike | Tensor]

REFERENCE, QUERY = "1.0.0", "1.1.0"
"""The versions given to a model trained from scratch, and to one that surgery made of it."""
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}")
OLD_NAMES = {"embedding.weight": "embeddings.0.weight"}
"""What tensors were called when there was one condition key."""
OUTPUTS = {"mse": "decoder.recon_decoder.0"}
"""What scArches calls the decoder's last layer, where it is not ``mean_decoder``."""


def manifest_of(
    attributes: Attributes,
    genes: Sequence[str],
    *,
    name: str,
    unlabelled: int = 0,
    reference: Attributes | None = None,
) -> Manifest:
    """Return the manifest of a scArches scPoli.

    Parameters
    ----------
    attributes
        What scArches saved of the model.
    genes
        Its genes in order.
    name
        The manifest's name.
    unlabelled
        How many unlabelled prototypes it has.
    reference
        The attributes of the model that surgery started from (``conditions_``, ``conditions_combined_`` and
        ``cell_types_`` are read): what it lacks is the query's and can be trained, its own is frozen. None: nothing is
        frozen.

    Raises
    ------
    ManifestError
        If the attributes contradict each other or say what format 1 cannot.
    """
    attributes = modern(attributes)
    old = attributes if reference is None else modern(reference)
    levels = [_level(key, attributes, old) for key in attributes["cell_type_keys_"] or () if _labels(key, attributes)]
    prototypes = [PrototypeLevel.of(position, level["key"]) for position, level in enumerate(levels)]
    fields = {
        "name": name,
        "version": REFERENCE if reference is None else QUERY,
        "architecture": _architecture(attributes),
        "genes": _genes(genes),
        "input": {"kind": "log1p" if attributes["recon_loss_"] == "mse" else "counts"},
        "conditions": [_condition(position, attributes, old) for position in range(len(attributes["conditions_"]))],
        "combinations": _combinations(attributes, old),
        "labels": levels,
        "prototypes": {"levels": prototypes, "unlabelled": unlabelled},
        "lineage": {"relation": "import" if reference is None else "surgery"},
    }
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise errors.ManifestError(f"{name}: this scPoli cannot be described", problems=problems(error)) from None


def tensors_of(
    state: State,
    attributes: Attributes,
    *,
    labelled: State | None = None,
    unlabelled: State | None = None,
) -> dict[str, Tensor]:
    """Return our network's tensors (float32) from scArches' state.

    Theta is transposed to ``(combinations, genes)``. Embedding rows longer than ``embedding_max_norm_`` are shortened,
    which scArches does when it looks them up. scArches does not say how many cells are behind a prototype: 1.

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
    attributes, state = modern(attributes), modern_state(state)
    tensors = _layers(state, attributes) | _embeddings(state, attributes)
    if "theta" in state:
        tensors["theta.rows"] = _tensor(state["theta"]).T.contiguous()
    latent = int(attributes["latent_dim_"])
    means = torch.zeros(0, latent) if unlabelled is None else _tensor(unlabelled["mean"]).reshape(-1, latent)
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


def modern_state(state: State) -> State:
    """Return the state by the names scArches has had since 0.5.9."""
    return {OLD_NAMES.get(name, name): values for name, values in state.items()}


def relative_uncertainty(distances: ArrayLike) -> NDArray[np.float64]:
    """Return distances scaled to [0, 1] over the given cells, as scArches' ``scale_uncertainties``.

    It scales by the quartiles and then by the extremes; the first is undone by the second.
    """
    values = np.asarray(distances, dtype=np.float64)
    span = np.ptp(values) if values.size else 0.0
    found: NDArray[np.float64] = (values - values.min(initial=np.inf)) / (span or 1.0)
    return found


def key_of(column: str) -> str:
    """Return the key a manifest has for an obs column: blanks and ``. / + *`` become underscores."""
    return re.sub(r"[\s./+*]", "_", column)


# --- the manifest ----------------------------------------------------------------------------------------------------


def _architecture(attributes: Attributes) -> dict[str, Any]:
    normalization = "batch" if attributes["use_bn_"] else "layer" if attributes["use_ln_"] else "none"
    return {
        "kind": "scpoli",
        "hidden": attributes["hidden_layer_sizes_"],
        "latent": attributes["latent_dim_"],
        "dropout": attributes["dr_rate_"],
        "likelihood": attributes["recon_loss_"],
        "normalization": normalization,
        "inject": attributes["inject_condition_"],
    }


def _genes(genes: Sequence[str]) -> dict[str, Any]:
    id_type = "ensembl" if all(ENSEMBL.fullmatch(gene) for gene in genes) else "symbol"
    field = "id" if id_type == "ensembl" else "symbol"
    return {"id_type": id_type, "panel": [{field: str(gene)} for gene in genes]}


def _condition(position: int, attributes: Attributes, old: Attributes) -> dict[str, Any]:
    column = attributes["condition_keys_"][position]
    encoding = {"kind": "embedding", "dim": attributes["embedding_dims_"][position]}
    return {
        "key": key_of(column),
        "categories": _categories(column, attributes),
        "encoding": encoding | {"max_norm": attributes["embedding_max_norm_"]},
        "added_in": _added(_categories(column, attributes), _categories(column, old)),
    }


def _categories(column: str, attributes: Attributes) -> list[str]:
    return [str(value) for value in attributes["conditions_"][column]]


def _added(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    return {name: QUERY for name in names if name not in set(known)}


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
        "added_in": _added(categories, _labels(column, old)),
    }


def _labels(column: str, attributes: Attributes) -> list[str]:
    """Return the labels of one level; scArches keeps those of all levels in one list."""
    return [str(name) for name, columns in attributes["cell_types_"].items() if column in columns]


# --- the tensors -----------------------------------------------------------------------------------------------------


def layer_names(hidden: int, *, output: str = "decoder.mean_decoder.0") -> dict[str, str]:
    """Return our name of every layer of scArches' encoder and decoder, with ``hidden`` hidden layers each."""
    names = {
        "encoder.FC.L0.expr_L": "encoder.hidden.first.expression",
        "encoder.FC.L0.cond_L": "encoder.hidden.first.condition",
        "encoder.mean_encoder": "encoder.mean",
        "encoder.log_var_encoder": "encoder.log_variance",
        "decoder.FirstL.L0.expr_L": "decoder.hidden.first.expression",
        "decoder.FirstL.L0.cond_L": "decoder.hidden.first.condition",
        "decoder.FirstL.N0": "decoder.hidden.activations.0.norm.norm",
        "decoder.dropout_decoder": "decoder.dropout",
        output: "decoder.mean",
    }
    for theirs, ours in (("encoder.FC", "encoder.hidden"), ("decoder.HiddenL", "decoder.hidden")):
        names |= {f"{theirs}.L{i}": f"{ours}.rest.{i - 1}" for i in range(1, hidden)}
        names |= {f"{theirs}.N{i}": f"{ours}.activations.{i}.norm.norm" for i in range(1, hidden)}
    return names | {"encoder.FC.N0": "encoder.hidden.activations.0.norm.norm"}


def _layers(state: State, attributes: Attributes) -> dict[str, Tensor]:
    output = OUTPUTS.get(attributes["recon_loss_"], "decoder.mean_decoder.0")
    ours = layer_names(len(attributes["hidden_layer_sizes_"]), output=output)
    tables = {"theta", *(f"embeddings.{i}.weight" for i in range(len(attributes["condition_keys_"])))}
    parts = {name: name.rpartition(".") for name in state if name not in tables}
    if strangers := [name for name, (layer, _, _) in parts.items() if layer not in ours]:
        raise errors.ManifestError(f"a scPoli with these attributes has no tensors {errors.names(strangers)}.")
    return {
        f"{ours[layer]}.{leaf}": _tensor(state[name])
        for name, (layer, _, leaf) in parts.items()
        if leaf != "num_batches_tracked"
    }


def _embeddings(state: State, attributes: Attributes) -> dict[str, Tensor]:
    longest = attributes["embedding_max_norm_"]
    return {
        f"embeddings.{i}.rows": _shortened(_tensor(state[f"embeddings.{i}.weight"]), longest)
        for i in range(len(attributes["condition_keys_"]))
    }


def _shortened(rows: Tensor, longest: float | None) -> Tensor:
    return rows if longest is None else torch.embedding_renorm_(rows, torch.arange(len(rows)), longest, 2.0)


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
    means, covariances = _tensor(prototypes["mean"]), torch.nan_to_num(_tensor(prototypes["cov"]))
    return {
        "means": _padded(means, rows),
        "covariances": _padded(covariances, rows),
        "cells": (torch.tensor(rows) < len(means)).float(),  # a label that surgery added has none before training
    }


def _padded(values: Tensor, rows: list[int]) -> Tensor:
    """Return rows of a tensor, zeros for those beyond its end."""
    missing = max(rows) + 1 - len(values)
    return torch.cat([values, values.new_zeros(max(missing, 0), *values.shape[1:])])[rows]


def _tensor(values: ArrayLike | Tensor) -> Tensor:
    found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return found.to(torch.float32, copy=True)


__all__ = ["key_of", "layer_names", "manifest_of", "relative_uncertainty", "tensors_of"]

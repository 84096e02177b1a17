"""What trVAE, expiMap and scPoli of scArches share: genes, layers and rows of conditions, by our names.

Names and layouts are those of scArches 0.6.1 (Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import ValidationError
from torch import Tensor

from hub_client import errors
from hub_client.manifest._frozen import problems
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Manifest

Attributes = Mapping[str, Any]
State = Mapping[str, ArrayLike | Tensor]

REFERENCE, QUERY = "1.0.0", "1.1.0"
"""The versions given to a model trained from scratch, and to one that surgery made of it."""
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}")
OUTPUTS = {"mse": "decoder.recon_decoder.0"}
"""What scArches calls the decoder's last layer, where it is not ``mean_decoder``."""
CONDITION_WEIGHTS = {
    "theta": "theta",
    "encoder.FC.L0.cond_L.weight": "encoder.hidden.first.condition",
    "decoder.FirstL.L0.cond_L.weight": "decoder.hidden.first.condition",
    "decoder.L0.cond_L.weight": "decoder.condition",
    "l_encoder.FC.L0.cond_L.weight": "library_encoder.hidden.first.condition",
}
"""Tensors with a column for each one-hot condition, and our tables with a row for each."""


# --- the manifest ----------------------------------------------------------------------------------------------------


def described(fields: Mapping[str, Any], *, what: str) -> Manifest:
    """Return the manifest with these fields.

    Raises
    ------
    ManifestError
        If they contradict each other or do not fit format 1.
    """
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        name = fields["name"]
        raise errors.ManifestError(f"{name}: this {what} cannot be described", problems=problems(error)) from None


def shared_fields(
    attributes: Attributes, genes: Sequence[str], *, name: str, reference: Attributes | None
) -> dict[str, Any]:
    """Return the manifest's fields that all kinds have; without a reference the model was trained from scratch."""
    return {
        "name": name,
        "version": REFERENCE if reference is None else QUERY,
        "lineage": {"relation": "import" if reference is None else "surgery"},
        "genes": genes_of(genes),
        "input": {"kind": "log1p" if attributes["recon_loss_"] == "mse" else "counts"},
    }


def genes_of(genes: Iterable[str]) -> dict[str, Any]:
    """Return the panel of genes, in their order."""
    names = list(map(str, genes))
    id_type = "ensembl" if all(map(ENSEMBL.fullmatch, names)) else "symbol"
    field = "id" if id_type == "ensembl" else "symbol"
    return {"id_type": id_type, "panel": [{field: name} for name in names]}


def layers_of(attributes: Attributes) -> dict[str, Any]:
    """Return the architecture's fields that describe hidden layers."""
    return {
        "hidden": attributes["hidden_layer_sizes_"],
        "dropout": attributes["dr_rate_"],
        "likelihood": attributes["recon_loss_"],
        "normalization": "batch" if attributes["use_bn_"] else "layer" if attributes["use_ln_"] else "none",
    }


def added(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Return the version that brought each name which the reference does not know."""
    return {name: QUERY for name in names if name not in set(known)}


def one_hot_condition(attributes: Attributes, old: Attributes) -> list[dict[str, Any]]:
    """Return the one condition of a model with one-hot conditions; empty where it has none."""
    column = attributes["condition_key_"]
    if column is None:
        return []
    names, known = ([str(value) for value in each["conditions_"]] for each in (attributes, old))
    encoding = {"kind": "one-hot"}
    return [{"key": key_of(column), "categories": names, "encoding": encoding, "added_in": added(names, known)}]


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


def network_names(attributes: Attributes) -> dict[str, str]:
    """Return our name of every layer of a model whose decoder has hidden layers."""
    output = OUTPUTS.get(attributes["recon_loss_"], "decoder.mean_decoder.0")
    return layer_names(len(attributes["hidden_layer_sizes_"]), output=output)


def layer_tensors(state: State, names: Mapping[str, str], *, what: str) -> dict[str, Tensor]:
    """Return the tensors of layers by our names.

    Raises
    ------
    ManifestError
        If one is of none of these layers.
    """
    parts = {name: name.rpartition(".") for name in state}
    if strangers := [name for name, (layer, _, _) in parts.items() if layer not in names]:
        raise errors.ManifestError(f"a {what} with these attributes has no tensors {errors.names(strangers)}.")
    return {
        f"{names[layer]}.{leaf}": tensor(state[name])
        for name, (layer, _, leaf) in parts.items()
        if leaf != "num_batches_tracked"
    }


def one_hot_rows(state: State) -> dict[str, Tensor]:
    """Return the weights of one-hot conditions as rows by our names: theta's, and those of first layers.

    scArches has a column for each condition: ``theta`` ``(genes, conditions)``, ``cond_L.weight`` ``(width,
    conditions)``.
    """
    return {f"{ours}.rows": transposed(state[theirs]) for theirs, ours in CONDITION_WEIGHTS.items() if theirs in state}


def transposed(values: ArrayLike | Tensor) -> Tensor:
    """Return a matrix transposed, as float32 on the CPU."""
    return tensor(values).T.contiguous()


def tensor(values: ArrayLike | Tensor) -> Tensor:
    """Return a copy as float32 on the CPU."""
    copied = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return copied.to(torch.float32, copy=True)

"""Turn scArches' expiMap into ours: attributes into a manifest, state into tensors. Pure functions, no files.

Names and layouts are those of scArches 0.6.1 (Lotfollahi et al. 2023, doi 10.1038/s41556-022-01072-x). Attributes are
those it saves, with their trailing underscore; models older than an attribute have what scArches gives them then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_client import errors
from hub_client.interop.scarches_vaes import (
    CONDITION_WEIGHTS,
    QUERY,
    Attributes,
    State,
    described,
    layer_names,
    layer_tensors,
    layers_of,
    one_hot_condition,
    one_hot_rows,
    shared_fields,
    tensor,
)
from hub_client.manifest.v1 import Manifest

LIBRARY = "l_encoder."
"""The library-size encoder, which scArches also makes where its last layer does not read it."""
MASK = ".mask"
"""How the names of mask tensors end; a manifest has the masks in its terms."""
KINDS = {"term": "annotated"}
"""The kind of a term, where its name does not begin with it."""
EXTENSIONS = ("encoder.expand_", "decoder.L0.ext_L")
"""How the names of extension terms' tensors begin."""
LAYERS = {
    "encoder.mean_encoder": "encoder.heads.0.mean",
    "encoder.log_var_encoder": "encoder.heads.0.log_variance",
    "decoder.L0.expr_L": "decoder.programs.0",
    "l_encoder.FC.L0.expr_L": "library_encoder.hidden.first.expression",
    "l_encoder.FC.N0": "library_encoder.hidden.activations.0.norm.norm",
    "l_encoder.mean_encoder": "library_encoder.mean",
    "l_encoder.log_var_encoder": "library_encoder.log_variance",
}
"""Our names of the layers that are not the encoder's hidden ones."""
HEADS = {"expand_mean_encoder": "mean", "expand_var_encoder": "log_variance"}
"""scArches' encoder layers of all extension terms, constrained ones first, and what a block of ours has of them."""


def manifest_of(
    attributes: Attributes, genes: Sequence[str], *, name: str, reference: Attributes | None = None
) -> Manifest:
    """Return the manifest of a scArches expiMap, with numbers for the names of its terms, which scArches does not save.

    Parameters and errors are those of :func:`hub_client.interop.trvae.manifest_of`. Of the reference ``conditions_``,
    ``n_ext_`` and ``n_ext_m_`` are read: conditions and extension terms that it lacks can be trained, its own are
    frozen.
    """
    constrained, unconstrained = _extensions(attributes)
    architecture = {
        "kind": "expimap",
        **layers_of(attributes),
        "last_layer": attributes.get("decoder_last_layer_"),  # models older than the choice had today's default
        "library_encoder": _library(attributes),
        "soft_mask": attributes.get("soft_mask_", False),
        "constrained_extensions": constrained,
        "unconstrained_extensions": unconstrained,
        "soft_extension_mask": attributes.get("soft_ext_mask_", False) or _unmasked(attributes),
        "hsic": attributes.get("use_hsic_", False),
        "hsic_one_vs_all": attributes.get("hsic_one_vs_all_", False),
    }
    fields = {
        **shared_fields(attributes, genes, name=name, reference=reference),
        "architecture": architecture,
        "conditions": one_hot_condition(attributes, attributes if reference is None else reference),
        "terms": _terms(attributes, reference, list(map(str, genes))),
    }
    return described(fields, what="expiMap")


def tensors_of(state: State, attributes: Attributes, *, reference: Attributes | None = None) -> dict[str, Tensor]:
    """Return our network's tensors (float32) from scArches' state, the conditions' weights as one row for each.

    As :func:`hub_client.interop.trvae.tensors_of`; extensions of the ``reference`` and of the query are blocks of their
    own.
    """
    unread = () if _library(attributes) else (LIBRARY,)
    read = {name: tensor(values) for name, values in state.items() if not name.startswith(unread)}
    kept = {name: values for name, values in read.items() if not name.endswith(MASK)}
    for name in kept:  # scArches multiplies weights by the hard mask beside them whenever it uses them
        if (mask := read.get(name.removesuffix(".weight") + MASK)) is not None:
            kept[name] = kept[name] * mask
    extensions = {name for name in kept if any(_extensions(attributes)) and name.startswith(EXTENSIONS)}
    layers = {name: values for name, values in kept.items() if name not in {*CONDITION_WEIGHTS, *extensions}}
    hidden = layer_names(len(attributes["hidden_layer_sizes_"]))
    names = LAYERS | {theirs: ours for theirs, ours in hidden.items() if theirs.startswith("encoder.FC.")}
    tensors = layer_tensors(layers, names, what="expiMap") | one_hot_rows(kept)
    return tensors | _extension_tensors({name: kept[name] for name in extensions}, attributes, reference)


# --- the manifest ----------------------------------------------------------------------------------------------------


def _library(attributes: Attributes) -> bool:
    softmax = attributes["recon_loss_"] == "nb" and attributes.get("decoder_last_layer_") in (None, "softmax")
    return bool(attributes.get("use_l_encoder_", False) and softmax)


def _extensions(attributes: Attributes) -> tuple[int, int]:
    """Return how many constrained and unconstrained extension terms there are."""
    return attributes.get("n_ext_m_", 0), attributes.get("n_ext_", 0)


def _unmasked(attributes: Attributes) -> bool:
    """Return whether constrained terms were made without the mask that would constrain them."""
    return bool(_extensions(attributes)[0]) and attributes.get("ext_mask_") is None


def _terms(attributes: Attributes, reference: Attributes | None, genes: Sequence[str]) -> list[dict[str, Any]]:
    constrained, unconstrained = _extensions(attributes)
    masks = {
        "term": attributes["mask_"],
        "constrained": [[]] * constrained if _unmasked(attributes) else (attributes.get("ext_mask_") or []),
        "unconstrained": [[]] * unconstrained,
    }
    known = len(masks["term"]) + _known_extensions(attributes, reference)
    rows = [(word, number, mask) for word, rows in masks.items() for number, mask in enumerate(rows)]
    return [
        {
            "id": f"{word}_{number}",
            "name": f"{word}_{number}",
            "genes": _members(mask, genes),
            "kind": KINDS.get(word, word),
            "added_in": None if position < known else QUERY,
        }
        for position, (word, number, mask) in enumerate(rows)
    ]


def _members(mask: Any, genes: Sequence[str]) -> list[str]:
    """Return the genes of a row of a mask."""
    places = np.flatnonzero(np.asarray(mask))
    if places.size and places[-1] >= len(genes):
        raise errors.ManifestError(
            f"a mask of gene programs holds gene number {int(places[-1]) + 1:,}, and the model has {len(genes):,} "
            "genes. The folder was changed after it was saved; get the original.",
            path="mask_",
        )
    return [genes[int(place)] for place in places]


def _known_extensions(attributes: Attributes, reference: Attributes | None) -> int:
    """Return how many extension terms stand before the query's.

    scArches puts new constrained terms before old unconstrained ones and then gives them each other's encoder rows, so
    that all extensions of such a model are the query's.
    """
    both = sum(_extensions(attributes))
    if reference is None:
        return both
    constrained, unconstrained = _extensions(reference)
    mixed = unconstrained and _extensions(attributes)[0] > constrained
    return 0 if mixed else min(constrained + unconstrained, both)


# --- the tensors -----------------------------------------------------------------------------------------------------


def _extension_tensors(
    state: dict[str, Tensor], attributes: Attributes, reference: Attributes | None
) -> dict[str, Tensor]:
    """Return the tensors of extension terms, cut into the blocks the manifest has."""
    both, known = sum(_extensions(attributes)), _known_extensions(attributes, reference)
    ends = [end for end in dict.fromkeys((known, both)) if end]
    tensors = {}
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), start=1):
        for theirs, ours in HEADS.items():
            for leaf in ("weight", "bias"):
                tensors[f"encoder.heads.{number}.{ours}.{leaf}"] = state[f"encoder.{theirs}.{leaf}"][start:end].clone()
        parts = [state[name] for name in ("decoder.L0.ext_L_m.weight", "decoder.L0.ext_L.weight") if name in state]
        columns = torch.cat(parts, dim=1)  # (genes, terms), in the latent's order
        tensors[f"decoder.programs.{number}.weight"] = columns[:, start:end].contiguous()
    return tensors

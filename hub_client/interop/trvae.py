"""Turn scArches' trVAE into ours: attributes into a manifest, state into tensors. Pure functions, no files.

Names and layouts are those of scArches 0.6.1 (Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7). Attributes are
those it saves, with their trailing underscore.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hub_client.interop.scarches_vaes import (
    CONDITION_WEIGHTS,
    Attributes,
    State,
    described,
    layer_tensors,
    layers_of,
    network_names,
    one_hot_condition,
    one_hot_rows,
    shared_fields,
)
from hub_client.manifest.v1 import Manifest


def manifest_of(
    attributes: Attributes, genes: Sequence[str], *, name: str, reference: Attributes | None = None
) -> Manifest:
    """Return the manifest of a scArches trVAE.

    Parameters
    ----------
    attributes
        What scArches saved of the model.
    genes
        Its genes in order.
    name
        The manifest's name.
    reference
        The attributes of the model that surgery started from (``conditions_`` is read): the rows of conditions that it
        lacks can be trained, its own are frozen. None: nothing is frozen.

    Raises
    ------
    ManifestError
        If the attributes contradict each other or do not fit format 1.
    """
    architecture = {
        "kind": "trvae",
        **layers_of(attributes),
        "latent": attributes["latent_dim_"],
        "mmd": attributes["use_mmd_"],
        "mmd_on": attributes["mmd_on_"],
        "mmd_boundary": attributes["mmd_boundary_"],
        "mmd_weight": attributes["beta_"],
    }
    fields = {
        **shared_fields(attributes, genes, name=name, reference=reference),
        "architecture": architecture,
        "conditions": one_hot_condition(attributes, attributes if reference is None else reference),
    }
    return described(fields, what="trVAE")


def tensors_of(state: State, attributes: Attributes) -> dict[str, Tensor]:
    """Return our network's tensors (float32) from scArches' state, the conditions' weights as one row for each.

    Parameters
    ----------
    state
        Every tensor of scArches' ``state_dict``.
    attributes
        What scArches saved of the model.

    Raises
    ------
    ManifestError
        If the state holds a tensor that a trVAE with these attributes does not have.
    """
    layers = {name: values for name, values in state.items() if name not in CONDITION_WEIGHTS}
    return layer_tensors(layers, network_names(attributes), what="trVAE") | one_hot_rows(state)

"""Weights of scvi-tools' modules, where they say more or less than what a manifest describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from hub_client.manifest.configs import ScANVIConfig, ScVIConfig
from hub_client.manifest.v1 import Manifest

EMBEDDING = "_embeddings_dict.batch.weight"
"""The embeddings of batches, ``(batches, embedding)``."""
Weights = Mapping[str, Tensor]


def labels_in(weights: Weights) -> int | None:
    """Return how many labels a module has; None where no tensor has an entry for each."""
    prior = weights.get("y_prior")
    return None if prior is None else prior.shape[-1]


def fitting(weights: Weights, manifest: Manifest, *, max_norm: float | None) -> dict[str, Tensor]:
    """Return weights as the manifest's module has them.

    Where scvi-tools embeds batches of a model that has none, the embedding is one vector, the same for every cell: its
    product with the weights that read it is a constant, and becomes part of the bias.

    Parameters
    ----------
    weights
        A module's tensors by name.
    manifest
        What was made of its registry.
    max_norm
        The length that the embedding is cut to, if any.
    """
    if EMBEDDING not in weights or manifest.conditions:
        return dict(weights)
    kept = {name: tensor for name, tensor in weights.items() if name != EMBEDDING}
    vector = weights[EMBEDDING][0].detach()
    if max_norm is not None:
        vector = torch.renorm(vector[None], 2, 0, max_norm)[0]
    for path, start in _readers(manifest).items():
        weight, bias = f"{path}.fc_layers.Layer 0.0.weight", f"{path}.fc_layers.Layer 0.0.bias"
        if weight in kept:
            before, columns, after = kept[weight].tensor_split([start, start + len(vector)], dim=1)
            kept |= {weight: torch.cat([before, after], dim=1), bias: kept[bias] + columns @ vector}
    return kept


def _readers(manifest: Manifest) -> dict[str, int]:
    """Return the layers that read an embedding, and the column in which it starts."""
    config = cast(ScVIConfig | ScANVIConfig, manifest.architecture)
    continuous, genes = len(manifest.covariates.continuous), len(manifest.genes.panel)
    encoders = dict.fromkeys(("z_encoder.encoder", "l_encoder.encoder"), genes + continuous)
    return {"decoder.px_decoder": config.latent + continuous} | (encoders if config.encode_covariates else {})

"""What scvi-tools' modules are made of, in tables: parameters, layers, and tensors with an entry for each category."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.manifest.configs import ScANVIConfig, ScVIConfig, TotalVIConfig
from hub_client.manifest.inputs import Proteins
from hub_client.manifest.v1 import Condition, Embedding, Manifest
from hub_client.models.architectures.scvi import likelihood

Config = ScVIConfig | ScANVIConfig | TotalVIConfig
BATCH: Final = "batch"
LABEL: Final = "label"
OUTRIGHT = {"px_r": "genes", "py_r": "proteins"}
"""Dispersions of a module, where they are one for all cells."""


class Stack(NamedTuple):
    """Fully connected layers: the axes they read, which categories they read besides, and what they give."""

    inputs: tuple[str, ...]
    given: Literal["encoder", "decoder", "label", "nothing"]
    outputs: str = "hidden.0"
    hidden: str = "hidden.0"


class PerCategory(NamedTuple):
    """A tensor with an entry for each batch or label."""

    name: str
    """Where it is in the module."""
    other: str | None
    """Its other axis, ``"1"`` if that is of length one; None if it has no other."""
    per: Literal["batch", "label"]
    """What it has entries for."""
    dim: int
    """The dimension they are along."""
    trained: bool = True
    """Whether training moves it."""


Generative = Callable[[Any, Batch, Mapping[str, Tensor], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """One of scvi-tools' models."""

    module: str
    """The name of its class in ``scvi.module``."""
    model: str
    """And of its class in ``scvi.model``."""
    parameters: Mapping[str, str]
    """scvi-tools' parameter to the config's field."""
    nested: Mapping[str, Mapping[str, str]]
    """The same for parameters in keyword dictionaries, by the dictionary's name."""
    sizes: Callable[[Manifest], dict[str, Any]]
    """The parameters of its module that follow from the manifest's axes."""
    stacks: Mapping[str, Stack]
    """Where its fully connected layers are."""
    dense: Mapping[str, tuple[str, str]]
    """Where its linear maps are, and the axes of their outputs and inputs."""
    per_category: Callable[[Manifest], list[PerCategory]]
    """Its tensors with an entry for each batch or label."""
    initial: Mapping[str, str] = field(default_factory=dict)
    """As ``parameters``, for those of its model alone, which set how training starts."""
    generative: Generative = likelihood.whole
    """What its losses are computed of: module, minibatch, the same as scvi-tools reads it, and what was inferred."""


def batch_key(manifest: Manifest) -> Condition | None:
    """Return the condition that is scvi-tools' batch."""
    return manifest.conditions[0] if manifest.conditions else None


def embedded(manifest: Manifest) -> Embedding | None:
    """Return how batches are embedded; None where they are one-hot."""
    batch = batch_key(manifest)
    return batch.encoding if batch and isinstance(batch.encoding, Embedding) else None


def _shared_sizes(manifest: Manifest) -> dict[str, Any]:
    batch, covariates = batch_key(manifest), manifest.covariates
    batches = len(batch.categories) if batch else 1
    return {
        "n_batch": batches,
        "n_labels": len(manifest.labels[0].categories) if manifest.labels else 1,
        "n_continuous_cov": len(covariates.continuous),
        "n_cats_per_cov": [len(key.categories) for key in covariates.categorical] or None,
        "use_size_factor_key": manifest.input.size_factor is not None,
        "library_log_means": np.zeros((1, batches)),
        "library_log_vars": np.ones((1, batches)),
    }


def _vae_sizes(manifest: Manifest) -> dict[str, Any]:
    return {"n_input": len(manifest.genes.panel)} | _shared_sizes(manifest)


def _dispersed(name: str, dispersion: str, other: str) -> list[PerCategory]:
    """Return a dispersion's entry where it is one for each batch or label, as in ``gene-batch``."""
    per = dispersion.partition("-")[2]
    return [PerCategory(name, other, cast(Any, per), dim=1)] if per in (BATCH, LABEL) else []


def _libraries(manifest: Manifest) -> list[PerCategory]:
    config = cast(Config, manifest.architecture)
    if config.use_observed_library_size or manifest.input.size_factor is not None:
        return []
    names = ("library_log_means", "library_log_vars")
    return [PerCategory(name, "1", BATCH, dim=1, trained=False) for name in names]


def _vae_per_category(manifest: Manifest) -> list[PerCategory]:
    config = cast(ScVIConfig | ScANVIConfig, manifest.architecture)
    return [*_dispersed("px_r", config.dispersion, "genes"), *_libraries(manifest)]


VAE_PARAMETERS = {
    "n_latent": "latent",
    "n_hidden": "hidden",
    "n_layers": "layers",
    "dropout_rate": "dropout",
    "dispersion": "dispersion",
    "gene_likelihood": "likelihood",
    "latent_distribution": "latent_distribution",
    "encode_covariates": "encode_covariates",
    "deeply_inject_covariates": "deeply_inject_covariates",
    "use_observed_lib_size": "use_observed_library_size",
    "use_layer_norm": "layer_norm",
    "use_batch_norm": "batch_norm",
    "log_variational": "log1p_input",
}
VAE_STACKS = {
    "z_encoder.encoder": Stack(("genes",), "encoder"),
    "l_encoder.encoder": Stack(("genes",), "encoder"),
    "decoder.px_decoder": Stack(("latent",), "decoder"),
}
VAE_DENSE = {
    "z_encoder.mean_encoder": ("latent", "hidden.0"),
    "z_encoder.var_encoder": ("latent", "hidden.0"),
    "l_encoder.mean_encoder": ("1", "hidden.0"),
    "l_encoder.var_encoder": ("1", "hidden.0"),
    "decoder.px_scale_decoder.0": ("genes", "hidden.0"),
    "decoder.px_r_decoder": ("genes", "hidden.0"),
    "decoder.px_dropout_decoder": ("genes", "hidden.0"),
}
CLASSIFIER_PARAMETERS = {
    "n_layers": "classifier_layers",
    "n_hidden": "classifier_hidden",
    "dropout_rate": "classifier_dropout",
    "logits": "classifier_logits",
}
SCANVAE_STACKS = VAE_STACKS | {
    "encoder_z2_z1.encoder": Stack(("latent",), "label"),
    "decoder_z1_z2.decoder": Stack(("latent",), "label"),
    "classifier.classifier.0": Stack(("latent",), "nothing", "classifier", "classifier"),
}
SCANVAE_DENSE = VAE_DENSE | {
    "encoder_z2_z1.mean_encoder": ("latent", "hidden.0"),
    "encoder_z2_z1.var_encoder": ("latent", "hidden.0"),
    "decoder_z1_z2.mean_decoder": ("latent", "hidden.0"),
    "decoder_z1_z2.var_decoder": ("latent", "hidden.0"),
}


def _scanvae_per_category(manifest: Manifest) -> list[PerCategory]:
    """Return also the prior of the labels and the classifier's last map, which is its only one if it is linear."""
    hidden = _classifier_layers(cast(ScANVIConfig, manifest.architecture)) > 0
    last = f"classifier.classifier.{int(hidden)}"
    return [
        *_vae_per_category(manifest),
        PerCategory("y_prior", "1", LABEL, dim=1, trained=False),
        PerCategory(f"{last}.weight", "classifier" if hidden else "latent", LABEL, dim=0),
        PerCategory(f"{last}.bias", None, LABEL, dim=0),
    ]


def _classifier_layers(config: ScANVIConfig) -> int:
    """Return how many hidden layers a classifier has: a linear one without a width or layers of its own has none."""
    layers = config.classifier_layers
    linear = config.linear_classifier and (config.classifier_hidden is None or layers is None)
    return 0 if linear else config.layers if layers is None else layers


def _totalvae_sizes(manifest: Manifest) -> dict[str, Any]:
    config = cast(TotalVIConfig, manifest.architecture)
    if "label" in f"{config.gene_dispersion} {config.protein_dispersion}":
        raise errors.ManifestError(
            "a dispersion for each label is not to be had: scvi-tools gives totalVI no labels.", path="architecture"
        )
    sizes = _shared_sizes(manifest)
    return sizes | {
        "n_labels": 0,
        "n_input_genes": len(manifest.genes.panel),
        "n_input_proteins": len(cast(Proteins, manifest.proteins).panel),
        "n_panel": sizes["n_batch"],
        "protein_batch_mask": protein_masks(manifest),
    }


def protein_masks(manifest: Manifest) -> dict[str, NDArray[np.bool_]] | None:
    """Return which proteins each batch measured, ``(proteins,)``, by its code; None where all measured all."""
    panel, batch = cast(Proteins, manifest.proteins), batch_key(manifest)
    if not panel.measured or batch is None:
        return None
    found = {str(code): {*panel.measured.get(name, panel.panel)} for code, name in enumerate(batch.categories)}
    return {code: np.array([name in names for name in panel.panel]) for code, names in found.items()}


def _totalvae_per_category(manifest: Manifest) -> list[PerCategory]:
    config = cast(TotalVIConfig, manifest.architecture)
    backgrounds = ("background_pro_alpha", "background_pro_log_beta", "log_per_batch_efficiency")
    return [
        *_dispersed("px_r", config.gene_dispersion, "genes"),
        *_dispersed("py_r", config.protein_dispersion, "proteins"),
        *_libraries(manifest),
        *(PerCategory(name, "proteins", BATCH, dim=1) for name in backgrounds),
    ]


TOTALVAE_PARAMETERS = {
    "n_latent": "latent",
    "n_hidden": "hidden",
    "n_layers_encoder": "encoder_layers",
    "n_layers_decoder": "decoder_layers",
    "dropout_rate_encoder": "encoder_dropout",
    "dropout_rate_decoder": "decoder_dropout",
    "gene_dispersion": "gene_dispersion",
    "protein_dispersion": "protein_dispersion",
    "gene_likelihood": "gene_likelihood",
    "latent_distribution": "latent_distribution",
    "encode_covariates": "encode_covariates",
    "use_observed_lib_size": "use_observed_library_size",
    "use_layer_norm": "layer_norm",
    "use_batch_norm": "batch_norm",
    "log_variational": "log1p_input",
}
TOTALVAE_STACKS = {
    "encoder.encoder": Stack(("genes", "proteins"), "encoder"),
    "encoder.l_gene_encoder": Stack(("genes", "proteins"), "encoder"),
    "decoder.px_decoder": Stack(("latent",), "decoder"),
    "decoder.py_back_decoder": Stack(("latent",), "decoder"),
    "decoder.py_fore_decoder": Stack(("latent",), "decoder"),
    "decoder.sigmoid_decoder": Stack(("latent",), "decoder"),
    "decoder.px_scale_decoder": Stack(("hidden.0", "latent"), "decoder", "genes"),
    "decoder.px_dropout_decoder_gene": Stack(("hidden.0", "latent"), "decoder", "genes"),
    "decoder.py_back_mean_log_alpha": Stack(("hidden.0", "latent"), "decoder", "proteins"),
    "decoder.py_back_mean_log_beta": Stack(("hidden.0", "latent"), "decoder", "proteins"),
    "decoder.py_fore_scale_decoder": Stack(("hidden.0", "latent"), "decoder", "proteins"),
    "decoder.py_background_decoder": Stack(("hidden.0", "latent"), "decoder", "proteins"),
}
TOTALVAE_DENSE = {
    "encoder.z_mean_encoder": ("latent", "hidden.0"),
    "encoder.z_var_encoder": ("latent", "hidden.0"),
    "encoder.l_gene_mean_encoder": ("1", "hidden.0"),
    "encoder.l_gene_var_encoder": ("1", "hidden.0"),
}


KINDS: Mapping[str, Kind] = {
    "scvi": Kind(
        "VAE",
        "SCVI",
        VAE_PARAMETERS,
        {},
        _vae_sizes,
        VAE_STACKS,
        VAE_DENSE,
        _vae_per_category,
        generative=likelihood.generative,
    ),
    "scanvi": Kind(
        "SCANVAE",
        "SCANVI",
        VAE_PARAMETERS | {"linear_classifier": "linear_classifier"},
        {"classifier_parameters": CLASSIFIER_PARAMETERS},
        _vae_sizes,
        SCANVAE_STACKS,
        SCANVAE_DENSE,
        _scanvae_per_category,
        generative=likelihood.generative,
    ),
    "totalvi": Kind(
        "TOTALVAE",
        "TOTALVI",
        TOTALVAE_PARAMETERS,
        {"extra_decoder_kwargs": {"activation_function_bg": "background_activation"}},
        _totalvae_sizes,
        TOTALVAE_STACKS,
        TOTALVAE_DENSE,
        _totalvae_per_category,
        initial={"empirical_protein_background_prior": "empirical_protein_background_prior"},
    ),
}

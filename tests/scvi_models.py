"""Small models that scvi-tools itself made and trained, for tests of what is done with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import anndata
import mudata
import numpy as np
import torch

from hub_client.models.architectures.scvi.modules import scvi_tools
from tests.simulated import counts

SETUPS: dict[str, dict[str, Any]] = {
    "plain": {"batch_key": "batch"},
    "no batch": {},
    "all": {
        "batch_key": "batch",
        "labels_key": "cell_type",
        "size_factor_key": "depth",
        "categorical_covariate_keys": ["tech", "cell_class"],
        "continuous_covariate_keys": ["age"],
        "layer": "counts",
    },
}
SETUPS["labelled"] = {"batch_key": "batch", "labels_key": "cell_type"}
SCVI: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {}),
    "no batch": ("no batch", {"gene_likelihood": "nb"}),
    "all keys, encoded": ("all", {"encode_covariates": True, "n_layers": 2, "gene_likelihood": "nb"}),
    "shallow": ("all", {"encode_covariates": True, "n_layers": 2, "deeply_inject_covariates": False}),
    "gene-batch, libraries": ("plain", {"dispersion": "gene-batch", "use_observed_lib_size": False}),
    "gene-label": ("all", {"dispersion": "gene-label", "latent_distribution": "ln"}),
    "gene-cell, poisson": ("plain", {"dispersion": "gene-cell", "gene_likelihood": "poisson"}),
    "normal": ("plain", {"gene_likelihood": "normal", "log_variational": False}),
    "layer norm": ("plain", {"use_layer_norm": "both", "use_batch_norm": "none", "dropout_rate": 0.0}),
    "embedded": ("all", {"batch_representation": "embedding", "encode_covariates": True}),
}
"""Setup and parameters of an SCVI for each option whose code differs."""
SCANVI: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("labelled", {}),
    "linear, encoded": ("all", {"linear_classifier": True, "encode_covariates": True, "n_layers": 2}),
    "wide classifier": ("labelled", {"classifier_parameters": {"n_layers": 2, "n_hidden": 8, "dropout_rate": 0.0}}),
    "prior": ("labelled", {"y_prior": torch.tensor([[0.7, 0.2, 0.1]]), "gene_likelihood": "nb"}),
    "logistic": ("labelled", {"latent_distribution": "ln", "use_observed_lib_size": False}),
}
"""The same for SCANVI; cells of type T are not labelled."""


TOTALVI: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("proteins", {}),
    "all keys": ("proteins, all", {"gene_dispersion": "gene-batch", "protein_dispersion": "protein-batch"}),
    "libraries": ("proteins", {"use_observed_lib_size": False, "gene_likelihood": "zinb", "encode_covariates": False}),
    "override": ("proteins", {"override_missing_proteins": True, "empirical_protein_background_prior": False}),
    "deep, logistic": ("proteins", {"n_layers_decoder": 2, "latent_distribution": "ln", "use_layer_norm": "both"}),
    "background exp": ("proteins", {"extra_decoder_kwargs": {"activation_function_bg": "exp"}}),
}
"""The same for TOTALVI; batch b2 did not measure the last protein."""
SETUPS["proteins"] = {"batch_key": "batch", "protein_expression_obsm_key": "protein"}
SETUPS["proteins, all"] = SETUPS["proteins"] | {
    "size_factor_key": "depth",
    "categorical_covariate_keys": ["tech"],
    "continuous_covariate_keys": ["age"],
}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave scvi-tools' and Lightning's remarks out of the tests' output."""
    loggers = [
        logging.getLogger(name) for name in ("scvi", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def cells(**options: Any) -> anndata.AnnData:
    """Return simulated cells with counts in X and in a layer."""
    adata = counts(proteins=True, **options)
    adata.layers["counts"] = adata.X.copy()
    return adata


def fitted(model: Any, *, epochs: int = 2) -> Any:
    """Return a model trained for some epochs, without its progress bar."""
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    return model


@cache
def scvi_model(example: str) -> Any:
    """Return an SCVI trained for two epochs; callers must not train it."""
    return _trained("SCVI", *SCVI[example])


@cache
def scanvi_model(example: str) -> Any:
    """Return an SCANVI trained for two epochs; callers must not train it."""
    return _trained("SCANVI", *SCANVI[example], unlabeled_category="T")


@cache
def totalvi_model(example: str) -> Any:
    """Return a TOTALVI trained for two epochs; callers must not train it."""
    return _trained("TOTALVI", *TOTALVI[example])


@cache
def totalvi_of_mudata() -> Any:
    """Return a TOTALVI trained for two epochs on a MuData; callers must not train it."""
    with undisturbed():
        mdata = mudata_cells()
        setup = {"batch_key": "batch", "modalities": {"rna_layer": "rna", "protein_layer": "prot", "batch_key": "rna"}}
        scvi_tools().model.TOTALVI.setup_mudata(mdata, **setup)
        return fitted(scvi_tools().model.TOTALVI(mdata, n_hidden=16, n_latent=6))


def mudata_cells() -> mudata.MuData:
    """Return the simulated cells as a MuData of RNA and proteins."""
    rna = cells()
    proteins = rna.obsm.pop("protein")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({"rna": rna, "prot": anndata.AnnData(proteins)})


def _trained(model: str, setup: str, parameters: dict[str, Any], **also: Any) -> Any:
    with undisturbed(), torch.random.fork_rng(devices=[]):
        before = np.random.get_state()
        scvi_tools().settings.seed = 0
        adata, model_class = cells(), getattr(scvi_tools().model, model)
        model_class.setup_anndata(adata, **SETUPS[setup], **also)
        found = fitted(model_class(adata, n_hidden=16, n_latent=6, **parameters))
        np.random.set_state(before)
    return found

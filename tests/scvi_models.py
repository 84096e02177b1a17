"""Small models that scvi-tools itself made and trained, for tests of what is done with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import anndata
import numpy as np
import torch

from hub_client.architectures.scvi_tools import scvi_tools
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
    adata = counts(**options)
    adata.layers["counts"] = adata.X.copy()
    return adata


def fitted(model: Any, *, epochs: int = 2) -> Any:
    """Return a model trained for some epochs, without its progress bar."""
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    return model


@cache
def scvi_model(example: str) -> Any:
    """Return an SCVI trained for two epochs; callers must not train it."""
    setup, parameters = SCVI[example]
    with undisturbed(), torch.random.fork_rng(devices=[]):
        before = np.random.get_state()
        scvi_tools().settings.seed = 0
        adata = cells()
        scvi_tools().model.SCVI.setup_anndata(adata, **SETUPS[setup])
        found = fitted(scvi_tools().model.SCVI(adata, n_hidden=16, n_latent=6, **parameters))
        np.random.set_state(before)
    return found

"""A manifest and a network to one of scvi-tools' models, which has a registry and, where they are given, cells."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from hub_client.architectures.scvi_tools import KINDS, ScviTools, batch_key, parameters, scvi_tools
from hub_client.data.cells import Cells, GeneReport
from hub_client.manifest.v1 import LabelLevel, Manifest

UNLABELLED = "unlabelled"
"""What scANVI is told of cells without a label, where the manifest has no word for it."""
CELLS_PER_CATEGORY = 3
"""scvi-tools warns of categories with fewer cells."""


def scvi_model(network: ScviTools, cells: Cells | None = None, *, obs: pd.DataFrame | None = None) -> Any:
    """Return a trained ``scvi.model.SCVI``, ``SCANVI`` or ``TOTALVI`` with a network's weights.

    Parameters
    ----------
    network
        Built from a manifest.
    cells
        Aligned cells, which become the model's ``adata``; None makes some without counts.
    obs
        Further columns of the cells' obs.

    Raises
    ------
    VocabularyError
        If cells have a category that the network does not know.
    """
    manifest, kind = network.manifest, KINDS[network.config.kind]
    if cells is not None:
        network.vocabulary.condition_codes(cells.conditions, cells=len(cells))
        network.vocabulary.covariate_codes(cells.conditions, cells=len(cells))
    model_class = getattr(scvi_tools().model, kind.model)
    adata = _without_counts(manifest) if cells is None else _with_counts(manifest, cells, obs)
    with quiet():
        model_class.setup_anndata(adata, **_setup(manifest))
        model = model_class(adata, **parameters(manifest))
    model.module.load_state_dict(network.plain().state_dict())
    model.module.eval()
    model.is_trained_ = True
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what scvi-tools says about data: it was checked when it was aligned."""
    logger = logging.getLogger("scvi")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _setup(manifest: Manifest) -> dict[str, Any]:
    """Return the arguments of ``setup_anndata``."""
    batch, covariates = batch_key(manifest), manifest.covariates
    return {
        "batch_key": batch.key if batch else None,
        "size_factor_key": manifest.input.size_factor,
        "categorical_covariate_keys": [key.key for key in covariates.categorical] or None,
        "continuous_covariate_keys": list(covariates.continuous) or None,
    } | SETUP[manifest.architecture.kind](manifest)


def _labels(manifest: Manifest) -> dict[str, Any]:
    return {"labels_key": manifest.labels[0].key if manifest.labels else None}


SETUP = {"scvi": _labels}
"""What each kind's ``setup_anndata`` is told besides."""


def _with_counts(manifest: Manifest, cells: Cells, obs: pd.DataFrame | None) -> AnnData:
    """Return aligned cells as scvi-tools reads them: keys as obs columns whose categories are the manifest's."""
    columns: dict[str, Any] = {
        key.key: pd.Categorical(cells.conditions[key.key], categories=key.categories) for key in manifest.categorical
    }
    columns |= {level.key: _labelled(cells, level, manifest.architecture.kind) for level in manifest.labels[:1]}
    if cells.continuous is not None:
        columns |= dict(zip(manifest.covariates.continuous, cells.continuous.T, strict=True))
    if manifest.input.size_factor is not None:
        columns[manifest.input.size_factor] = cells.size_factor
    index = pd.Index(cells.obs_names, dtype=object)
    others = pd.DataFrame(index=index) if obs is None else obs.drop(columns=[*columns], errors="ignore")
    frame = pd.DataFrame(columns, index=index).join(others.set_axis(index))
    return AnnData(cells.x.copy(), obs=frame, var=pd.DataFrame(index=pd.Index(manifest.genes.names, dtype=object)))


def _labelled(cells: Cells, level: LabelLevel, kind: str) -> pd.Categorical:
    """Return cells' labels; those without one, or with one the model does not know, have the unlabelled value."""
    unlabelled = level.unlabelled or UNLABELLED
    names = cells.labels.get(level.key, np.full(len(cells), "")).astype(object)
    names[~np.isin(names, level.categories)] = unlabelled
    told = kind == "scanvi" or unlabelled in names
    return pd.Categorical(names, categories=[*level.categories, *([unlabelled] if told else [])])


def _without_counts(manifest: Manifest) -> AnnData:
    """Return a few cells without counts, with every category of every key."""
    names = {key.key: key.categories for key in manifest.categorical}
    labels = {level.key: level.categories for level in manifest.labels[:1]}
    count = CELLS_PER_CATEGORY * max([1, *map(len, (names | labels).values())])
    cells = Cells(
        x=csr_matrix((count, len(manifest.genes.panel)), dtype=np.float32),
        obs_names=np.array([f"without counts {number}" for number in range(count)], dtype=object),
        conditions={key: np.resize(categories, count) for key, categories in names.items()},
        labels={key: np.resize(categories, count) for key, categories in labels.items()},
        size_factor=np.ones(count, dtype=np.float32),
        report=GeneReport(coverage=1.0),
        continuous=np.zeros((count, len(manifest.covariates.continuous)), np.float32)
        if manifest.covariates.continuous
        else None,
    )
    return _with_counts(manifest, cells, None)

"""A manifest and weights to one of scvi-tools' models, which has a registry and, where they are given, cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hub_client.data.cells import Cells, GeneReport
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.v1 import LabelLevel, Manifest
from hub_client.models.architectures.scvi.modules import parameters, scvi_tools
from hub_client.models.architectures.scvi.tables import KINDS, batch_key, protein_masks
from hub_client.nn import training

UNLABELLED = "unlabelled"
"""What scANVI reads for cells without a label, where the manifest has no word for it."""
CELLS_PER_CATEGORY = 3
"""scvi-tools warns of categories with fewer cells."""


def scvi_model(
    manifest: Manifest, weights: Mapping[str, Tensor], cells: Cells | None, *, obs: pd.DataFrame | None
) -> Any:
    """Return a trained ``scvi.model.SCVI``, ``SCANVI`` or ``TOTALVI`` with a manifest's axes and a module's weights.

    Parameters
    ----------
    manifest
        The release's.
    weights
        Tensors by the names scvi-tools has for them.
    cells
        Aligned cells, which become the model's ``adata``; None makes some without counts.
    obs
        Further columns of the cells' obs.

    Raises
    ------
    VocabularyError
        If cells have a category that the manifest does not know.
    """
    config, kind, vocabulary = manifest.architecture, KINDS[manifest.architecture.kind], Vocabulary.of(manifest)
    if cells is not None:
        vocabulary.condition_codes(cells.conditions, cells=len(cells))
        vocabulary.covariate_codes(cells.conditions, cells=len(cells))
    model_class = getattr(scvi_tools().model, kind.model)
    empty = _without_counts(manifest)
    with quiet(), torch.random.fork_rng(devices=[]):
        model_class.setup_anndata(empty, **_setup(manifest))
        model = model_class(empty, **parameters(manifest), **dict.fromkeys(kind.initial, False))
    model.init_params_["non_kwargs"] |= {name: getattr(config, field) for name, field in kind.initial.items()}
    model.module.load_state_dict(weights)
    if cells is not None:
        _adopt(model, _with_counts(manifest, cells, obs))
    if manifest.proteins is not None:
        _set_masks(model, protein_masks(manifest))
    model.module.eval()
    model.is_trained_ = True
    return model


def _adopt(model: Any, adata: AnnData) -> None:
    """Make cells a model's own.

    The model was made around cells that have every category, so that its sizes are the manifest's whatever these have:
    one cell, some of the labels, or a batch of many.
    """
    with quiet():
        manager = model.adata_manager.transfer_fields(adata, extend_categories=True)
        model._register_manager_for_instance(manager)
        model.adata = adata
        if hasattr(model, "_set_indices_and_labels"):
            model._set_indices_and_labels()


def _set_masks(model: Any, masks: Mapping[str, NDArray[np.bool_]] | None) -> None:
    """Record which proteins batches measured, in the module and in the registry, which knows it of the cells alone."""
    model.module.protein_batch_mask = masks
    state = model.registry_["field_registries"]["proteins"]["state_registry"]
    state.pop("protein_batch_mask", None)
    if masks is not None:
        state["protein_batch_mask"] = masks


def quiet() -> AbstractContextManager[None]:
    """Silence what scvi-tools reports about data: it was checked when it was aligned."""
    return training.quiet("scvi", level=logging.WARNING)


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


def _protein_key(manifest: Manifest) -> str:
    return (manifest.proteins and manifest.proteins.source) or "protein_expression"


SETUP: Mapping[str, Callable[[Manifest], dict[str, Any]]] = {
    "scvi": _labels,
    "scanvi": lambda manifest: _labels(manifest) | {"unlabeled_category": manifest.labels[0].unlabelled or UNLABELLED},
    "totalvi": lambda manifest: {"protein_expression_obsm_key": _protein_key(manifest)},
}
"""What each kind's ``setup_anndata`` is given besides."""


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
    adata = AnnData(cells.x.copy(), obs=frame, var=pd.DataFrame(index=pd.Index(manifest.genes.names, dtype=object)))
    if manifest.proteins is not None:
        panel = list(manifest.proteins.panel)
        counts = np.zeros((len(cells), len(panel)), np.float32) if cells.proteins is None else cells.proteins
        adata.obsm[_protein_key(manifest)] = pd.DataFrame(counts, index=adata.obs_names, columns=panel)
    return adata


def _labelled(cells: Cells, level: LabelLevel, kind: str) -> pd.Categorical:
    """Return cells' labels; those without one, or with one the model does not know, have the unlabelled value."""
    unlabelled = level.unlabelled or UNLABELLED
    names = cells.labels.get(level.key, np.full(len(cells), "")).astype(object)
    names[~np.isin(names, level.categories)] = unlabelled
    expected = kind == "scanvi" or unlabelled in names
    return pd.Categorical(names, categories=[*level.categories, *([unlabelled] if expected else [])])


def _without_counts(manifest: Manifest) -> AnnData:
    """Return a few cells without counts, with every category of every key."""
    names = {key.key: key.categories for key in manifest.categorical}
    labels = {level.key: level.categories for level in manifest.labels[:1]}
    count = CELLS_PER_CATEGORY * max([1, *map(len, (names | labels).values())])
    continuous = len(manifest.covariates.continuous)
    cells = Cells(
        x=csr_matrix((count, len(manifest.genes.panel)), dtype=np.float32),
        obs_names=np.array([f"without counts {number}" for number in range(count)], dtype=object),
        conditions={key: np.resize(categories, count) for key, categories in names.items()},
        labels={key: np.resize(categories, count) for key, categories in labels.items()},
        size_factor=np.ones(count, dtype=np.float32),
        report=GeneReport(coverage=1.0),
        continuous=np.zeros((count, continuous), np.float32) if continuous else None,
        proteins=_measured(manifest, count),
    )
    return _with_counts(manifest, cells, None)


def _measured(manifest: Manifest, count: int) -> NDArray[np.float32] | None:
    """Return a count of 1 for each protein that a cell's batch measured, from which scvi-tools tells that it did."""
    if manifest.proteins is None:
        return None
    masks = protein_masks(manifest)
    whole = np.ones((count, len(manifest.proteins.panel)), np.float32)
    return whole if masks is None else np.resize(np.stack(list(masks.values())), whole.shape).astype(np.float32)

"""Label transfer by weighted nearest neighbours, as scArches' ``utils.knn`` names it.

Sikkema 2023, doi 10.1038/s41591-023-02327-2, Methods. Where it differs on purpose from scArches 0.6.1: cells are called
Unknown above the threshold of uncertainty, as it documents (there, below the same number as a probability); neighbours
without a label vote for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.labels.neighbors import vote_weights

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsTransformer

UNKNOWN = "Unknown"
_X = "X"


def weighted_knn_trainer(train_adata: AnnData, train_adata_emb: str, n_neighbors: int = 50) -> KNeighborsTransformer:
    """Return the reference's cells in the latent, ready to be searched for neighbours.

    Parameters
    ----------
    train_adata
        The reference.
    train_adata_emb
        Where its latent is: a key of ``obsm``, or ``X``.
    n_neighbors
        How many neighbours vote; all, where the reference has fewer.
    """
    from sklearn.neighbors import KNeighborsTransformer

    points = _latent(train_adata, train_adata_emb, argument="train_adata_emb")
    number = min(n_neighbors, len(points))
    return KNeighborsTransformer(n_neighbors=number, mode="distance", algorithm="brute").fit(points)


def weighted_knn_transfer(
    query_adata: AnnData,
    query_adata_emb: str,
    ref_adata_obs: pd.DataFrame,
    label_keys: str,
    knn_model: KNeighborsTransformer,
    threshold: float = 1,
    pred_unknown: bool = False,
    mode: str = "package",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labels of cells by the votes of their nearest reference cells, and how uncertain they are.

    Parameters
    ----------
    query_adata
        The cells.
    query_adata_emb
        Where their latent is: a key of ``obsm``, or ``X``.
    ref_adata_obs
        obs of the reference cells, in the order that ``knn_model`` was made of.
    label_keys
        What the names of the columns with labels begin with.
    knn_model
        From :func:`weighted_knn_trainer`.
    threshold
        The uncertainty above which a cell is ``Unknown``, if ``pred_unknown``.
    pred_unknown
        Whether cells are called ``Unknown``.
    mode
        ``package``: an uncertainty is 1 less the share of the votes that the label got. scArches names ``paper``, too,
        and has none.

    Returns
    -------
    DataFrame, DataFrame
        Labels and uncertainties in [0, 1], ``(cells, label columns)`` each.

    Raises
    ------
    VocabularyError
        If no column begins so.
    InvalidInput
        For another mode, or if obs has not as many rows as ``knn_model`` has cells.
    """
    if mode != "package":
        raise errors.InvalidInput(f"mode is {mode!r}; it can be 'package' only, as in scArches.", facts={"mode": mode})
    columns = [column for column in ref_adata_obs.columns if str(column).startswith(label_keys)]
    if not columns:
        raise errors.VocabularyError(
            f"no column of ref_adata_obs begins with {label_keys!r}; it has {errors.names(ref_adata_obs.columns)}.",
            field="label_keys",
            unknown=[label_keys],
            known=list(ref_adata_obs.columns),
        )
    if len(ref_adata_obs) != knn_model.n_samples_fit_:
        raise errors.InvalidInput(
            f"ref_adata_obs has {len(ref_adata_obs):,} rows, and knn_model {knn_model.n_samples_fit_:,} cells; give "
            "the obs of the cells it was made of.",
            facts={"ref_adata_obs": len(ref_adata_obs), "cells": knn_model.n_samples_fit_},
        )
    distances, indices = knn_model.kneighbors(_latent(query_adata, query_adata_emb, argument="query_adata_emb"))
    weights = vote_weights(distances)
    labels, uncertainties = {}, {}
    for column in columns:
        labels[column], unsure = _voted(ref_adata_obs[column], weights, indices)
        uncertainties[column] = unsure
        if pred_unknown:
            labels[column] = np.where(unsure > threshold, UNKNOWN, labels[column])
    cells = query_adata.obs_names
    return pd.DataFrame(labels, index=cells, dtype=object), pd.DataFrame(uncertainties, index=cells)


def _latent(adata: AnnData, where: str, *, argument: str) -> Any:
    if where != _X and where not in adata.obsm:
        raise errors.InvalidInput(
            f"{argument} is {where!r}; it is 'X' or a key of obsm, which has {errors.names(adata.obsm) or 'none'}.",
            facts={argument: where},
        )
    points = adata.X if where == _X else adata.obsm[where]
    return points.to_numpy() if isinstance(points, pd.DataFrame) else points


def _voted(
    labels: pd.Series, weights: NDArray[np.float64], indices: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the label with most votes of each cell, ``(cells,)``, and 1 less its share of all votes."""
    codes, names = pd.factorize(labels, sort=True)
    width, (cells, neighbors) = len(names) + 1, indices.shape
    if not len(names):
        return np.full(cells, np.nan, dtype=object), np.ones(cells)
    # neighbours without a label have code -1: they vote in a column of their own, which wins nothing
    places = np.repeat(np.arange(cells), neighbors) * width + codes[indices.reshape(-1)] % width
    votes = np.bincount(places, weights=weights.reshape(-1), minlength=cells * width).reshape(cells, width)
    shares = votes / votes.sum(axis=1, keepdims=True)
    best = shares[:, :-1].argmax(axis=1)
    share = shares[np.arange(cells), best]
    found = np.asarray(names, dtype=object)[best]
    return np.where(share > 0, found, np.nan), np.clip(1 - share, 0, 1)

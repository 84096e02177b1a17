"""Read labels and conditions of cells by scPoli's arguments in scArches, and answer its ``classify``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from hub_client import errors
from hub_client.compat import _manifests
from hub_client.compat._base import SAMPLE_SEED
from hub_client.data.cells import Cells
from hub_client.data.values import Names
from hub_client.interop.scpoli import relative_uncertainty

Conditions: TypeAlias = Mapping[str, ArrayLike] | ArrayLike
"""The conditions of cells: of each key, or of the only one."""
COMBINED = "conditions_combined"
"""The obs column in which scArches joins the conditions of all keys."""


def with_combined(adata: AnnData, keys: Sequence[str]) -> AnnData:
    """Return an AnnData of the same arrays whose obs has the conditions of all keys joined by ``_``, as scArches adds.

    The given one stays as it is; where it lacks a key, or lies in a file that is read piece by piece, it is returned.
    """
    if adata.isbacked or not keys or not set(keys) <= set(adata.obs):
        return adata
    combined = adata.obs[list(keys)].astype(str).agg("_".join, axis=1)
    return AnnData(
        adata.X,
        obs=adata.obs.assign(**{COMBINED: combined}),
        var=adata.var,
        uns=adata.uns,
        raw=adata.raw,
        **{part: dict(getattr(adata, part)) for part in ("obsm", "varm", "layers", "obsp", "varp")},
    )


def with_conditions(adata: AnnData, given: Conditions | None, keys: Sequence[str]) -> AnnData:
    """Return cells whose obs has the conditions that were given for them; None: those it has.

    Raises
    ------
    InvalidInput
        If a key's conditions are missing, or are not as many as there are cells.
    """
    if given is None:
        return adata
    named = given if isinstance(given, Mapping) else dict(zip(keys, np.atleast_2d(np.asarray(given).T), strict=False))
    columns = {str(key): np.asarray(values, dtype=str).reshape(-1) for key, values in named.items()}
    sizes = {key: len(values) for key, values in columns.items()}
    if set(columns) != set(keys) or set(sizes.values()) - {adata.n_obs}:
        raise errors.InvalidInput(
            f"c has conditions {sizes or 'of no key'}; give those of each of the {adata.n_obs:,} cells for each of "
            f"{errors.names(keys)}: a dict by key, or an array where there is one key.",
            facts={"c": sizes, "condition_keys": list(keys), "cells": adata.n_obs},
        )
    return AnnData(adata.X, obs=adata.obs.assign(**columns), var=adata.var)


def metadata_of(adata: AnnData | None, keys: Sequence[str]) -> pd.DataFrame:
    """Return the first value of every obs column in each condition, or in each combination of several keys."""
    if adata is None or not keys or not set(keys) <= set(adata.obs):
        return pd.DataFrame()
    return adata.obs.groupby(keys[0] if len(keys) == 1 else list(keys), observed=True).first()


def cell_labels(
    adata: AnnData, keys: list[str], labelled: Sequence[int] | None, unknown: list[str] | None
) -> dict[str, Names]:
    """Return the label of each cell per level, ``""`` for cells that are not labelled."""
    chosen = np.ones(adata.n_obs, dtype=bool)
    if labelled is not None:
        chosen[:] = False
        chosen[_positions(labelled, adata.n_obs)] = True
    labels = {}
    for key in keys:
        _manifests.categories(adata.obs, key)
        names = _manifests.names(adata.obs[key])
        labels[key] = np.where(chosen & ~np.isin(names, unknown or []), names, "")
    return labels


def _positions(labelled: Sequence[int], cells: int) -> NDArray[np.int64]:
    """Return positions of cells, from the end where they are negative; a saved range may claim any length."""
    whole_range = isinstance(labelled, range) and labelled
    ends = (labelled[0], labelled[-1]) if whole_range else labelled  # those of a range take no walk along it
    first, last = min(ends, default=0), max(ends, default=0)
    if len(labelled) > cells or not -cells <= first <= last < cells:
        raise errors.InvalidInput(
            f"labeled_indices has {len(labelled):,} positions, up to {last:,}, and there are {cells:,} cells; "
            "give the positions of those whose labels are used.",
            facts={"labeled_indices": len(labelled), "cells": cells},
        )
    return np.asarray(labelled, dtype=np.int64)


def subsample_groups(cells: Cells, share: float) -> NDArray[np.int64]:
    """Return a seeded share of each combination of conditions and labels, at least one cell of each."""
    groups = pd.DataFrame(cells.conditions | {f"label of {key}": names for key, names in cells.labels.items()})
    grouped = groups.groupby(list(groups.columns), sort=True).indices.values()
    draw = np.random.default_rng(SAMPLE_SEED)
    chosen = [draw.permutation(members)[: math.ceil(share * len(members))] for members in grouped]
    return np.sort(np.concatenate(chosen))


def recoded(obs: pd.DataFrame, conditions: dict[str, list[str]], encoders: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Return conditions as the encoders' codes name them."""
    columns = {key: pd.Series(_manifests.names(obs[key]), index=obs.index) for key in conditions}
    for key, encoder in encoders.items():
        columns[key] = columns[key].map(lambda name, e=encoder, k=key: conditions[k][e[name]])
    return pd.DataFrame(columns, index=obs.index)


def check_combined(obs: pd.DataFrame, cells: Cells, known: list[str], encoder: dict[str, int] | None) -> None:
    if encoder is None:
        return
    keys = list(cells.conditions)
    given = (
        pd.DataFrame({key: _manifests.names(obs[key]) for key in keys}, index=obs.index)
        .agg("_".join, axis=1)
        .map(encoder)
        .map(lambda code: known[code])
    )
    meant = pd.DataFrame(cells.conditions, index=obs.index)[keys].agg("_".join, axis=1)
    if not (given == meant).all():
        raise errors.InvalidInput(
            "conditions_combined_encoder and condition_encoders name different conditions for the same cells; "
            "give encoders that agree.",
            facts={"conditions_combined_encoder": encoder},
        )


def constant_columns(obs: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the columns of obs that have one value in each category of a key, ``(categories, columns)``."""
    groups = obs.groupby(obs[key].astype(str), observed=True)
    constant = groups.nunique(dropna=False).max() <= 1
    return groups.first()[[name for name in constant.index[constant] if name not in (key, COMBINED)]]


def one_row_each(saved: Any) -> pd.DataFrame | None:
    """Return scArches' table of one row per condition; with several condition keys its rows are those of no one key."""
    if not isinstance(saved, pd.DataFrame) or isinstance(saved.index, pd.MultiIndex):
        return None
    return saved[~saved.index.duplicated()]


def nearest_label(labels: tuple[str, ...], distances: NDArray[Any], get_prob: bool, scale: bool) -> dict[str, Any]:
    """Return scArches' answer of ``classify`` from distances to prototypes, ``(cells, labels)``."""
    values = softmax(-distances, axis=1) if get_prob else distances
    best = values.argmax(axis=1) if get_prob else values.argmin(axis=1)
    unsure = np.take_along_axis(values, best[:, None], axis=1)[:, 0]
    return {
        "preds": np.array(labels)[best],
        "uncert": relative_uncertainty(unsure) if scale else unsure,
        "weighted_distances": values,
    }

"""Turn scArches' constructor arguments into parts of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.values import blanks, counted
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Combination, Condition, Embedding, LabelLevel, OneHot


def as_list(keys: str | Sequence[str] | None) -> list[str]:
    """Return scArches' one-or-many argument as a list."""
    if keys is None:
        return []
    return [keys] if isinstance(keys, str) else list(keys)


def check_column(obs: pd.DataFrame, key: str) -> None:
    """Refuse a column that obs does not have."""
    if key not in obs:
        raise errors.VocabularyError(
            f"obs has no column {key!r}; it has {errors.names(obs.columns)}.",
            field="obs",
            unknown=[key],
            known=obs.columns,
        )


def categories(obs: pd.DataFrame, key: str) -> tuple[str, ...]:
    """Return the sorted categories of an obs column.

    Raises
    ------
    VocabularyError
        If there is no such column, or it has gaps.
    """
    check_column(obs, key)
    if obs[key].isna().any():
        raise errors.VocabularyError(
            f"obs[{key!r}] is missing for {int(obs[key].isna().sum()):,} cells; fill them in or leave these cells out.",
            field=key,
        )
    return tuple(sorted(set(names(obs[key]).tolist())))


def names(column: pd.Series) -> NDArray[np.str_]:
    """Return a column as scArches writes it, ``(cells,)``: ``str`` of each value, but of bytes what they spell."""
    plain = column.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    found: NDArray[np.str_] = plain.astype(str).to_numpy(dtype=str)
    return found


def _condition_categories(obs: pd.DataFrame, key: str) -> tuple[str, ...]:
    """Return the sorted categories of a condition; refuse texts such as ``nan`` that mean there is none."""
    found = categories(obs, key)
    if gaps := blanks(obs[key]):
        raise errors.VocabularyError(
            f"obs[{key!r}], a condition, has no value ({counted(gaps)}) for {sum(gaps.values()):,} of {len(obs):,} "
            "cells; fill them in or leave these cells out.",
            field=key,
            unknown=list(gaps),
        )
    return found


def conditions(
    obs: pd.DataFrame, keys: list[str], declared: dict[str, list[str]] | None, dims: int | list[int], max_norm: float
) -> tuple[Condition, ...]:
    """Return the condition keys with their categories: the declared ones, or the sorted ones of ``obs``."""
    sizes = [dims] * len(keys) if isinstance(dims, int) else list(dims)
    if len(sizes) != len(keys):
        raise errors.InvalidInput(
            f"embedding_dims has {len(sizes)} entries for {len(keys)} condition keys; give one for each.",
            facts={"embedding_dims": dims, "condition_keys": keys},
        )
    return tuple(
        Condition(
            key=key,
            categories=tuple((declared or {}).get(key) or _condition_categories(obs, key)),
            encoding=Embedding(dim=size, max_norm=max_norm),
        )
        for key, size in zip(keys, sizes, strict=True)
    )


def one_hot(obs: pd.DataFrame, column: str | None, declared: Sequence[str] | None) -> tuple[Condition, ...]:
    """Return the one-hot condition of an obs column, with the declared categories or its sorted ones."""
    if column is None:
        return ()
    known = tuple(map(str, declared)) if declared else _condition_categories(obs, column)
    return (Condition(key=key_of(column), categories=known, encoding=OneHot()),)


def levels(
    obs: pd.DataFrame, keys: list[str], declared: dict[str, list[str]] | None, labelled: dict[str, Any]
) -> tuple[LabelLevel, ...]:
    """Return the label levels: the declared cell types of each, or the sorted ones of its labelled cells."""
    found = []
    for key in keys:
        categories(obs, key)
        seen = sorted(set(np.asarray(labelled[key], dtype=str).tolist()) - {""})
        known = [name for name, where in declared.items() if key in where] if declared else seen
        if not known:
            raise errors.VocabularyError(f"obs[{key!r}] labels no cell; leave it out of cell_type_keys.", field=key)
        found.append(LabelLevel(key=key, categories=tuple(known), ontology=dict.fromkeys(known)))
    return tuple(found)


def combinations(obs: pd.DataFrame, keys: list[str], declared: list[str] | None) -> tuple[Combination, ...]:
    """Return the observed combinations of several keys: in the declared order, else sorted."""
    if len(keys) < 2:
        return ()
    rows = sorted(set(zip(*(names(obs[key]).tolist() for key in keys), strict=True)))
    if declared is not None:
        by_name = {"_".join(row): row for row in rows}
        rows = [by_name[name] for name in declared if name in by_name]
    return tuple(Combination(values=row) for row in rows)

"""A query's obs under the manifest's keys: conditions, labels and size factors of its cells."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data import persons
from hub_client.data.donors import looks_like_donors
from hub_client.data.values import Names, blanks, counted, texts, unwritable, without_blanks
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Condition, Manifest

NEW = "query"
"""The category of a query that does not state which conditions its cells come from."""


def column(obs: pd.DataFrame, name: str, *, purpose: str) -> pd.Series:
    """Return a column of obs.

    Raises
    ------
    VocabularyError
        If obs has no such column, the message suggests those that are named like it; if it has several, or one that
        holds lists.
    """
    times = list(obs.columns).count(name)
    if times == 1:
        return _one_value_each(obs[name], purpose=purpose)
    if times:
        raise errors.VocabularyError(
            f"the query's obs has {times} columns {name!r}, of which one was to hold {purpose}: rename or drop the "
            "others, as in adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()].",
            field="obs",
            unknown=[name],
        )
    known = [str(known) for known in obs.columns]
    close = get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"Did you mean {errors.names(close)}?" if close else f"It has {errors.names(known) or 'no columns'}."
    raise errors.VocabularyError(
        f"the query's obs has no column {name!r}, which was to hold {purpose}. {hint}",
        field="obs",
        unknown=[name],
        known=known,
    )


def _texts(values: pd.Series) -> Names:
    """Return a column as text; refuse what no file of a model holds."""
    names = texts(values)
    if wrong := unwritable(names):
        raise errors.VocabularyError(
            f"obs[{values.name!r}] holds {errors.names(map(ascii, wrong))}: half a character or a zero, as text "
            "has that was read in another encoding, and no file of a model holds. Correct the column.",
            field="obs",
            unknown=wrong,
        )
    return names


def _one_value_each(values: pd.Series, *, purpose: str) -> pd.Series:
    if values.dtype != object:
        return values
    listed = np.fromiter((not pd.api.types.is_hashable(v) for v in values), dtype=bool, count=len(values))
    listed |= np.fromiter(map(pd.api.types.is_list_like, values), dtype=bool, count=len(values))
    if not listed.any():
        return values
    first = values.iloc[int(listed.argmax())]
    raise errors.VocabularyError(
        f"obs[{values.name!r}], which was to hold {purpose}, holds a {type(first).__name__} for "
        f"{int(listed.sum()):,} of {len(values):,} cells, {str(first)[:60]!r}. Every cell needs one value: text or a "
        "number.",
        field="obs",
        unknown=[str(first)[:60]],
    )


@dataclass(frozen=True)
class Annotations:
    """What obs states of each cell."""

    conditions: dict[str, Names]
    """Condition key, or key of a categorical covariate, to category, ``(cells,)``."""
    labels: dict[str, Names]
    """Label level to label, ``(cells,)``; ``""`` for cells without one."""
    size_factors: NDArray[np.float32] | None
    """``(cells,)``, or None where they are the counts' sums."""
    columns: dict[str, str]
    """The obs column each condition key was read from; a key that is not here gave all cells one new category."""
    notes: tuple[str, ...]
    """What the user should know, one sentence each."""
    continuous: NDArray[np.float32] | None
    """Continuous covariates, ``(cells, continuous)``; None for a model without."""


def read_obs(
    obs: pd.DataFrame,
    manifest: Manifest,
    *,
    conditions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    size_factor: str | None = None,
) -> Annotations:
    """Return what a query's obs states of its cells, under the manifest's keys.

    Parameters
    ----------
    obs
        The query's cells, ``(cells, columns)``.
    conditions
        Key to obs column, for each condition and covariate of the manifest. If left out, columns named like the keys
        are read; a condition or categorical covariate without one gives all cells one new category.
    labels
        Label level to obs column; levels that are not named have no labels.
    size_factor
        The obs column with size factors; takes the place of the manifest's.

    Raises
    ------
    InvalidInput
        If ``conditions`` or ``labels`` is no mapping.
    VocabularyError
        If a key is not the manifest's or one of its keys is left out, a column is not there, a condition has gaps or a
        category the model can neither know nor learn, a continuous covariate is no number, or a size factor is not a
        positive one.
    """
    columns = _condition_columns(obs, manifest, given=conditions)
    found = {c.key: _condition(obs, c, columns.get(c.key)) for c in manifest.categorical}
    factors = size_factor or manifest.input.size_factor
    labelled, unlabelled = _label_levels(obs, manifest, columns=labels or {})
    return Annotations(
        conditions=found,
        labels=labelled,
        size_factors=_size_factors(obs, factors) if factors else None,
        columns=columns,
        notes=(
            *(_one_category(key, found[key]) for key in found if key not in columns),
            *(note for c in manifest.categorical if (note := _donors(c, found[c.key], columns.get(c.key)))),
            *(note for c in manifest.categorical if (note := _spelt_alike(c, found[c.key]))),
            *unlabelled,
        ),
        continuous=_continuous(obs, [columns.get(key, key) for key in manifest.covariates.continuous]),
    )


def named_like(obs: pd.DataFrame, keys: Iterable[str]) -> dict[str, str]:
    """Return the obs column of each key that has one: of the same name or, failing that, of the name it is the key of.

    A key has ``_`` for the blanks and ``. / + *`` of a column's name.
    """
    columns = {key_of(name): name for name in map(str, obs.columns)} | {str(name): str(name) for name in obs.columns}
    return {key: columns[key] for key in keys if key in columns}


def _one_category(key: str, values: Names) -> str:
    return (
        f"no obs column was given for the condition {key!r}: all {len(values):,} cells are taken as one new category, "
        f"{str(values[0])!r}. If they are several, pass conditions={{{key!r}: obs column}}."
    )


def _donors(condition: Condition, values: Names, column: str | None) -> str | None:
    """Return a warning where new categories look like donors, whose names a mapped model would carry on."""
    new = sorted(set(np.unique(values).tolist()) - set(condition.categories))
    named = [name for name in new if persons.gives_away(name)]
    why = looks_like_donors(condition.key, new, column=column) if new and column else None
    if why is None and not named:
        return None
    told = "" if named else " unless it is told publish_donors=True"
    return (
        f"the condition {condition.key!r} looks like donors or patients by "
        f"{why or f'its categories, {errors.names(named)}'}: their names ({errors.names(new)}) "
        "become part of the mapped model. Before others get it, map again with a column whose names mean nothing to "
        f"them, such as the library or a number; a push refuses it{told}."
    )


def _spelt_alike(condition: Condition, values: Names) -> str | None:
    """Return a warning where new categories are the model's but for case, blanks and signs."""
    known = {_letters(name): name for name in condition.categories}
    new = sorted(set(np.unique(values).tolist()) - set(condition.categories))
    alike = [f"{name!r} for {known[_letters(name)]!r}" for name in new if _letters(name) in known]
    if not alike:
        return None
    return (
        f"the condition {condition.key!r} has new categories that are spelt like the model's ({errors.names(alike)}). "
        "They are taken as new ones; if they are the same, rename them in obs."
    )


def _letters(name: str) -> str:
    """Return the letters and digits of a name, whatever their case and how Unicode composes them."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name


def _condition_columns(obs: pd.DataFrame, manifest: Manifest, *, given: Mapping[str, str] | None) -> dict[str, str]:
    keys = [*(condition.key for condition in manifest.categorical), *manifest.covariates.continuous]
    if not given:
        return {key: key for key in keys if key in obs}
    _check_keys(given, keys, argument="conditions")
    columns = {key: name for key, name in given.items() if name is not None}
    if lacking := [key for key in keys if key not in columns]:
        raise errors.VocabularyError(
            f"conditions= gives a column for {errors.names(columns) or 'nothing'}, but none for "
            f"{errors.names(lacking)}; the model {manifest.name} needs one for each of {errors.names(keys)}.",
            field="conditions",
            unknown=lacking,
            known=keys,
        )
    return columns


def _condition(obs: pd.DataFrame, condition: Condition, name: str | None) -> Names:
    if name is None:
        numbered = (f"{NEW}-{number}" for number in count(2))
        unused = next(name for name in chain([NEW], numbered) if name not in condition.categories)
        values = np.full(len(obs), unused)
    else:
        values = _whole_column(column(obs, name, purpose=f"the condition {condition.key!r}"), condition)
    strangers = sorted(set(np.unique(values).tolist()) - set(condition.categories))
    if strangers and condition.unknown == "error":
        raise errors.VocabularyError(
            f"the condition {condition.key!r} has categories this model cannot learn: {errors.names(strangers)}. "
            f"It takes {errors.names(condition.categories)}; pass conditions={{{condition.key!r}: column}} with a "
            "column that holds these.",
            field=condition.key,
            unknown=strangers,
            known=condition.categories,
        )
    return values


def _whole_column(values: pd.Series, condition: Condition) -> Names:
    gaps = blanks(values, known=condition.categories)
    if gaps:
        raise errors.VocabularyError(
            f"obs[{values.name!r}], the condition {condition.key!r}, has no value ({counted(gaps)}) for "
            f"{sum(gaps.values()):,} of {len(values):,} cells. Every cell needs one: fill the gaps in, or leave "
            f"these cells out; if one of these texts is a value of {condition.key!r} here, give it another name.",
            field=condition.key,
            unknown=list(gaps),
        )
    return _texts(values)


def _label_levels(
    obs: pd.DataFrame, manifest: Manifest, *, columns: Mapping[str, str]
) -> tuple[dict[str, Names], list[str]]:
    """Return the labels of each level, ``""`` for cells without one, and notes on texts that were taken for none."""
    levels = {level.key: level for level in manifest.labels}
    _check_keys(columns, levels, argument="labels")
    found, notes = {}, []
    for key, name in columns.items():
        values, level = column(obs, name, purpose=f"the labels {key!r}"), levels[key]
        names = _texts(values)
        named = names != level.unlabelled if level.unlabelled is not None else np.ones(len(names), dtype=bool)
        found[key] = without_blanks(np.where(named, names, ""), known=level.categories)
        written = blanks(values[named & values.notna().to_numpy()], known=level.categories)
        if written:
            notes.append(
                f"obs[{name!r}] labels no cell with {counted(written)}: {sum(written.values()):,} of {len(values):,} "
                f"cells have no label of {key!r}. If one of these is a label, give it another name."
            )
    return found, notes


def _check_keys(given: Iterable[str], known: Iterable[str], *, argument: str) -> None:
    keys = list(known)
    if not isinstance(given, Mapping):
        raise errors.InvalidInput(
            f"{argument}= is a {type(given).__name__}; write {argument}={{model's key: your obs column}}. The model's "
            f"keys are {errors.names(keys) or 'none'}.",
            facts={argument: given},
        )
    if strangers := [key for key in given if key not in keys]:
        raise errors.VocabularyError(
            f"{argument}= names {errors.names(strangers)}, but the model's {argument} are "
            f"{errors.names(keys) or 'none'}. Write {argument}={{model's key: your obs column}}.",
            field=argument,
            unknown=strangers,
            known=keys,
        )


def _continuous(obs: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float32] | None:
    """Return continuous covariates, ``(cells, continuous)``; refuse columns that hold anything but finite numbers."""
    columns = [_numbers(column(obs, name, purpose="a continuous covariate")) for name in names]
    for name, values in zip(names, columns, strict=True):
        if wrong := int((~np.isfinite(values)).sum()):
            raise errors.VocabularyError(
                f"obs[{name!r}], a continuous covariate, holds no number (NaN), or one beyond float32, for {wrong:,} "
                f"of {len(values):,} cells. Every cell needs one: fill the gaps in, or leave these cells out.",
                field=name,
                unknown=["NaN"],
            )
    return np.stack(columns, axis=1) if columns else None


def _numbers(values: pd.Series) -> NDArray[np.float32]:
    """Return a column as numbers, ``(cells,)``, NaN where it holds none, infinite beyond what float32 holds."""
    plain = values.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    found: NDArray[np.float64] = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def _size_factors(obs: pd.DataFrame, name: str) -> NDArray[np.float32]:
    """Return the size factor of each cell, ``(cells,)``; refuse a column that holds anything but positive numbers."""
    factors = _numbers(column(obs, name, purpose="each cell's size factor (its total counts)"))
    wrong = int((~(np.isfinite(factors) & (factors > 0))).sum())
    if wrong:
        raise errors.VocabularyError(
            f"obs[{name!r}] should hold each cell's size factor, a positive number; {wrong:,} of {len(factors):,} "
            "cells have none. Correct the column, or pass size_factor= with another one.",
            field=name,
        )
    return factors

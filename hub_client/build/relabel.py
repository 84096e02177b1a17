"""A recipe's corrections of labels, applied to the cells of one data set before anything is chosen or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.values import Names
from hub_client.manifest.corrections import AppliedCorrection, Correction
from hub_client.manifest.recipe import LabelRule


@dataclass(frozen=True)
class Corrected:
    """A data set's cells under corrected labels, and what each rule changed."""

    counts: AnnData
    """Those that are not left out, ``(cells, genes)``."""
    changed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Label level to the cells that each of its rules changed, and among how many with the given labels."""
    given: dict[str, set[str]] = field(default_factory=dict)
    """Label level to the labels that the data set gives."""


def corrected(
    counts: AnnData, rules: Sequence[LabelRule], *, dataset: str, given: Mapping[str, Names | None]
) -> Corrected:
    """Return a data set's cells under the labels that the recipe's corrections give them.

    Parameters
    ----------
    counts
        Counts over all genes of the data set, ``(cells, genes)``, with a column of ``obs`` for each level, whose labels
        are the release's. It is not changed.
    rules
        The recipe's label levels.
    dataset
        The data set's name.
    given
        Label level to the label that the data set gives each cell, ``(cells,)``; None for a level it does not have.

    Raises
    ------
    AlignmentError
        If a rule names a gene that the data set does not have.
    """
    obs, kept = counts.obs.copy(), np.ones(counts.n_obs, dtype=bool)
    found = Corrected(counts)
    for level in (rule for rule in rules if rule.corrections):
        names = given.get(level.key)
        met = np.full(counts.n_obs, -1) if names is None else _met(counts, level.corrections, names, dataset=dataset)
        labels = obs[level.key].to_numpy(dtype=object, copy=True)
        for number, rule in enumerate(level.corrections):
            labels[met == number] = rule.to or ("" if rule.unlabel else labels[met == number])
            kept &= ~((met == number) & rule.leave_out)
        obs[level.key] = labels.astype(str)
        found.given[level.key] = set() if names is None else set(names.tolist())
        found.changed[level.key] = [
            (int((met == number).sum()), 0 if names is None else int(_eligible(rule, names, dataset).sum()))
            for number, rule in enumerate(level.corrections)
        ]
    if not found.changed:
        return found
    copy = counts.copy()
    copy.obs = obs
    return Corrected(copy[kept].copy(), found.changed, found.given)


def _met(counts: AnnData, rules: Sequence[Correction], names: Names, *, dataset: str) -> NDArray[np.int64]:
    """Return the number of the first rule that each cell meets, ``(cells,)``; -1 where it meets none."""
    met = np.full(len(names), -1)
    for number, rule in enumerate(rules):
        eligible = _eligible(rule, names, dataset) & (met < 0)
        if eligible.any():
            met[eligible & _meets(counts, rule, dataset=dataset)] = number
    return met


def _eligible(rule: Correction, names: Names, dataset: str) -> NDArray[np.bool_]:
    """Return which cells have a given label, in a data set that the rule is for, ``(cells,)``."""
    if rule.datasets and dataset not in rule.datasets:
        return np.zeros(len(names), dtype=bool)
    return np.isin(names, rule.given)


def _meets(counts: AnnData, rule: Correction, *, dataset: str) -> NDArray[np.bool_]:
    """Return which cells have the counts that a rule asks for, ``(cells,)``."""
    if lost := sorted({*rule.present, *rule.absent} - set(counts.var_names)):
        raise errors.AlignmentError(
            f"data set {dataset!r} has no genes {errors.names(lost)}, by which labels {errors.names(rule.given)} are "
            "to be corrected. Name the genes as this data set does, or write the rule for other data sets "
            "(corrections.datasets).",
            missing=lost,
        )
    found = counted(counts, rule.present) if rule.present else np.ones(counts.n_obs, dtype=bool)
    return found & ~counted(counts, rule.absent) if rule.absent else found


def counted(counts: AnnData, genes: Sequence[str]) -> NDArray[np.bool_]:
    """Return which cells have a count of at least one of the genes, ``(cells,)``."""
    columns = counts.X[:, pd.Index(counts.var_names).get_indexer(list(genes))]
    return np.asarray((columns > 0).sum(axis=1)).reshape(-1) > 0


def applied(parts: Sequence[Corrected], rules: Sequence[LabelRule]) -> dict[str, tuple[AppliedCorrection, ...]]:
    """Return what the corrections of each level changed in all data sets together.

    Raises
    ------
    VocabularyError
        If a rule is for a label that no data set gives.
    """
    found = {}
    for level in (rule for rule in rules if rule.corrections):
        known = set().union(*(part.given[level.key] for part in parts))
        _check_given(level, known)
        sums = np.array([part.changed[level.key] for part in parts]).sum(axis=0)
        found[level.key] = tuple(
            AppliedCorrection(rule=rule, cells=int(cells), among=int(among))
            for rule, (cells, among) in zip(level.corrections, sums, strict=True)
        )
    return found


def _check_given(level: LabelRule, known: set[str]) -> None:
    wanted = {name for rule in level.corrections for name in rule.given}
    if strangers := sorted(wanted - known):
        raise errors.VocabularyError(
            f"label level {level.key!r}: corrections are for labels that no data set gives: {errors.names(strangers)}; "
            f"given are {errors.names(sorted(known))}. Name labels as the data sets do, before datasets.rename.",
            field=level.key,
            unknown=strangers,
            known=sorted(known),
        )

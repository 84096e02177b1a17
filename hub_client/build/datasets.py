"""Read a recipe's data sets, check them against their fingerprints and join them on the genes they share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, concat

from hub_client import errors
from hub_client.build.relabel import Corrected, applied, corrected
from hub_client.data.features import features
from hub_client.data.fingerprint import fingerprint
from hub_client.data.open_query import read_cells
from hub_client.data.proteins import named, spelling
from hub_client.data.sources import Source
from hub_client.data.values import Names, blanks, counted, texts, without_blanks
from hub_client.manifest.corrections import AppliedCorrection
from hub_client.manifest.provenance import DatasetRecord
from hub_client.manifest.recipe import Constant, Dataset, LabelRule, ProteinCounts, Recipe

_log = logging.getLogger(__name__)

PROTEINS = "proteins"
"""The key of ``obsm`` that holds a reference's protein counts."""


@dataclass(frozen=True)
class Reference:
    """The cells a recipe asks for."""

    counts: AnnData
    """Counts over the genes all data sets share, ``(cells, genes)``; ``obs`` has one column per condition key and label
    level, named as in the recipe and ``""`` for no label, and the size factor's where the recipe names one. Cells are
    numbered: no barcode gets past this point. ``obsm["proteins"]`` holds counts of every protein that a data set
    measured, if any, under the name that the first of these spells it by; 0 where it was not measured."""
    records: tuple[DatasetRecord, ...]
    """What the release records of each data set."""
    studies: Names
    """The name of the data set that each cell is of, ``(cells,)``."""
    corrections: dict[str, tuple[AppliedCorrection, ...]] = field(default_factory=dict)
    """Label level to what its corrections changed; levels without corrections are left out."""


@dataclass(frozen=True)
class _Part:
    """The cells of one data set."""

    counts: AnnData
    record: DatasetRecord
    corrected: Corrected


def load(recipe: Recipe, folder: Path) -> Reference:
    """Return the recipe's cells, read from the files in ``folder``.

    Raises
    ------
    NotFound
        If a data set's file is not in the folder.
    IntegrityError
        If a file's genes and counts, or proteins and counts, are not those the recipe's fingerprint was taken of.
    VocabularyError
        If a column or the proteins' key is missing, a condition is NaN, or the labels are not the recipe's.
    AlignmentError
        If a data set names a gene or a protein twice, no gene is shared, or no cell is kept.
    """
    parts = [_read(dataset, recipe, folder) for dataset in recipe.datasets]
    joined = concat([part.counts for part in parts], join="inner", index_unique="-")
    if not joined.n_vars:
        raise errors.AlignmentError(
            f"the data sets share no gene under panel.id_type {recipe.panel.id_type!r}. Check datasets.genes, the var "
            "column that holds the genes' names."
        )
    joined.obs_names = [str(index) for index in range(joined.n_obs)]
    if any(dataset.proteins for dataset in recipe.datasets):
        joined.obsm[PROTEINS] = _proteins([part.counts for part in parts]).set_axis(joined.obs_names)
    for rule in recipe.labels:
        if rule.derived_from is not None:
            joined.obs[rule.key] = _derived(joined.obs, rule.derived_from, recipe)
    _check_labels(joined.obs, recipe)
    corrections = applied([part.corrected for part in parts], recipe.labels)
    studies = np.repeat([part.record.name for part in parts], [part.counts.n_obs for part in parts])
    return Reference(joined, tuple(part.record for part in parts), studies, corrections)


def _derived(obs: pd.DataFrame, finer: str, recipe: Recipe) -> Names:
    """Return each cell's label of a level that is made of a finer one's parents; ``""`` where it has none."""
    parents = next(rule.parents for rule in recipe.labels if rule.key == finer)
    return np.array([parents.get(name, "") for name in obs[finer]], dtype=str)


def _read(dataset: Dataset, recipe: Recipe, folder: Path) -> _Part:
    path = folder / dataset.file
    if not path.is_file():
        raise errors.NotFound(
            f"the data set {dataset.name!r} is not at {path}. It can be had from: {dataset.source}",
            name=dataset.file,
            suggestions=sorted(found.name for found in folder.glob("*.h5ad"))[:5],
        )
    adata = read_cells(path).to_memory()
    _check_fingerprint(dataset, fingerprint(adata), expected=dataset.fingerprint, what="genes")
    proteins = None if dataset.proteins is None else _counted(dataset, adata, dataset.proteins)
    kept = np.ones(adata.n_obs, dtype=bool)
    for column, values in dataset.keep.items():
        kept &= np.isin(texts(_column(dataset, adata.obs, column)), values)
    if not kept.any():
        raise errors.AlignmentError(f"data set {dataset.name!r}: keep = {dataset.keep} leaves no cell.")
    adata = adata[kept]
    if not (genes := features(adata.var).genes).all():
        adata = adata[:, genes]
    counts = AnnData(adata.X if dataset.layer is None else adata.layers[dataset.layer])
    counts.var_names = _gene_names(dataset, adata.var)
    counts.obs = _obs(dataset, recipe, adata.obs)
    if proteins is not None:
        counts.obsm[PROTEINS] = proteins[kept].set_axis(counts.obs_names)
    given = {key: texts(_column(dataset, adata.obs, column)) for key, column in dataset.labels.items()}
    found = corrected(counts, recipe.labels, dataset=dataset.name, given=given)
    if not found.counts.n_obs:
        raise errors.AlignmentError(f"data set {dataset.name!r}: labels.corrections leave no cell.")
    same = {name: getattr(dataset, name) for name in ("name", "doi", "source", "license", "fingerprint")}
    return _Part(found.counts, DatasetRecord(**same, cells=found.counts.n_obs), found)


def _check_fingerprint(dataset: Dataset, actual: str, *, expected: str, what: str) -> None:
    if actual != expected:
        raise errors.IntegrityError(
            f"{dataset.file} is not the data set {dataset.name!r} of the recipe: its {what} and counts have the "
            f"fingerprint {actual}, the recipe's have {expected}. Fetch the file again, or change the recipe if other "
            "data are meant.",
            file=dataset.file,
            expected=expected,
            actual=actual,
        )


def _counted(dataset: Dataset, adata: AnnData, rule: ProteinCounts) -> pd.DataFrame:
    """Return the counts of a data set's proteins, ``(cells, proteins)``, checked against their fingerprint."""
    source = Source("X" if dataset.layer is None else f"layers/{dataset.layer}", adata)
    frame = named(adata, rule.key, source=source)
    names = list(map(str, frame.columns))
    if len(set(map(spelling, names))) < len(names):
        raise errors.AlignmentError(
            f"data set {dataset.name!r} names proteins in obsm[{rule.key!r}] that are spelt alike: "
            f"{errors.names(names)}. Give each protein one column."
        )
    counted = frame.to_numpy(dtype=np.float32)
    _check_fingerprint(dataset, fingerprint(counted, names), expected=rule.fingerprint, what="proteins")
    return pd.DataFrame(counted, index=frame.index, columns=names)


def _proteins(parts: Sequence[AnnData]) -> pd.DataFrame:
    """Return the protein counts of all data sets under one spelling each; 0 where a data set measured none."""
    spellings: dict[str, str] = {}
    frames = []
    for part in parts:
        frame = part.obsm[PROTEINS] if PROTEINS in part.obsm else pd.DataFrame(index=part.obs_names)
        frames.append(frame.rename(columns={name: spellings.setdefault(spelling(name), name) for name in frame}))
    return pd.concat(frames, ignore_index=True).fillna(0).astype(np.float32)


def _gene_names(dataset: Dataset, var: pd.DataFrame) -> list[str]:
    names = var.index if dataset.genes is None else _column(dataset, var, dataset.genes, table="var")
    genes = [str(name) for name in names]
    if len(set(genes)) < len(genes):
        repeated = pd.Index(genes)[pd.Index(genes).duplicated()].unique()
        raise errors.AlignmentError(
            f"data set {dataset.name!r} names genes more than once: {errors.names(repeated)}. Make the names unique."
        )
    return genes


def _obs(dataset: Dataset, recipe: Recipe, obs: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {key: _condition(dataset, obs, key) for key in dataset.conditions}
    columns |= {rule.key: _labels(dataset, obs, rule) for rule in recipe.labels}
    if (size_factor := recipe.input.size_factor) is not None:
        columns[size_factor] = np.asarray(_column(dataset, obs, size_factor))
    return pd.DataFrame(columns, index=pd.RangeIndex(len(obs)).astype(str))


def _condition(dataset: Dataset, obs: pd.DataFrame, key: str) -> Names:
    source = dataset.conditions[key]
    if isinstance(source, Constant):
        return np.full(len(obs), source.constant)
    column = _column(dataset, obs, source)
    if gaps := blanks(column):
        raise errors.VocabularyError(
            f"data set {dataset.name!r}: {sum(gaps.values()):,} cells have no value ({counted(gaps)}) in "
            f"obs[{source!r}], which is condition {key!r}. Leave them out with datasets.keep, or name another column.",
            field=key,
            unknown=list(gaps),
        )
    return texts(column)


def _labels(dataset: Dataset, obs: pd.DataFrame, rule: LabelRule) -> Names:
    """Return each cell's label under the release's name; cells without one hold ``""``.

    A text that means no value, such as ``Unknown``, is a label where the recipe names it.
    """
    if rule.key not in dataset.labels:
        return np.full(len(obs), "")
    distinct, codes = np.unique(texts(_column(dataset, obs, dataset.labels[rule.key])), return_inverse=True)
    names = dataset.rename.get(rule.key, {}) | ({rule.unlabelled: ""} if rule.unlabelled else {})
    meant = np.array([names.get(name, name) for name in distinct.tolist()], dtype=str)[codes]
    if gaps := blanks(pd.Series(meant[meant != ""]), known=rule.ids):
        _log.warning(
            "data set %r: %s cells have no label of %r, but %s in obs[%r].",
            *(dataset.name, f"{sum(gaps.values()):,}", rule.key, counted(gaps), dataset.labels[rule.key]),
        )
    return without_blanks(meant, known=rule.ids)


def _column(dataset: Dataset, frame: pd.DataFrame, name: str, *, table: str = "obs") -> pd.Series:
    if name not in frame:
        raise errors.VocabularyError(
            f"data set {dataset.name!r} has no {table} column {name!r}; it has {errors.names(frame.columns)}.",
            field=name,
            unknown=[name],
            known=frame.columns,
        )
    return frame[name]


def _check_labels(obs: pd.DataFrame, recipe: Recipe) -> None:
    for rule in recipe.labels:
        found = categories(obs[rule.key])
        strangers, unused = sorted(set(found) - rule.ids.keys()), sorted(rule.ids.keys() - set(found))
        if strangers or unused:
            raise errors.VocabularyError(
                f"label level {rule.key!r}: the recipe must name the labels of its data, each under ontology or "
                f"without_id. Labels it does not name: {errors.names(strangers) or 'none'}; labels that no cell has: "
                f"{errors.names(unused) or 'none'}.",
                field=rule.key,
                unknown=strangers,
                known=found,
            )


def categories(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names, sorted; ``""`` is none."""
    return tuple(sorted(set(names) - {""}))

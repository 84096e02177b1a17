"""A query's protein counts in a model's panel: found by name, whatever the spelling of tags and clones around it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors
from hub_client.data import matrix as matrices
from hub_client.data.sources import Source
from hub_client.data.values import text
from hub_client.manifest.inputs import Proteins
from hub_client.manifest.v1 import Manifest

Counts = NDArray[np.float32]
TAG = re.compile(r"[-_. ]*total[-_ ]?(seq)?[-_ ]?[abcd]?$|[-_. ]+(adt|protein|prot)$|^(adt|prot)[-_. ]+", re.IGNORECASE)
"""What vendors and pipelines put behind or before a protein's name, as in ``CD3_TotalSeqB``."""
PUNCTUATION = re.compile(r"[-_./ ()]+")
SHOWN_UNDER = ("protein_names", "{}_names")
"""Where ``uns`` holds the names of a matrix of proteins that has none."""


@dataclass(frozen=True)
class ProteinReport:
    """What alignment found of proteins.

    Attributes
    ----------
    source
        The key of ``obsm``, the modality, or what the rows of ``var`` are called that the counts came from; None where
        the query has none.
    missing
        The model's proteins that the query did not measure.
    extra
        The query's proteins that the model does not know; they stay where they are in the query.
    renamed
        Query name to the panel's, for proteins found by another spelling.
    """

    source: str | None = None
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)


def spelling(name: str) -> str:
    """Return a protein's name without tags, case and punctuation: ``HLA-DR_TotalSeqB`` is ``hladr``."""
    bare = TAG.sub("", name.strip())
    return PUNCTUATION.sub("", bare or name).lower()


def aligned_proteins(
    query: AnnData, manifest: Manifest, *, key: str | None = None, source: Source | None = None
) -> tuple[Counts | None, ProteinReport | None]:
    """Return a query's counts of the panel's proteins, ``(cells, proteins)``, and what was found.

    A protein is found by its exact name or, where that is not there, by its spelling without tags (``_TotalSeqB``),
    case and punctuation, if only one of the query's is spelt so. Proteins that were not measured are 0.

    Parameters
    ----------
    query
        The query; the counts are a frame in ``obsm``, an array whose names are in ``uns``, or rows of ``var``.
    manifest
        The model's. Without a protein panel, nothing is looked for.
    key
        The key of ``obsm``, the modality of a MuData, or what rows of ``var`` are called that are antibodies, such as
        ``Antibody Capture``; None takes the one that has most of the panel.
    source
        The matrix that is read; None is ``X``. Antibodies in ``var`` have their counts in it.

    Returns
    -------
    tuple
        Counts and report; no counts where the query has no proteins.

    Raises
    ------
    VocabularyError
        If there is no such key.
    AlignmentError
        If the key holds none of the panel's proteins, or anything but counts.
    """
    panel = manifest.proteins
    if panel is None:
        return None, None
    read = Source("X", query) if source is None else source
    every = {} if key or is_numbered(panel.panel) else _every(query, read, panel.panel)
    if own := key or (panel.source if panel.source in query.obsm else None):
        every[own] = named(query, own, source=read, panel=panel.panel)
    found = {name: frame for name, frame in every.items() if frame is not None}
    matches = {name: _match(list(map(text, frame.columns)), panel.panel) for name, frame in found.items()}
    best = max(matches, key=lambda name: (len(matches[name]), name == panel.source), default=None)
    if best is None or not matches[best]:
        if key is not None:
            raise errors.AlignmentError(
                f"{'obsm' if key in query.obsm else 'var'}[{key!r}] has none of the model's {len(panel.panel)} "
                f"proteins: it has {errors.names(found[key].columns)}, and the model {errors.names(panel.panel)}."
            )
        return None, ProteinReport(missing=panel.panel)
    return _taken(found[best], matches[best], panel, source=best)


def _every(query: AnnData, source: Source, panel: Sequence[str]) -> dict[str, pd.DataFrame | None]:
    """Return whatever could be proteins, by the keys of ``obsm`` and what rows of ``var`` are called."""
    in_var = {kind: _rows(source, kind) for kind in source.features.antibodies if kind not in query.obsm}
    return {str(name): _named(query, str(name), panel) for name in query.obsm} | in_var


def _taken(
    frame: pd.DataFrame, match: Mapping[int, int], panel: Proteins, *, source: str
) -> tuple[Counts, ProteinReport]:
    counts = np.zeros((len(frame), len(panel.panel)), dtype=np.float32)
    names = list(map(text, frame.columns))
    for protein, column in match.items():
        with np.errstate(over="ignore"):  # infinite is refused below
            counts[:, protein] = _numbers(frame.iloc[:, column])
    _check_counts(counts, source)
    used = set(match.values())
    report = ProteinReport(
        source=source,
        missing=tuple(name for protein, name in enumerate(panel.panel) if protein not in match),
        extra=tuple(name for column, name in enumerate(names) if column not in used),
        renamed={names[c]: panel.panel[p] for p, c in match.items() if names[c] != panel.panel[p]},
    )
    return counts, report


def _numbers(values: pd.Series) -> Counts:
    """Return a column as numbers, ``(cells,)``, NaN where it holds none."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
        plain: Counts = values.to_numpy(dtype=np.float32)
        return plain
    try:
        numbers = pd.to_numeric(pd.Series(values.to_numpy(dtype=object)), errors="coerce")
    except TypeError:  # lists
        return np.full(len(values), np.nan, dtype=np.float32)
    found: Counts = numbers.to_numpy(dtype=np.float32, na_value=np.nan)
    return found


def _check_counts(counts: Counts, source: str) -> None:
    wrong = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts)))
    if wrong.any():
        cells = int(wrong.any(axis=1).sum())
        raise errors.AlignmentError(
            f"the proteins in {source!r} are not counts: {cells:,} of {len(counts):,} cells have values that are "
            "negative, not whole, missing or too large. Give the counts, before any normalisation; proteins that a "
            "batch did not measure are 0 in all its cells."
        )


def _rows(source: Source, kind: str) -> pd.DataFrame:
    """Return the counts of the rows of ``var`` that are of a kind, ``(cells, proteins)``, by name."""
    rows = source.features.rows_of(kind)
    target = np.full(len(source.features.names), -1, dtype=np.int64)
    target[rows] = np.arange(len(rows))
    found = matrices.pick(source.matrix, target, genes=len(rows), look=lambda _: None)
    return pd.DataFrame(found.toarray(), index=source.adata.obs_names, columns=source.features.plain_names[rows])


def _match(names: Sequence[str], panel: Sequence[str]) -> dict[int, int]:
    """Return the query's column for each protein of the panel that it has."""
    exact = {name: column for column, name in enumerate(names)}
    spelt: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        spelt.setdefault(spelling(name), []).append(column)
    wanted = [spelling(name) for name in panel]
    found = {}
    for protein, name in enumerate(panel):
        alike = spelt.get(wanted[protein], [])
        if name in exact:
            found[protein] = exact[name]
        elif len(alike) == 1 and wanted.count(wanted[protein]) == 1:
            found[protein] = alike[0]
    return found


def protein_keys(manifest: Manifest, given: str | None = None) -> tuple[str, ...] | None:
    """Return what a query's proteins may be called, as a key of ``obsm`` or a modality: as given, as the model's are.

    None for a model without proteins.
    """
    panel = manifest.proteins
    return None if panel is None else tuple(name for name in (given, panel.source) if name is not None)


def is_numbered(panel: Sequence[str]) -> bool:
    """Return whether a panel's names are numbers alone: scvi-tools' for an array that it was given no names of."""
    return bool(panel) and list(panel) == [str(number) for number in range(len(panel))]


def named(query: AnnData, key: str, *, source: Source, panel: Sequence[str] = ()) -> pd.DataFrame:
    """Return the counts of the proteins under a key of ``obsm``, ``(cells, proteins)``, by name.

    The key can also be what rows of ``var`` are called that are antibodies; their counts are in the matrix ``source``.
    An array without names has those of a panel that knows its proteins by number, which is what scvi-tools names them
    by where it was given none, if there are as many.

    Raises
    ------
    VocabularyError
        If there is no such key.
    AlignmentError
        If it has no names, and the panel has; or it has names, and the panel has none.
    """
    in_var = source.features.antibodies
    if key not in query.obsm and key in in_var:
        return _rows(source, key)
    if key not in query.obsm:
        known = [*map(str, query.obsm), *in_var]
        raise errors.VocabularyError(
            f"the query has no proteins under obsm[{key!r}]; it has {errors.names(known) or 'none'}. A MuData's "
            "modalities are found by their names.",
            field="obsm",
            unknown=[key],
            known=known,
        )
    values, numbered = query.obsm[key], is_numbered(panel)
    if numbered and not isinstance(values, pd.DataFrame) and _columns(values) == len(panel):
        return pd.DataFrame(_dense(values), index=query.obs_names, columns=list(panel))
    found = _named(query, key, panel)
    if numbered and (found is None or set(map(text, found.columns)).isdisjoint(panel)):
        raise errors.AlignmentError(
            f"the model knows its {len(panel)} proteins by number alone, as it was trained on an array without names; "
            f"obsm[{key!r}] has {_columns(values)} with{'out' if found is None else ''} names. Give an array "
            f"of {len(panel)} columns without names, in the model's order."
        )
    if found is None:
        raise errors.AlignmentError(
            f"obsm[{key!r}] has no names of proteins: make it a pandas DataFrame with one column for each protein, or "
            f"put their names into uns[{SHOWN_UNDER[1].format(key)!r}]."
            + (f" The model's are {errors.names(panel)}." if panel else "")
        )
    return found


def _named(query: AnnData, key: str, panel: Sequence[str]) -> pd.DataFrame | None:
    values: Any = query.obsm[key]
    if isinstance(values, pd.DataFrame):
        return values
    names = _names_in_uns(query, key, panel)
    return None if names is None else pd.DataFrame(_dense(values), index=query.obs_names, columns=names)


def _names_in_uns(query: AnnData, key: str, panel: Sequence[str]) -> list[str] | None:
    """Return the names of an array's columns from ``uns``: from where they are usually, or any list of the panel's."""
    usual = [query.uns[name] for name in (name.format(key) for name in SHOWN_UNDER) if name in query.uns]
    known, columns = set(map(spelling, panel)), _columns(query.obsm[key])
    others = [names for names in query.uns.values() if not known.isdisjoint(map(spelling, _texts(names)))]
    lists = [names for names in map(_texts, [*usual, *others]) if names and len(names) == columns]
    return lists[0] if lists else None


def _texts(value: object) -> list[str]:
    """Return a list or an array of texts as a list; nothing for any other value."""
    items = value.tolist() if isinstance(value, np.ndarray | pd.Index) else value
    if not isinstance(items, list) or not all(isinstance(item, str | bytes) for item in items):
        return []
    return [text(item) for item in items]


def _columns(values: Any) -> int:
    """Return how many columns a matrix has; 0 for what is none."""
    shape: tuple[int, ...] = getattr(values, "shape", ())
    return int(shape[1]) if len(shape) == 2 else 0


def _dense(values: Any) -> NDArray[Any]:
    dense: NDArray[Any] = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return dense


def measured(counts: Counts | None, batches: NDArray[Any]) -> dict[str, tuple[int, ...]]:
    """Return the positions of the proteins that each batch measured: a count in any of its cells, as scvi-tools has it.

    Parameters
    ----------
    counts
        ``(cells, proteins)``; None for cells without proteins.
    batches
        The batch of each cell, ``(cells,)``.
    """
    seen = np.empty((len(batches), 0)) if counts is None else counts > 0
    found = {str(batch): np.flatnonzero(seen[batches == batch].any(axis=0)) for batch in np.unique(batches)}
    return {batch: tuple(map(int, proteins)) for batch, proteins in found.items()}


def lacking(found: Mapping[str, tuple[int, ...]], panel: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the batches that did not measure all proteins, with the names of those that they did."""
    return {
        batch: tuple(panel[place] for place in places) for batch, places in found.items() if len(places) < len(panel)
    }

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
        The key of ``obsm``, or the modality, that the counts came from; None where the query has none.
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
    query: AnnData, manifest: Manifest, *, key: str | None = None
) -> tuple[Counts | None, ProteinReport | None]:
    """Return a query's counts of the panel's proteins, ``(cells, proteins)``, and what was found.

    A protein is found by its exact name or, where that is not there, by its spelling without tags (``_TotalSeqB``),
    case and punctuation, if only one of the query's is spelt so. Proteins that were not measured are 0.

    Parameters
    ----------
    query
        The query; the counts are a frame in ``obsm``, or an array whose names are in ``uns``.
    manifest
        The model's. Without a protein panel, nothing is looked for.
    key
        The key of ``obsm``, or the modality of a MuData; None takes the one that has most of the panel.

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
    every = {str(name): _named(query, str(name)) for name in query.obsm} if key is None else {key: named(query, key)}
    found = {name: frame for name, frame in every.items() if frame is not None}
    matches = {name: _match(list(map(str, frame.columns)), panel.panel) for name, frame in found.items()}
    best = max(matches, key=lambda name: (len(matches[name]), name == panel.source), default=None)
    if best is None or not matches[best]:
        if key is not None:
            raise errors.AlignmentError(
                f"obsm[{key!r}] has none of the model's {len(panel.panel)} proteins: it has "
                f"{errors.names(found[key].columns)}, and the model {errors.names(panel.panel)}."
            )
        return None, ProteinReport(missing=panel.panel)
    return _taken(found[best], matches[best], panel, source=best)


def _taken(
    frame: pd.DataFrame, match: Mapping[int, int], panel: Proteins, *, source: str
) -> tuple[Counts, ProteinReport]:
    counts = np.zeros((len(frame), len(panel.panel)), dtype=np.float32)
    names = list(map(str, frame.columns))
    for protein, column in match.items():
        counts[:, protein] = frame.iloc[:, column].to_numpy(dtype=np.float32)
    _check_counts(counts, source)
    used = set(match.values())
    report = ProteinReport(
        source=source,
        missing=tuple(name for protein, name in enumerate(panel.panel) if protein not in match),
        extra=tuple(name for column, name in enumerate(names) if column not in used),
        renamed={names[c]: panel.panel[p] for p, c in match.items() if names[c] != panel.panel[p]},
    )
    return counts, report


def _check_counts(counts: Counts, source: str) -> None:
    wrong = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts)))
    if wrong.any():
        cells = int(wrong.any(axis=1).sum())
        raise errors.AlignmentError(
            f"the proteins in {source!r} are not counts: {cells:,} of {len(counts):,} cells have values that are "
            "negative, not whole or missing. Give the counts, before any normalisation; proteins that a batch did not "
            "measure are 0 in all its cells."
        )


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


def named(query: AnnData, key: str) -> pd.DataFrame:
    """Return the counts of the proteins under a key of ``obsm``, ``(cells, proteins)``, by name.

    Raises
    ------
    VocabularyError
        If there is no such key.
    AlignmentError
        If it has no names.
    """
    if key not in query.obsm:
        raise errors.VocabularyError(
            f"the query has no proteins under obsm[{key!r}]; it has {errors.names(map(str, query.obsm)) or 'none'}. A "
            "MuData's modalities are found by their names.",
            field="obsm",
            unknown=[key],
            known=map(str, query.obsm),
        )
    found = _named(query, key)
    if found is None:
        raise errors.AlignmentError(
            f"obsm[{key!r}] has no names of proteins: make it a pandas DataFrame with one column for each protein, or "
            f"put their names into uns[{SHOWN_UNDER[1].format(key)!r}]."
        )
    return found


def _named(query: AnnData, key: str) -> pd.DataFrame | None:
    values: Any = query.obsm[key]
    if isinstance(values, pd.DataFrame):
        return values
    names = next((query.uns[n] for n in (name.format(key) for name in SHOWN_UNDER) if n in query.uns), None)
    if names is None or len(names) != values.shape[1]:
        return None
    dense = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return pd.DataFrame(dense, index=query.obs_names, columns=[str(name) for name in names])


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

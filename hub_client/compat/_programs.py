"""Read the masks and names of expiMap's terms from scArches' arguments and AnnData."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike
from scipy.sparse import issparse

from hub_client import errors

TERMS = "terms"
"""The key of ``adata.uns`` that holds the names of terms."""


def mask_of(adata: AnnData, mask: ArrayLike | None, key: str) -> Any:
    """Return the mask, ``(terms, genes)``: the given one, or the one in ``varm``."""
    if mask is not None:
        return mask
    if key not in adata.varm:
        raise errors.InvalidInput(
            f"there is no mask: pass mask, (terms, genes), or put it, (genes, terms), into adata.varm[{key!r}].",
            facts={"mask_key": key, "varm": list(adata.varm)},
        )
    stored = adata.varm[key]
    return stored.toarray().T if issparse(stored) else np.asarray(stored).T


def of_shape(mask: ArrayLike, *, genes: int, argument: str, rows: int | None = None) -> list[list[int]]:
    """Return the positions of each row's genes."""
    values = np.asarray(mask)
    if values.ndim != 2 or values.shape[1] != genes or rows not in (None, len(values)) or not len(values):
        raise errors.InvalidInput(
            f"{argument} has shape {values.shape}; it has {'some' if rows is None else rows} rows, one for each term, "
            f"and {genes:,} columns, one for each gene.",
            facts={"shape": values.shape, "genes": genes},
        )
    return [np.flatnonzero(row).tolist() for row in values]


def extension_mask(mask: ArrayLike | None, rows: int, *, genes: int) -> list[list[int]]:
    """Return the positions of the genes of as many constrained terms as there are to be."""
    if not rows:
        return []
    if mask is None:
        raise errors.InvalidInput(
            f"there are to be {rows} constrained terms without a mask that constrains them: pass one, (terms, genes).",
            facts={"n_ext_m": rows},
        )
    return of_shape(mask, genes=genes, rows=rows, argument="the extensions' mask")


def names_of(adata: AnnData, number: int) -> list[str]:
    """Return the names in ``uns``, made unique by numbers, if there is one for each term; else numbers."""
    stored = adata.uns.get(TERMS)
    given = [] if stored is None else [str(name) for name in stored]
    if len(given) != number:
        return numbered("term", number)
    before = (given[:position].count(name) for position, name in enumerate(given))
    return [f"{name} ({count + 1})" if count else name for name, count in zip(given, before, strict=True)]


def numbered(word: str, number: int) -> list[str]:
    """Return as many names with numbers."""
    return [f"{word}_{position}" for position in range(number)]


def terms(
    names: Sequence[str], programs: Sequence[Sequence[int]], kind: str, *, genes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield terms of one kind as a manifest has them, of programs that are positions among ``genes``."""
    for name, program in zip(names, programs, strict=True):
        yield {"id": name, "name": name, "genes": tuple(genes[position] for position in program), "kind": kind}


def in_uns(adata: AnnData, key: str) -> list[str]:
    """Return the names of terms in ``uns``."""
    if key not in adata.uns:
        raise errors.VocabularyError(
            f"adata.uns has no {key!r} with names of terms; it has {errors.names(adata.uns) or 'nothing'}.",
            field="terms",
            unknown=[key],
            known=list(adata.uns),
        )
    return list(adata.uns[key])

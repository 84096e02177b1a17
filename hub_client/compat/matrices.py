"""An AnnData with another matrix of expression, as helpers of scArches' tutorials make it."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import issparse


def remove_sparsity(adata: AnnData) -> AnnData:
    """Return cells with a dense ``X`` and the same obs and var; the AnnData itself where ``X`` is dense.

    No class here needs it: sparse counts stay sparse, in a fraction of the memory.
    """
    if not issparse(adata.X):
        return adata
    return AnnData(adata.X.toarray(), obs=adata.obs.copy(), var=adata.var.copy())


def reads_to_fragments(
    adata: AnnData, layer: str | None = None, key_added: str | None = None, copy: bool = False
) -> AnnData | None:
    """Turn reads of ATAC peaks into approximate fragments: half of them, rounded up.

    Martens 2023, doi 10.1038/s41592-023-02112-6.

    Parameters
    ----------
    adata
        Cells with counts of reads.
    layer
        The layer that has them; None: ``X``.
    key_added
        The layer that fragments go to; None: where the reads were.
    copy
        Return a copy instead of writing to ``adata``.
    """
    target = adata.copy() if copy else adata
    fragments = _halved(target.X if layer is None else target.layers[layer])
    place = key_added or layer
    if place is None:
        target.X = fragments
    else:
        target.layers[place] = fragments
    return target if copy else None


def _halved(reads: Any) -> Any:
    """Return half of a matrix, rounded up, of its type."""
    if not issparse(reads):
        return np.ceil(np.asarray(reads) / 2).astype(reads.dtype)
    halved = reads.copy()
    halved.data = np.ceil(halved.data / 2).astype(reads.dtype)
    return halved

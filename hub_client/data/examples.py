"""Queries that need no download: data scanpy carries, as counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hub_client import errors

if TYPE_CHECKING:
    from anndata import AnnData


def bundled_query(name: str) -> AnnData:
    """Return one of the queries that come with archzoo's dependencies.

    Parameters
    ----------
    name
        ``pbmc68k``: 700 fresh human PBMC of the 10x 68k data set (Zheng 2017, doi 10.1038/ncomms14049), 765 genes,
        with the published labels in ``obs["bulk_labels"]`` and the GEM well in ``obs["batch"]``.

    Raises
    ------
    NotFound
        If no query has this name.
    """
    if name not in QUERIES:
        raise errors.NotFound(f"no query named {name!r} is bundled.", name=name, suggestions=list(QUERIES))
    return QUERIES[name]()


def _pbmc68k() -> AnnData:
    """Return scanpy's ``pbmc68k_reduced`` with its counts recovered.

    scanpy ships log1p of counts scaled to 10,000 per cell (``raw``) and each cell's total (``obs["n_counts"]``): their
    product is within 0.1 of whole numbers. X, the scaled values, is left out, as is all that was computed from it.
    """
    from anndata import AnnData
    from scanpy.datasets import pbmc68k_reduced
    from scipy.sparse import csr_matrix, diags

    shipped = pbmc68k_reduced()
    totals = diags(shipped.obs["n_counts"].to_numpy(dtype=np.float64) / 1e4)
    counts = csr_matrix(totals @ shipped.raw.X.astype(np.float64).expm1())
    counts.data = np.rint(counts.data).astype(np.float32)
    counts.eliminate_zeros()
    obs = shipped.obs[["bulk_labels", "n_counts"]].copy()
    obs["batch"] = "gem" + shipped.obs_names.str.rsplit("-", n=1).str[-1]
    return AnnData(counts.astype(np.float32), obs=obs, var=shipped.raw.var[[]].copy())


QUERIES: dict[str, Callable[[], AnnData]] = {"pbmc68k": _pbmc68k}

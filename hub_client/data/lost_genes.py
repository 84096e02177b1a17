"""without_genes(): aligned cells as they would have been read had some of their genes not been measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hub_client.data.align import ModelLike, size_factors, with_missing
from hub_client.data.cells import Cells


def without_genes(cells: Cells, lost: NDArray[np.bool_], *, model: ModelLike) -> Cells:
    """Return cells in which some genes count as not measured, beside those that were not anyway.

    They are read as :func:`hub_client.data.align.align` would read them in a query that lacks these genes: zero, or the
    reference's mean at the depth of the genes that are left, where the manifest asks for it. Size factors that are sums
    over the model's genes are summed again; observed ones stay.

    Parameters
    ----------
    cells
        From :func:`hub_client.data.align.align`. They are not changed.
    lost
        Which of the model's genes are lost, ``(genes,)``.
    model
        The model that the cells were aligned to.

    Raises
    ------
    Unsupported
        If the manifest fills missing genes with means and the model has none.
    """
    manifest = model.manifest
    names = np.array(manifest.genes.names)
    missing = lost | np.isin(names, cells.report.missing)
    x = with_missing(_emptied(cells.x, missing), np.flatnonzero(missing), manifest=manifest, model=model)
    observed = manifest.input.size_factor or cells.report.settings.get("size_factor")
    return replace(
        cells,
        x=x,
        size_factor=cells.size_factor if observed else size_factors(x, manifest),
        report=replace(cells.report, missing=tuple(names[missing].tolist())),
    )


def _emptied(x: sparse.csr_matrix, missing: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Return a copy with nothing in the columns of missing genes."""
    kept = ~missing[x.indices]
    ends = np.concatenate([[0], np.cumsum(kept)])[x.indptr]
    return sparse.csr_matrix((x.data[kept], x.indices[kept], ends), shape=x.shape)

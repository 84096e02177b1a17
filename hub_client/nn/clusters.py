"""Clusters of a latent, by well-kept libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hub_client import errors

Codes = NDArray[np.int64]
NEIGHBORS = 15


def clusters(
    latent: NDArray[np.float32], *, method: Literal["leiden", "kmeans"], count: int | None, resolution: float, seed: int
) -> Codes:
    """Return the cluster of each cell, ``(cells,)``, from a latent ``(cells, latent)``.

    Raises
    ------
    InvalidInput
        If k-means is chosen without a number of clusters.
    """
    return METHODS[method](latent, count, resolution, seed)


def _leiden(latent: NDArray[np.float32], count: int | None, resolution: float, seed: int) -> Codes:
    """Leiden (Traag 2019, doi 10.1038/s41598-019-41695-z) on the symmetric graph of the 15 nearest neighbours."""
    import igraph
    import leidenalg
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(latent, min(NEIGHBORS, len(latent) - 1)).tocoo()
    pairs = np.unique(np.sort(np.stack([graph.row, graph.col], axis=1), axis=1), axis=0)
    partition = leidenalg.find_partition(
        igraph.Graph(n=len(latent), edges=pairs.tolist()),
        leidenalg.RBConfigurationVertexPartition,
        resolution_parameter=resolution,
        seed=seed,
    )
    return np.array(partition.membership, dtype=np.int64)


def _kmeans(latent: NDArray[np.float32], count: int | None, resolution: float, seed: int) -> Codes:
    from sklearn.cluster import KMeans

    if count is None:
        raise errors.InvalidInput("k-means needs a number of clusters: set the plan's unlabelled_clusters.")
    found: Codes = KMeans(n_clusters=count, random_state=seed, n_init=10).fit_predict(latent).astype(np.int64)
    return found


METHODS: dict[str, Callable[[NDArray[np.float32], int | None, float, int], Codes]] = {
    "leiden": _leiden,
    "kmeans": _kmeans,
}

"""Label transfer by the nearest reference cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def votes(
    reference: NDArray[np.float32],
    codes: NDArray[np.int64],
    query: NDArray[np.float32],
    *,
    neighbors: int,
    labels: int,
) -> NDArray[np.float64]:
    """Return each label's share of the weighted votes of the nearest reference cells, ``(cells, labels)``.

    A neighbour at distance ``d`` weighs ``exp(-d / (2 / s)²)``, where ``s`` is the standard deviation of the distances
    to the cell's neighbours (Sikkema 2023, doi 10.1038/s41591-023-02327-2, Methods; scArches' weighted kNN). Where all
    distances are the same, all neighbours weigh the same.

    Parameters
    ----------
    reference
        Labelled reference cells in the latent, ``(reference cells, latent)``.
    codes
        Their labels, ``(reference cells,)``.
    query
        Cells to label, ``(cells, latent)``.
    neighbors
        How many vote; all, where the reference has fewer.
    labels
        How many labels there are.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(neighbors, len(reference))).fit(reference)
    distances, indices = search.kneighbors(query)
    # only ratios matter: measured from the nearest neighbour, the largest weight is 1 and none of all underflow
    weights = np.exp((distances[:, :1] - distances) * np.square(distances.std(axis=1, keepdims=True) / 2))
    cells = np.repeat(np.arange(len(query)), indices.shape[1])
    places = cells * labels + codes[indices.reshape(-1)]
    total = np.bincount(places, weights=weights.reshape(-1), minlength=len(query) * labels).reshape(len(query), labels)
    shares: NDArray[np.float64] = total / total.sum(axis=1, keepdims=True)
    return shares

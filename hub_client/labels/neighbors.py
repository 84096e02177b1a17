"""Label transfer by the nearest reference cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hub_client.data.threads import same_threads

EXACT_UP_TO = 100_000
"""Reference cells up to which the search is exact: that many are searched before an index of them would be built."""
EPSILON = 0.2
"""How much farther than the farthest neighbour found the approximate search looks on (pynndescent's ``epsilon``)."""
SEED = 0
"""Of the approximate search, which runs on one thread: the same cells get the same neighbours."""
Points = NDArray[np.float32]


class Neighbors(NamedTuple):
    """The nearest reference cells of each query cell, the nearest first."""

    distances: NDArray[np.float64]
    """``(cells, neighbors)``, in latent units."""
    indices: NDArray[np.int64]
    """Which reference cells they are, ``(cells, neighbors)``."""


def nearest(reference: Points, query: Points, *, neighbors: int, exact_up_to: int = EXACT_UP_TO) -> Neighbors:
    """Return the nearest reference cells of each query cell: exact, or approximate in a reference of over 100,000.

    Parameters
    ----------
    reference
        ``(reference cells, latent)``.
    query
        ``(cells, latent)``.
    neighbors
        How many; at most as many as the reference has.
    exact_up_to
        Up to how many reference cells the search is exact.
    """
    search = exact if len(reference) <= exact_up_to else approximate
    return search(reference, query, neighbors=neighbors)


def exact(reference: Points, query: Points, *, neighbors: int) -> Neighbors:
    """Return the nearest reference cells of each query cell."""
    from sklearn.neighbors import NearestNeighbors

    return Neighbors(*NearestNeighbors(n_neighbors=neighbors).fit(reference).kneighbors(query))


def approximate(reference: Points, query: Points, *, neighbors: int) -> Neighbors:
    """Return almost all of the nearest reference cells of each query cell, by nearest-neighbour descent.

    Dong, Moses and Li 2011, doi 10.1145/1963405.1963487, as pynndescent does it. Cells for which the descent finds too
    few are searched exactly.
    """
    from pynndescent import NNDescent

    with same_threads():
        index = NNDescent(reference, n_neighbors=max(neighbors, 30), random_state=SEED, n_jobs=1)
        indices, distances = index.query(query, k=neighbors, epsilon=EPSILON)
    found = Neighbors(distances.astype(np.float64), indices.astype(np.int64))
    lost = np.flatnonzero((found.indices < 0).any(axis=1))
    if len(lost):
        again = exact(reference, query[lost], neighbors=neighbors)
        found.distances[lost], found.indices[lost] = again.distances, again.indices
    return found


def vote_weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each neighbour of :func:`votes` weighs, ``(cells, neighbors)``, the nearest 1.

    ``distances`` are those of each cell's neighbours, the nearest first, ``(cells, neighbors)``.
    """
    # only ratios matter: measured from the nearest neighbour, the largest weight is 1 and none of all underflow
    weights: NDArray[np.float64] = np.exp(
        (distances[:, :1] - distances) * np.square(distances.std(axis=1, keepdims=True) / 2)
    )
    return weights


def votes(
    reference: Points,
    codes: NDArray[np.int64],
    query: Points,
    *,
    neighbors: int,
    labels: int,
    search: Callable[..., Neighbors] | None = None,
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
    search
        How neighbours are found: :func:`exact`, :func:`approximate`, or as :func:`nearest` chooses.
    """
    distances, indices = (search or nearest)(reference, query, neighbors=min(neighbors, len(reference)))
    weights = vote_weights(distances)
    cells = np.repeat(np.arange(len(query)), indices.shape[1])
    places = cells * labels + codes[indices.reshape(-1)]
    total = np.bincount(places, weights=weights.reshape(-1), minlength=len(query) * labels).reshape(len(query), labels)
    shares: NDArray[np.float64] = total / total.sum(axis=1, keepdims=True)
    return shares

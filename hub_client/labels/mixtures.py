"""Label transfer by densities: each label is a mixture of Gaussians, one for every condition of the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist

RIDGE = 1e-3
"""Share of the mean variance that is added to every variance, so that few cells leave no direction without any."""

CELLS_AT_A_TIME = 4096
"""Query cells whose distances to all components are held at once."""


def log_densities(
    reference: NDArray[np.float32],
    codes: NDArray[np.int64],
    groups: NDArray[np.int64],
    query: NDArray[np.float32],
    *,
    labels: int,
) -> NDArray[np.float64]:
    """Return the log density of each label at each query cell, ``(cells, labels)``, up to one constant.

    A label's cells in one condition have a mean of their own; all share one covariance, to which every label in every
    condition adds equally; a label's conditions weigh the same, however many cells they have (mixture discriminant
    analysis, Hastie & Tibshirani 1996, doi 10.1111/j.2517-6161.1996.tb02073.x, with the components given by the
    conditions instead of found). So a query that resembles one of the reference's studies is labelled in that study's
    convention where studies disagree, and a large study does not outvote a small one.

    Parameters
    ----------
    reference
        Labelled reference cells in the latent, ``(reference cells, latent)``.
    codes, groups
        Their labels and conditions, ``(reference cells,)``.
    query
        Cells to label, ``(cells, latent)``.
    labels
        How many labels there are; those without reference cells have a density of 0.
    """
    pairs, member = np.unique(np.stack([codes, groups], axis=1), axis=0, return_inverse=True)
    member = member.reshape(-1)
    cells = np.bincount(member)
    means = np.zeros((len(pairs), reference.shape[1]))
    np.add.at(means, member, reference.astype(np.float64))
    means /= cells[:, None]
    root = np.linalg.cholesky(_covariance(reference - means[member], member, cells))
    points, centres = (solve_triangular(root, places.T, lower=True).T for places in (query.astype(np.float64), means))
    seen, starts, components = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    found = np.full((len(query), labels), -np.inf)
    for first in range(0, len(points), CELLS_AT_A_TIME):
        rows = slice(first, first + CELLS_AT_A_TIME)
        densities = cdist(points[rows], centres, "sqeuclidean") / -2
        found[rows, seen] = np.logaddexp.reduceat(densities, starts, axis=1) - np.log(components)
    return found


def _covariance(
    residuals: NDArray[np.float64], member: NDArray[np.int64], cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the covariance within components, ``(latent, latent)``, each component counted once."""
    weighted = residuals / cells[member, None]
    freedom = max(float((1 - 1 / cells).sum()), 1 / len(member))
    shared = residuals.T @ weighted / freedom
    spread = max(float(np.diag(shared).mean()), float(np.finfo(np.float32).tiny))
    found: NDArray[np.float64] = shared + np.eye(len(shared)) * (RIDGE * spread)
    return found

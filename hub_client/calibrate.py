"""calibrate(): how a label level's scores become probabilities that are right as often as they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hub_client import errors
from hub_client.architectures import Scores
from hub_client.manifest.v1 import Calibration

COLDEST, HOTTEST = 1e-3, 1e3
"""Bounds of the temperature, in the scores' own units (latent distance)."""


def calibrate(
    scores: Scores,
    truth: ArrayLike,
    *,
    level: str,
    unknown_above: float = 0.5,
    distance_quantile: float | None = 0.99,
) -> Calibration:
    """Return the calibration under which cells that were not trained on are the least surprising.

    The temperature minimises the negative log-likelihood of the true labels (Guo 2017, arXiv 1706.04599, section 4.2,
    with minus the distance for the logit). One number for all labels cannot change which label is the best. Of ``n``
    cells, all labels but the true one share a weight of ``1 / (n + 2)`` (as in Platt 1999), so that a model that made
    no mistake on few cells does not claim to make none.

    Parameters
    ----------
    scores
        A level's evidence for held-out cells, ``(cells, labels)``.
    truth
        Their labels, ``(cells,)``; cells with none, or with one that the level does not have, are left out.
    level
        The label level's key.
    unknown_above
        Uncertainty above which a cell is to be called unknown.
    distance_quantile
        The share of rightly labelled cells that lie within the calibration's ``distance_scale`` of their prototype;
        None, or scores that are probabilities, give no scale.

    Raises
    ------
    InvalidInput
        If no held-out cell has a label of this level.

    Examples
    --------
    >>> import numpy as np
    >>> scores = Scores(("B", "T"), np.tile([[1.0, 3.0], [3.0, 1.0]], (500, 1)), "distance")
    >>> truth = ["B", "T", "B", "B"] * 250
    >>> round(calibrate(scores, truth, level="cell_type").temperature, 1)
    1.8
    """
    values, codes = _labelled(scores, np.asarray(truth, dtype=str), level)
    if scores.kind == "probability":
        return Calibration(level=level, temperature=1.0, unknown_above=unknown_above)
    return Calibration(
        level=level,
        temperature=_temperature(values, codes),
        distance_scale=_distance_scale(values, codes, distance_quantile),
        unknown_above=unknown_above,
    )


def _labelled(scores: Scores, truth: NDArray[np.str_], level: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and label codes, over labels that have a prototype and cells whose label is one of them."""
    values = np.asarray(scores.values, dtype=np.float64)
    usable = np.flatnonzero(np.isfinite(values).all(axis=0))
    code = {scores.labels[column]: index for index, column in enumerate(usable)}
    codes = np.array([code.get(str(label), -1) for label in truth], dtype=np.int64)
    if not (codes >= 0).any():
        raise errors.InvalidInput(
            f"no held-out cell has a label of {level!r}; calibration needs some. Hold out more cells.",
            facts={"level": level, "cells": len(codes)},
        )
    return values[codes >= 0][:, usable], codes[codes >= 0]


def _temperature(distances: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Return the temperature of the least mean negative log-likelihood (nats), searched on a log scale."""
    cells, labels = distances.shape
    if labels == 1:
        return 1.0
    doubt = 1 / (cells + 2)
    weights = np.full((cells, labels), doubt / (labels - 1))
    weights[np.arange(cells), codes] = 1 - doubt

    def surprise(log_temperature: float) -> float:
        return float(-(weights * log_softmax(-distances / np.exp(log_temperature), axis=1)).sum() / cells)

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def _distance_scale(distances: NDArray[np.float64], codes: NDArray[np.int64], quantile: float | None) -> float | None:
    right = distances.argmin(axis=1) == codes
    if quantile is None or not right.any():
        return None
    return float(np.quantile(distances[right].min(axis=1), quantile))

"""calibrate(): how a label level's scores become probabilities that are right as often as they promise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hub_client import errors
from hub_client.labels.rules import RULES, SMALLEST, Evidence, probabilities
from hub_client.manifest.calibration import Calibration

COLDEST, HOTTEST = 1e-3, 1e3
"""Bounds of the temperature, in the scores' own units (latent distance)."""


def calibrate(
    evidence: Evidence, truth: ArrayLike, *, calibration: Calibration, distance_quantile: float | None = 0.99
) -> Calibration:
    """Return the calibration under which cells that were not trained on are the least surprising.

    The temperature minimises the negative log-likelihood of the true labels (Guo 2017, arXiv 1706.04599, section 4.2,
    with minus the distance or a Gaussian's log density for the logit; averages with votes are sharpened or flattened
    in the same way). One number for all labels cannot change which label is the best. Of ``n``
    cells, all labels but the true one share a weight of ``1 / (n + 2)`` (as in Platt 1999), so that a model that made
    no mistake on few cells does not claim to make none.

    Parameters
    ----------
    evidence
        The evidence for each of a level's labels in held-out cells, ``(cells, labels)``.
    truth
        Their labels, ``(cells,)``; cells with none, or with one that the level does not have, are left out.
    calibration
        What is decided beforehand: the level, where labels come from, the prior, the threshold for unknown cells. Its
        temperature, sharpness and distance scale are replaced.
    distance_quantile
        The share of rightly labelled cells that lie within the calibration's ``distance_scale`` of their prototype;
        None, or a model without prototypes, gives no scale.

    Raises
    ------
    InvalidInput
        If no held-out cell has a label of this level.

    Examples
    --------
    >>> import numpy as np
    >>> evidence = Evidence(("B", "T"), distances=np.tile([[1.0, 3.0], [3.0, 1.0]], (500, 1)))
    >>> truth = ["B", "T", "B", "B"] * 250
    >>> round(calibrate(evidence, truth, calibration=Calibration(level="cell_type", temperature=1.0)).temperature, 1)
    1.8
    """
    codes, kept = _codes(evidence, np.asarray(truth, dtype=str), calibration.level)
    held_out = evidence.rows(kept)
    fitted = {"temperature": 1.0, "sharpness": 1.0, "distance_scale": _scale(held_out, codes, distance_quantile)}
    calibration, rule = calibration.model_copy(update=fitted), RULES[calibration.transfer]
    if rule.logits is not None:
        temperature = _temperature(*_usable(-rule.logits(held_out, calibration), codes))
        calibration = calibration.model_copy(update={"temperature": temperature})
    if not rule.sharpened:
        return calibration
    mixed = np.log(np.maximum(probabilities(held_out, calibration), SMALLEST))
    return calibration.model_copy(update={"sharpness": 1 / _temperature(-mixed, codes)})


def _codes(evidence: Evidence, truth: NDArray[np.str_], level: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the label codes of cells whose label has evidence, and which cells those are."""
    code = {label: index for index, label in enumerate(evidence.labels)}
    if evidence.distances is not None:
        code = {label: i for label, i in code.items() if np.isfinite(evidence.distances[:, i]).all()}
    codes = np.array([code.get(str(label), -1) for label in truth], dtype=np.int64)
    if not (codes >= 0).any():
        raise errors.InvalidInput(
            f"no held-out cell has a label of {level!r}; calibration needs some. Hold out more cells.",
            facts={"level": level, "cells": len(codes)},
        )
    return codes[codes >= 0], np.flatnonzero(codes >= 0)


def _usable(distances: NDArray[np.float64], codes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distances (or minus logits) of labels that have a prototype, and the codes counted among those."""
    usable = np.isfinite(distances).all(axis=0)
    return distances[:, usable], (np.cumsum(usable) - 1)[codes]


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


def _scale(evidence: Evidence, codes: NDArray[np.int64], quantile: float | None) -> float | None:
    if quantile is None or evidence.distances is None:
        return None
    right = evidence.distances.argmin(axis=1) == codes
    return float(np.quantile(evidence.distances[right].min(axis=1), quantile)) if right.any() else None

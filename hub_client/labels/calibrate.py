"""calibrate(): how a label level's scores become probabilities that are right as often as they promise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hub_client import errors
from hub_client.labels.rules import RULES, SMALLEST, Evidence, probabilities
from hub_client.labels.sets import set_threshold
from hub_client.manifest.calibration import Calibration

COLDEST, HOTTEST = 1e-3, 1e3
"""Bounds of the temperature, in the scores' own units (latent distance)."""


def calibrate(
    evidence: Evidence,
    truth: ArrayLike,
    *,
    calibration: Calibration,
    distance_quantile: float | None = 0.99,
    groups: ArrayLike | None = None,
    with_sets: bool = False,
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
    groups
        Which batch that was left out each cell is of, or the like, ``(cells,)``: each group weighs the same. None is
        one group.
    with_sets
        Whether to fit the threshold of label sets, too (:mod:`hub_client.labels.sets`).

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
    held_out, weights = evidence.rows(kept), _weights(groups, kept)
    fitted = {"temperature": 1.0, "sharpness": 1.0, "distance_scale": _scale(held_out, codes, distance_quantile)}
    calibration, rule = calibration.model_copy(update=fitted), RULES[calibration.transfer]
    if rule.logits is not None:
        temperature = _temperature(-rule.logits(held_out, calibration), codes, weights)
        calibration = calibration.model_copy(update={"temperature": temperature})
    if rule.sharpened:
        mixed = np.log(np.maximum(probabilities(held_out, calibration), SMALLEST))
        calibration = calibration.model_copy(update={"sharpness": 1 / _temperature(-mixed, codes, weights)})
    return _with_sets(calibration, held_out, codes, weights) if with_sets else calibration


def _with_sets(
    calibration: Calibration, held_out: Evidence, codes: NDArray[np.int64], weights: NDArray[np.float64]
) -> Calibration:
    true = probabilities(held_out, calibration)[np.arange(len(codes)), codes]
    above = set_threshold(true, coverage=calibration.set_coverage, weights=weights)
    return calibration.model_copy(update={"set_above": min(above, 1.0)})


def _weights(groups: ArrayLike | None, kept: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what each cell weighs, ``(cells,)``, 1 in sum: every group the same."""
    names = np.zeros(len(kept)) if groups is None else np.asarray(groups)[kept]
    _, member, sizes = np.unique(names, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = 1 / (sizes[member] * len(sizes))
    return found


def _codes(evidence: Evidence, truth: NDArray[np.str_], level: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the label codes of cells whose label their reference has, and which cells those are."""
    code = {label: index for index, label in enumerate(evidence.labels)}
    codes = np.array([code.get(str(label), -1) for label in truth], dtype=np.int64)
    kept = np.flatnonzero((codes >= 0) & _known(evidence, codes))
    if not len(kept):
        raise errors.InvalidInput(
            f"no held-out cell has a label of {level!r}; calibration needs some. Hold out more cells.",
            facts={"level": level, "cells": len(codes)},
        )
    return codes[kept], kept


def _known(evidence: Evidence, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the reference that each cell was mapped onto has its label, ``(cells,)``."""
    rows = np.arange(len(codes))
    known = np.ones(len(codes), dtype=bool)
    if evidence.distances is not None:
        known &= np.isfinite(evidence.distances[rows, codes])
    if evidence.reference_frequencies is not None:
        shares = np.broadcast_to(evidence.reference_frequencies, (len(codes), len(evidence.labels)))
        known &= shares[rows, codes] > 0
    return known


def _temperature(distances: NDArray[np.float64], codes: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Return the temperature of the least mean negative log-likelihood (nats), searched on a log scale.

    Labels at an infinite distance, which a cell's reference does not have, take no part in its softmax.
    """
    usable = np.isfinite(distances)
    others = np.maximum(usable.sum(axis=1, keepdims=True) - 1, 1)
    doubt = 1 / (len(codes) + 2)
    weights = np.where(usable, doubt / others, 0.0)
    weights[np.arange(len(codes)), codes] = 1 - doubt
    if (usable.sum(axis=1) <= 1).all():
        return 1.0

    def surprise(log_temperature: float) -> float:
        logs = log_softmax(np.where(usable, -distances / np.exp(log_temperature), -np.inf), axis=1)
        return float(-(weights * np.where(usable, logs, 0.0)).sum(axis=1) @ shares)

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def _scale(evidence: Evidence, codes: NDArray[np.int64], quantile: float | None) -> float | None:
    if quantile is None or evidence.distances is None:
        return None
    right = evidence.distances.argmin(axis=1) == codes
    return float(np.quantile(evidence.distances[right].min(axis=1), quantile)) if right.any() else None

"""embed() and predict(): where cells lie in the latent, what they are, and how unsure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client import errors
from hub_client.architectures import Scores
from hub_client.architectures._base import Array
from hub_client.data.cells import Cells
from hub_client.manifest.v1 import Calibration, Manifest
from hub_client.model import Model

UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelPrediction:
    """One level's labels.

    Attributes
    ----------
    labels
        The label of each cell, ``(cells,)``; ``unknown`` where uncertainty is above the threshold that was asked for.
    uncertainty
        Estimated probability in [0, 1] that the label is wrong, ``(cells,)``; high is unsure.
    probabilities
        Probability of each label, ``(cells, labels)``; rows sum to 1.
    scores
        The evidence behind them, ``(cells, labels)``: for scPoli distances to prototypes (latent units).
    """

    labels: NDArray[np.object_]
    uncertainty: NDArray[np.float64]
    probabilities: pd.DataFrame
    scores: pd.DataFrame


@dataclass(frozen=True)
class Predictions:
    """Latent and labels of some cells.

    Attributes
    ----------
    obs_names
        Cell names, ``(cells,)``.
    latent
        Posterior mean of each cell, ``(cells, latent)``.
    levels
        Label level to its labels; empty for a model without labels.
    """

    obs_names: NDArray[np.object_]
    latent: Array
    levels: dict[str, LabelPrediction]

    def to_frame(self) -> pd.DataFrame:
        """Return ``<level>_pred`` and ``<level>_uncertainty`` of each cell, by cell name."""
        columns: dict[str, object] = {}
        for key, level in self.levels.items():
            columns[f"{key}_pred"] = pd.Categorical(level.labels)
            columns[f"{key}_uncertainty"] = level.uncertainty
        return pd.DataFrame(columns, index=pd.Index(self.obs_names))


def embed(model: Model, cells: Cells, *, batch_size: int = 512, device: str = "auto") -> Array:
    """Return the posterior mean of every cell, ``(cells, latent)``.

    Parameters
    ----------
    model
        A trained model that knows the cells' conditions.
    cells
        From :func:`hub_client.align`.
    batch_size
        Cells at a time; memory grows with it, results do not depend on it.
    device
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know: run :func:`hub_client.surgery` first.
    """
    with model.on(device):
        return model.network.embed(cells, batch_size=batch_size)


def predict(
    model: Model, cells: Cells, *, unknown_above: float | None = None, batch_size: int = 512, device: str = "auto"
) -> Predictions:
    """Return latent, labels and their uncertainty for every cell and label level.

    Uncertainty is the estimated probability that the label is wrong. Scores become probabilities by a softmax at the
    temperature that was fitted on held-out reference cells (``manifest.trust``); a cell farther from every prototype
    than held-out reference cells are is less sure in proportion.

    Parameters
    ----------
    model, cells, batch_size, device
        As for :func:`embed`.
    unknown_above
        Cells with a higher uncertainty are called ``unknown``; None names every cell.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know.
    InvalidInput
        If ``unknown_above`` is outside [0, 1].
    """
    if unknown_above is not None and not 0 <= unknown_above <= 1:
        raise errors.InvalidInput(
            f"unknown_above is {unknown_above}; it is an uncertainty between 0 and 1.",
            facts={"unknown_above": unknown_above},
        )
    with model.on(device):
        latent = model.network.embed(cells, batch_size=batch_size)
        scores = model.network.score(latent) if model.manifest.labels else {}
    levels = {key: _labelled(key, found, model.manifest, cells, unknown_above) for key, found in scores.items()}
    return Predictions(cells.obs_names, latent, levels)


def probabilities(scores: Scores, calibration: Calibration | None) -> NDArray[np.float64]:
    """Return the probability of each label, ``(cells, labels)``; without a calibration the temperature is 1."""
    values = np.asarray(scores.values, dtype=np.float64)
    if scores.kind == "probability":
        return values
    temperature = calibration.temperature if calibration else 1.0
    found: NDArray[np.float64] = softmax(-values / temperature, axis=1)
    return found


def uncertainty(scores: Scores, calibration: Calibration | None) -> NDArray[np.float64]:
    """Return the estimated probability that the best label is wrong, ``(cells,)``, in [0, 1]."""
    confidence = probabilities(scores, calibration).max(axis=1)
    if calibration and calibration.distance_scale and scores.kind == "distance":
        nearest = np.maximum(scores.values.min(axis=1), 1e-12)
        confidence = confidence * np.minimum(1.0, calibration.distance_scale / nearest)
    unsure: NDArray[np.float64] = np.clip(1.0 - confidence, 0.0, 1.0)
    return unsure


def calibration_of(manifest: Manifest, level: str) -> Calibration | None:
    """Return how a level's scores become probabilities in this model, if it was fitted."""
    return next((c for c in manifest.trust.calibrations if c.level == level), None)


def _labelled(
    key: str, scores: Scores, manifest: Manifest, cells: Cells, unknown_above: float | None
) -> LabelPrediction:
    calibration = calibration_of(manifest, key)
    unsure = uncertainty(scores, calibration)
    likely = probabilities(scores, calibration)
    labels = np.array(scores.labels, dtype=object)[likely.argmax(axis=1)]
    if unknown_above is not None:
        labels[unsure > unknown_above] = UNKNOWN
    index, columns = pd.Index(cells.obs_names), list(scores.labels)
    frames = (pd.DataFrame(values, index=index, columns=columns) for values in (likely, scores.values))
    return LabelPrediction(labels, unsure, *frames)

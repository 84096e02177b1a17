"""predict(): what cells are, and how unsure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.latent_alone import latent_labels
from hub_client.labels.rules import Evidence, probabilities, uncertainty
from hub_client.labels.transfer import calibration_of, evidence
from hub_client.manifest.calibration import Calibration
from hub_client.models.architectures import Array
from hub_client.models.embed import embed
from hub_client.models.model import Model

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
    distances
        To each label's prototype, ``(cells, labels)`` (latent units); None for a model without prototypes.
    latent_labels
        The label of each cell by where it lies in the latent alone, ``(cells,)``, by a rule that is the same for all
        models (:func:`hub_client.labels.latent_alone.latent_labels`); none is ``unknown``. None for a model that knows
        labels by expression only.
    """

    labels: NDArray[np.object_]
    uncertainty: NDArray[np.float64]
    probabilities: pd.DataFrame
    distances: pd.DataFrame | None
    latent_labels: NDArray[np.object_] | None = None


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


def predict(
    model: Model, cells: Cells, *, unknown_above: float | None = None, batch_size: int = 512, device: str = "auto"
) -> Predictions:
    """Return latent, labels and their uncertainty for every cell and label level.

    Labels come from prototypes, from the reference's cells in the latent, from expression, or from several of these, as
    the release's maker found best (``manifest.trust``). Uncertainty is the estimated probability that the label is
    wrong: one minus the best label's probability as calibrated on held-out reference cells, and more for a cell farther
    from every prototype than those are.

    Beside them are labels from the latent alone, ``.levels[level].latent_labels``: where those are clearly worse, the
    latent does not keep labels apart, and what is read off it, as clusters are, deserves less trust than the labels.

    Parameters
    ----------
    model, cells, batch_size, device
        As for :func:`hub_client.embed`.
    unknown_above
        Cells with a higher uncertainty are called ``unknown``; None names every cell.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know.
    InvalidInput
        If ``unknown_above`` is outside [0, 1]; and as :func:`hub_client.embed`.
    """
    if unknown_above is not None and not 0 <= unknown_above <= 1:
        raise errors.InvalidInput(
            f"unknown_above is {unknown_above}; it is an uncertainty between 0 and 1.",
            facts={"unknown_above": unknown_above},
        )
    latent = embed(model, cells, batch_size=batch_size, device=device)
    levels = {
        key: replace(
            _labelled(found, calibration_of(model, key), cells, unknown_above),
            latent_labels=latent_labels(model, key, latent, evidence=found),
        )
        for key, found in evidence(model, latent, cells=cells).items()
    }
    return Predictions(cells.obs_names, latent, levels)


def predictable(model: Model) -> tuple[str, ...]:
    """Return the label levels that the model can predict: those with prototypes or reference cells."""
    point = np.zeros((1, model.manifest.axes()["latent"]), dtype=np.float32)
    return tuple(evidence(model, point))


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several sets of cells, with the same levels, as one."""
    return Predictions(
        np.concatenate([part.obs_names for part in parts]),
        np.concatenate([part.latent for part in parts]),
        {key: _joined([part.levels[key] for part in parts]) for key in parts[0].levels},
    )


def _joined(parts: Sequence[LabelPrediction]) -> LabelPrediction:
    distances = [part.distances for part in parts if part.distances is not None]
    from_latent = [part.latent_labels for part in parts if part.latent_labels is not None]
    return LabelPrediction(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.uncertainty for part in parts]),
        pd.concat([part.probabilities for part in parts]),
        pd.concat(distances) if distances else None,
        np.concatenate(from_latent) if from_latent else None,
    )


def _labelled(
    level: Evidence, calibration: Calibration | None, cells: Cells, unknown_above: float | None
) -> LabelPrediction:
    doubt, values = uncertainty(level, calibration), probabilities(level, calibration)
    labels = np.array(level.labels, dtype=object)[values.argmax(axis=1)]
    if unknown_above is not None:
        labels[doubt > unknown_above] = UNKNOWN
    index, columns = pd.Index(cells.obs_names), list(level.labels)
    distances = None if level.distances is None else pd.DataFrame(level.distances, index=index, columns=columns)
    return LabelPrediction(labels, doubt, pd.DataFrame(values, index=index, columns=columns), distances)

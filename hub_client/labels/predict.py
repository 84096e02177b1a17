"""predict(): what cells are, and how unsure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.latent_alone import latent_labels
from hub_client.labels.levels import coarser
from hub_client.labels.rules import Evidence, probabilities, uncertainty
from hub_client.labels.sets import as_text, backed_off, label_sets
from hub_client.labels.transfer import calibration_of, evidence
from hub_client.manifest.axes import LabelLevel
from hub_client.manifest.calibration import Calibration
from hub_client.models.architectures import Array
from hub_client.models.embed import embed
from hub_client.models.model import Model

UNKNOWN = "unknown"
Threshold = float | Literal["shipped"] | None
"""The uncertainty above which cells are called unknown: a number in [0, 1], that which the release states for each
level (none in one that states none), or None, which names every cell."""


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
    sets
        Which labels each cell may have, ``(cells, labels)`` bool: sets of cells of batches that the reference had not
        seen held the true label as often as the release states (:mod:`hub_client.labels.sets`). None where it states
        no threshold for them.
    backoff
        The finest name that covers all of each cell's set, ``(cells,)``: its only label, the parent that its labels
        share, or ``unknown``. None without sets.
    """

    labels: NDArray[np.object_]
    uncertainty: NDArray[np.float64]
    probabilities: pd.DataFrame
    distances: pd.DataFrame | None
    latent_labels: NDArray[np.object_] | None = None
    sets: pd.DataFrame | None = None
    backoff: NDArray[np.object_] | None = None


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
        """Return ``<level>_pred`` and ``<level>_uncertainty`` of each cell, by cell name.

        Where there are label sets, also ``<level>_set``, such as ``CD8 T | CD4 T``, and ``<level>_backoff``.
        """
        columns: dict[str, object] = {}
        for key, level in self.levels.items():
            columns[f"{key}_pred"] = pd.Categorical(level.labels)
            columns[f"{key}_uncertainty"] = level.uncertainty
            if level.sets is not None:
                columns[f"{key}_set"] = pd.Categorical(as_text(level.sets, probabilities=level.probabilities))
                columns[f"{key}_backoff"] = pd.Categorical(level.backoff)
        return pd.DataFrame(columns, index=pd.Index(self.obs_names))


def predict(
    model: Model, cells: Cells, *, unknown_above: Threshold = "shipped", batch_size: int = 512, device: str = "auto"
) -> Predictions:
    """Return latent, labels and their uncertainty for every cell and label level.

    Labels come from prototypes, from the reference's cells in the latent, from expression, or from several of these, as
    the release's maker found best (``manifest.trust``). Uncertainty is the estimated probability that the label is
    wrong: one minus the best label's probability as calibrated on cells that were not trained on, and more for a cell
    farther from every prototype than those are. A level that is derived from a finer one has the sums of its
    probabilities.

    Beside them are labels from the latent alone, ``.levels[level].latent_labels``: where those are clearly worse, the
    latent does not keep labels apart, and what is read off it, as clusters are, deserves less trust than the labels.

    Parameters
    ----------
    model, cells, batch_size, device
        As for :func:`hub_client.embed`.
    unknown_above
        Cells with a higher uncertainty are called ``unknown``: by default above what the release states for each level;
        None names every cell.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know.
    InvalidInput
        If ``unknown_above`` is none of these or outside [0, 1]; and as :func:`hub_client.embed`.
    """
    _check(unknown_above)
    latent = embed(model, cells, batch_size=batch_size, device=device)
    found = {
        key: replace(
            _labelled(
                level, calibration_of(model, key), cells, threshold(model, key, unknown_above), _parents(model, key)
            ),
            latent_labels=latent_labels(model, key, latent, evidence=level),
        )
        for key, level in evidence(model, latent, cells=cells).items()
    }
    derived = {level.key: _derived(level, model, found, unknown_above) for level in _derivable(model, found)}
    levels = {key: (found | derived)[key] for key in model.vocabulary.labels if key in found or key in derived}
    return Predictions(cells.obs_names, latent, levels)


def _check(unknown_above: Threshold) -> None:
    if unknown_above is None or unknown_above == "shipped":
        return
    if not isinstance(unknown_above, int | float | np.number) or not 0 <= unknown_above <= 1:
        raise errors.InvalidInput(
            f"unknown_above is {unknown_above!r}; it is an uncertainty between 0 and 1, 'shipped' for what the release "
            "states, or None to name every cell.",
            facts={"unknown_above": unknown_above},
        )


def _derivable(model: Model, found: Mapping[str, LabelPrediction]) -> list[LabelLevel]:
    """Return the levels that are derived from one that was predicted."""
    return [level for level in model.manifest.labels if level.derived_from in found]


def predictable(model: Model) -> tuple[str, ...]:
    """Return the label levels that the model can predict: those with prototypes or reference cells."""
    point = np.zeros((1, model.manifest.axes()["latent"]), dtype=np.float32)
    found = evidence(model, point)
    return tuple(level.key for level in model.manifest.labels if {level.key, level.derived_from} & found.keys())


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
    sets = [part.sets for part in parts if part.sets is not None]
    backoff = [part.backoff for part in parts if part.backoff is not None]
    return LabelPrediction(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.uncertainty for part in parts]),
        pd.concat([part.probabilities for part in parts]),
        pd.concat(distances) if distances else None,
        np.concatenate(from_latent) if from_latent else None,
        pd.concat(sets) if sets else None,
        np.concatenate(backoff) if backoff else None,
    )


def _labelled(
    level: Evidence,
    calibration: Calibration | None,
    cells: Cells,
    above: float | None,
    parents: Mapping[str, str],
) -> LabelPrediction:
    doubt, values = uncertainty(level, calibration), probabilities(level, calibration)
    index, columns = pd.Index(cells.obs_names), list(level.labels)
    frame = pd.DataFrame(values, index=index, columns=columns)
    distances = None if level.distances is None else pd.DataFrame(level.distances, index=index, columns=columns)
    labels = _named(frame, doubt, above)
    held = calibration.set_above if calibration else None
    sets = None if held is None else label_sets(frame, above=held)
    backoff = None if sets is None else backed_off(sets, parents, otherwise=UNKNOWN)
    return LabelPrediction(labels, doubt, frame, distances, sets=sets, backoff=backoff)


def _named(frame: pd.DataFrame, doubt: NDArray[np.float64], above: float | None) -> NDArray[np.object_]:
    """Return the likeliest label of each cell, or ``unknown`` where the doubt is larger than so much."""
    labels: NDArray[np.object_] = np.array(frame.columns, dtype=object)[frame.to_numpy().argmax(axis=1)]
    if above is not None:
        labels[doubt > above] = UNKNOWN
    return labels


def threshold(model: Model, level: str, unknown_above: Threshold) -> float | None:
    """Return the uncertainty above which cells are called unknown at a level; None if all are named.

    What is stated of a level holds for those that are derived from it.
    """
    if not isinstance(unknown_above, str):
        return unknown_above
    source = next((found.derived_from for found in model.manifest.labels if found.key == level), None) or level
    calibration = calibration_of(model, source)
    return None if calibration is None else calibration.unknown_above


def _parents(model: Model, level: str) -> Mapping[str, str]:
    return next(found.parents for found in model.manifest.labels if found.key == level)


def _derived(
    level: LabelLevel, model: Model, found: Mapping[str, LabelPrediction], unknown_above: Threshold
) -> LabelPrediction:
    """Return a coarser level's labels: the probability of one is the sum of those of its children.

    What far cells lose of their confidence in the finer level they lose in this one, too. A set holds the parents of
    the finer level's set and, as any set, the likeliest label, which may be the parent of others.
    """
    finer = level.derived_from or ""
    fine, parents = found[finer], _parents(model, finer)
    frame = coarser(fine.probabilities, parents, order=level.categories)
    kept = (1 - fine.uncertainty) / fine.probabilities.to_numpy().max(axis=1)
    doubt = np.clip(1 - kept * frame.to_numpy().max(axis=1), 0.0, 1.0)
    above = threshold(model, level.key, unknown_above)
    sets = None if fine.sets is None else _coarser_sets(fine.sets, parents, frame)
    return LabelPrediction(
        _named(frame, doubt, above),
        doubt,
        frame,
        None,
        latent_labels=_above(fine.latent_labels, parents),
        sets=sets,
        backoff=None if sets is None else backed_off(sets, level.parents, otherwise=UNKNOWN),
    )


def _coarser_sets(sets: pd.DataFrame, parents: Mapping[str, str], probabilities: pd.DataFrame) -> pd.DataFrame:
    found = coarser(sets.astype(float), parents, order=list(probabilities.columns)) > 0
    return found | label_sets(probabilities, above=np.inf)


def _above(labels: NDArray[np.object_] | None, parents: Mapping[str, str]) -> NDArray[np.object_] | None:
    return None if labels is None else np.array([parents.get(name, name) for name in labels], dtype=object)

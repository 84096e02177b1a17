"""transfer_metrics(): labels of a batch that was left out, by a model and by its two simple opponents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub_client.build.criticism import Source
from hub_client.data.cells import Cells
from hub_client.labels.evaluate import calibration_error
from hub_client.labels.opponents import Counts, counts_of, logistic_regression, neighbours_after_pca
from hub_client.labels.predict import LabelPrediction, Predictions
from hub_client.manifest.calibration import Metric
from hub_client.manifest.measures import LINEAR, METHODS, NEIGHBOURS, OURS, TRANSFERRED, left_out_name, left_out_split
from hub_client.models.model import Model

Labels = NDArray[np.str_]
Probabilities = NDArray[np.float64]
Opponent = Callable[[Counts, NDArray[Any], Counts], tuple[NDArray[Any], Probabilities]]
OPPONENTS: Mapping[str, Opponent] = {LINEAR: logistic_regression, NEIGHBOURS: neighbours_after_pca}


def transfer_metrics(
    model: Model, training: Cells, left_out: Cells, *, batch: str, predictions: Predictions, source: Source
) -> tuple[Metric, ...]:
    """Return accuracy, macro-F1 and calibration error of each level's labels, for the model and its opponents.

    Asked are cells whose true label the other batches have. A cell's label is the most probable one, also where it
    would be called unknown; so each method answers for the same cells.

    Parameters
    ----------
    model
        Any model of the reference: what the genes are, and how they are read.
    training
        The cells of the other batches, with labels.
    left_out
        The batch's cells, with labels.
    batch
        What the batch is called on the card.
    predictions
        Of the batch's cells, in their order, by a model that was trained without them.
    source
        What the metrics state of the data.
    """
    found: list[Metric] = []
    shared = source.stated(model.manifest, left_out, split=left_out_split(batch))
    for level, prediction in predictions.levels.items():
        truth, known = (_labels(cells, level) for cells in (left_out, training))
        asked = np.isin(truth, known[known != ""])
        if not asked.any():
            continue
        answers = {OURS: _ours(prediction)} | _opponents(model, training, known, left_out)
        for method, (labels, confidence) in answers.items():
            figures = _figures(truth[asked], labels[asked], confidence[asked])
            found += [
                _metric(level, method, figure, value, shared | {"n": int(asked.sum())})
                for figure, value in figures.items()
            ]
    return tuple(found)


def _metric(level: str, method: str, figure: str, value: float, shared: Mapping[str, Any]) -> Metric:
    definition = f"{TRANSFERRED[figure].definition}, of labels by {METHODS[method]} without the batch"
    return Metric(name=left_out_name(level, method, figure), definition=definition, value=value, **shared)


def _labels(cells: Cells, level: str) -> Labels:
    return np.asarray(cells.labels.get(level, np.full(len(cells), "")), dtype=str)


def _ours(prediction: LabelPrediction) -> tuple[Labels, Probabilities]:
    names = prediction.probabilities.columns.to_numpy(dtype=str)
    return names[prediction.probabilities.to_numpy().argmax(axis=1)], 1 - prediction.uncertainty


def _opponents(
    model: Model, training: Cells, known: Labels, left_out: Cells
) -> dict[str, tuple[Labels, Probabilities]]:
    """Return each opponent's label of every cell, and how sure it is of it."""
    labelled = np.flatnonzero(known != "")
    reference, query = counts_of(model, training.rows(labelled)), counts_of(model, left_out)
    found = {}
    for method, labels_by in OPPONENTS.items():
        names, probabilities = labels_by(reference, known[labelled], query)
        found[method] = names[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    return found


def _figures(truth: Labels, labels: Labels, confidence: Probabilities) -> dict[str, float]:
    """Return the figures of :data:`hub_client.manifest.measures.TRANSFERRED`."""
    from sklearn.metrics import f1_score

    right = labels == truth
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(truth, labels, average="macro", zero_division=0.0)),
        "calibration_error": calibration_error(confidence, right),
    }

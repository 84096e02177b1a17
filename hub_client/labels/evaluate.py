"""evaluate(): Predictions + truth -> Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hub_client import errors
from hub_client.data.cells import cell_names
from hub_client.data.values import texts, without_blanks
from hub_client.labels.predict import UNKNOWN, Predictions
from hub_client.manifest.report import LabelScore, LevelReport, Report

BINS = 10
Names = NDArray[np.str_]


def evaluate(predictions: Predictions, truth: Mapping[str, ArrayLike] | pd.DataFrame) -> Report:
    """Return how well predictions recover the truth, and how well labels from the latent alone do.

    Parameters
    ----------
    predictions
        From :func:`hub_client.predict`.
    truth
        Label level to the true label of each cell, ``(cells,)`` in the predictions' order; a Series or DataFrame is
        matched by cell name. Cells without a true label (missing, empty, a text such as ``nan`` or ``Unknown`` that is
        none of the model's labels, or not in a Series) are left out; those whose true label the model does not know are
        left out and counted.

    Raises
    ------
    InvalidInput
        If the truth does not map levels to labels.
    VocabularyError
        If the truth has a level that was not predicted, not one label a cell, cell names that repeat or that no cell
        has, or no label the model knows.

    Examples
    --------
    >>> report = hub_client.evaluate(predictions, {"cell_type": adata.obs["cell_type"]})  # doctest: +SKIP
    >>> report["cell_type"].macro_f1  # doctest: +SKIP
    """
    if not isinstance(truth, Mapping | pd.DataFrame):
        raise errors.InvalidInput(
            f"the truth is a {type(truth).__name__}; it maps label levels to true labels: pass {{level: labels}}, with "
            f"the levels {errors.names(predictions.levels) or 'none, as none was predicted'}.",
            facts={"truth": type(truth).__name__},
        )
    columns = {str(key): truth[key] for key in truth}
    if strangers := [key for key in columns if key not in predictions.levels]:
        raise errors.VocabularyError(
            f"the truth has levels {errors.names(strangers)}, but {errors.names(predictions.levels) or 'none'} were "
            "predicted. Pass {level: labels} for the levels that were.",
            field="level",
            unknown=strangers,
            known=predictions.levels,
        )
    return Report(levels=tuple(_level(key, predictions, values) for key, values in columns.items()))


def _level(key: str, predictions: Predictions, values: ArrayLike) -> LevelReport:
    from sklearn.metrics import roc_auc_score

    predicted = predictions.levels[key]
    known = list(predicted.probabilities.columns)
    truth = without_blanks(_in_order(key, predictions, values), known=known)
    kept = known_cells(key, truth, known=known)
    strangers = pd.Series(truth[~kept & (truth != "")]).value_counts()
    truth, labels, uncertainty = truth[kept], predicted.labels[kept].astype(str), predicted.uncertainty[kept]
    right = labels == truth
    ranked = not right.all() and right.any()
    latent = None if predicted.latent_labels is None else predicted.latent_labels[kept].astype(str)
    scores = tuple(_score(label, truth, labels) for label in sorted({*truth.tolist(), *labels.tolist()}))
    return LevelReport(
        level=key,
        cells=len(truth),
        accuracy=float(right.mean()),
        macro_f1=float(np.mean([score.f1 for score in scores])),
        mean_uncertainty=float(uncertainty.mean()),
        calibration_error=calibration_error(1 - uncertainty, right),
        error_auroc=float(roc_auc_score(~right, uncertainty)) if ranked else None,
        unknown=int((labels == UNKNOWN).sum()),
        not_in_model={str(name): int(count) for name, count in strangers.items()},
        labels=scores,
        never_true={score.label: int((labels == score.label).sum()) for score in scores if not score.cells},
        latent_accuracy=None if latent is None else float((latent == truth).mean()),
        latent_macro_f1=None if latent is None else _macro_f1(truth, latent),
        named_accuracy=_named_accuracy(right, labels),
        **_sets(predicted.sets, kept, truth),
    )


def _named_accuracy(right: NDArray[np.bool_], labels: Names) -> float | None:
    """Return the accuracy over cells that were named; None where all were, or none was."""
    named = labels != UNKNOWN
    return None if named.all() or not named.any() else float(right[named].mean())


def _sets(sets: pd.DataFrame | None, kept: NDArray[np.bool_], truth: Names) -> dict[str, float]:
    """Return how often label sets hold the true label, and how many labels they have; nothing without sets."""
    if sets is None:
        return {}
    held = sets.to_numpy()[kept]
    there = held[np.arange(len(held)), sets.columns.get_indexer(truth)]
    return {"set_coverage": float(there.mean()), "set_size": float(held.sum(axis=1).mean())}


def known_cells(level: str, truth: Names, *, known: Sequence[str]) -> NDArray[np.bool_]:
    """Return which cells have a true label that is known, ``(cells,)``.

    Raises
    ------
    VocabularyError
        If none has.
    """
    kept: NDArray[np.bool_] = np.isin(truth, known)
    if not kept.any():
        given = np.unique(truth[truth != ""]).tolist()
        raise errors.VocabularyError(
            f"no true label of level {level!r} is known to the model: the truth has {errors.names(given) or 'none'}, "
            f"the model {errors.names(known)}. Rename the truth's labels to the model's.",
            field=level,
            unknown=given,
            known=known,
        )
    return kept


def _in_order(key: str, predictions: Predictions, values: ArrayLike) -> Names:
    """Return the true label of each cell, ``""`` for those without one."""
    cells = predictions.obs_names
    if isinstance(values, pd.Series):
        return texts(_by_name(key, values, pd.Index(cells)))
    column = np.asarray(values, dtype=object)
    if column.shape != cells.shape:
        raise errors.VocabularyError(
            f"the truth of level {key!r} has shape {column.shape}; expected one label for each of the {len(cells):,} "
            "cells, in their order. A Series of any length is matched by cell name.",
            field=key,
        )
    return texts(pd.Series(column))


def _by_name(key: str, values: pd.Series, cells: pd.Index) -> pd.Series:
    values = values.set_axis(cell_names(values.index))
    found = values[values.index.isin(cells)]
    if found.empty:
        raise errors.VocabularyError(
            f"the truth of level {key!r} is of other cells: it names {errors.names(values.index)}, the predictions "
            f"{errors.names(cells)}. If it is in the predictions' order, pass its values without the names.",
            field=key,
        )
    if repeated := list(found.index[found.index.duplicated()].unique()):
        raise errors.VocabularyError(
            f"the truth of level {key!r} names {len(repeated):,} cells more than once: {errors.names(repeated)}. "
            "Leave one label for each.",
            field=key,
            unknown=repeated,
        )
    return found.reindex(cells)


def _macro_f1(truth: Names, labels: Names) -> float:
    """Return the mean F1 over the labels that a cell truly has or was given."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, labels, average="macro", zero_division=0.0))


def _score(label: str, truth: Names, labels: Names) -> LabelScore:
    """Return one label's precision, recall and F1, 0 where a ratio has no denominator."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(
        truth == label, labels == label, average="binary", zero_division=0.0
    )
    return LabelScore(
        label=label, cells=int((truth == label).sum()), precision=float(precision), recall=float(recall), f1=float(f1)
    )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of confidences ``(cells,)`` over ten equal-width bins."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))

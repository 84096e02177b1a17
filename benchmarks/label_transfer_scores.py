"""How good labels are, and the doubt that comes with them: figures of one query, over cells whose label is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.label_transfer_methods import Labelled
from benchmarks.label_transfer_sets import TransferSet
from hub_client.labels.evaluate import calibration_error

Names = NDArray[np.str_]
Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


def scores(one: TransferSet, parts: Sequence[Labelled]) -> dict[str, float]:
    """Return the figures of a query whose parts were labelled, in their order.

    Those that a query has not are left out: the AUROC where no label is wrong, label sets of a method without.
    """
    kept = one.scored
    truth = one.truth[kept]
    labels = np.concatenate([part.labels.astype(str) for part in parts])[kept]
    uncertainty = np.concatenate([part.uncertainty for part in parts])[kept]
    probabilities = pd.concat([part.probabilities for part in parts]).fillna(0.0)[kept]
    wrong = labels != truth
    figures = {
        "accuracy": float(1 - wrong.mean()),
        "macro_f1": float(f1_score(truth, labels, average="macro", zero_division=0)),
        "true_f1": float(f1_score(truth, labels, labels=np.unique(truth), average="macro", zero_division=0)),
        "ece": calibration_error(1 - uncertainty, ~wrong),
        "brier": brier(probabilities, truth),
        "aurc": risk_coverage(uncertainty, wrong),
        "uncertainty": float(uncertainty.mean()),
        "wrong": float(wrong.mean()),
    }
    if wrong.any() and not wrong.all():
        figures["auroc"] = float(roc_auc_score(wrong, uncertainty))
    return figures | _label_sets(parts, truth, kept)


def brier(probabilities: pd.DataFrame, truth: Names) -> float:
    """Return the mean over cells of the squared distance of probabilities ``(cells, labels)`` from the truth.

    It is in [0, 2] where probabilities sum to 1. A label that has no column had probability 0.
    """
    true = truth[:, None] == probabilities.columns.to_numpy(dtype=str)[None, :]
    squared = np.square(probabilities.to_numpy(dtype=float) - true).sum(axis=1) + ~true.any(axis=1)
    return float(squared.mean())


def risk_coverage(doubt: Values, wrong: Flags) -> float:
    """Return the area under the curve of risk over coverage: the mean share wrong among the surest 1, 2, ... cells.

    Cells of the same doubt are as wrong as they are in the mean, so that their order does not matter.
    """
    order = np.argsort(doubt, kind="stable")
    _, same = np.unique(doubt[order], return_inverse=True)
    risk = (np.bincount(same, weights=wrong[order]) / np.bincount(same))[same]
    return float((np.cumsum(risk) / np.arange(1, len(risk) + 1)).mean())


def _label_sets(parts: Sequence[Labelled], truth: Names, kept: Flags) -> dict[str, float]:
    if any(part.sets is None for part in parts):
        return {}
    sets = pd.concat([part.sets for part in parts]).fillna(False)[kept]
    inside = sets.to_numpy(dtype=bool)
    true = truth[:, None] == sets.columns.to_numpy(dtype=str)[None, :]
    return {"set_coverage": float((inside & true).any(1).mean()), "set_size": float(inside.sum(1).mean())}

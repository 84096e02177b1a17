"""Label sets: for each cell the labels that it may have, so chosen that sets hold the true label as often as stated.

Split conformal prediction (Vovk 2005, doi 10.1007/b106715) with the score of Sadinle 2019 (doi
10.1080/01621459.2017.1395341): a label is in the set where its probability reaches a threshold that the true labels of
so many cells reach which the model did not learn from. One threshold holds for all labels. One for each label was
tried: sets grow by a fifth and cover no better (docs/label-transfer.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEPARATOR = " | "
"""Between the labels of a set, where it is written as text."""


def set_threshold(true: NDArray[np.float64], *, coverage: float, weights: NDArray[np.float64]) -> float:
    """Return the largest threshold that the probability of the true label reaches in a share of cells.

    Parameters
    ----------
    true
        The probability that each cell's true label was given, ``(cells,)``.
    coverage
        The share of cells, in [0, 1]. Of ``n`` cells ``(n + 1) / n`` times this share have to reach it, so that new
        cells of their kind do as often as stated; of so few that no threshold promises it, 0 is returned, under which
        a set holds every label.
    weights
        What each cell weighs, ``(cells,)``, 1 in sum.
    """
    order = np.argsort(true, kind="stable")
    below = np.cumsum(weights[order]) - weights[order]  # the share of cells whose probability is less than each one's
    reached = np.flatnonzero(1 - below >= coverage * (len(true) + 1) / len(true) - 1e-12)
    return float(true[order[reached[-1]]]) if len(reached) else 0.0


def label_sets(probabilities: pd.DataFrame, *, above: float) -> pd.DataFrame:
    """Return which labels are in each cell's set, ``(cells, labels)``: the best, and all with such a probability."""
    values = probabilities.to_numpy()
    held = values >= above
    held[np.arange(len(values)), values.argmax(axis=1)] = True
    return pd.DataFrame(held, index=probabilities.index, columns=probabilities.columns)


def as_text(sets: pd.DataFrame, *, probabilities: pd.DataFrame) -> NDArray[np.object_]:
    """Return each cell's set as a text, the likeliest label first, ``(cells,)``: ``CD8 T | CD4 T``."""
    names = [str(name) for name in sets.columns]
    order = np.argsort(-probabilities.to_numpy(), axis=1, kind="stable")
    ranked = np.take_along_axis(sets.to_numpy(), order, axis=1)
    return _texts(order, ranked, names)


def _texts(order: NDArray[np.int64], held: NDArray[np.bool_], names: Sequence[str]) -> NDArray[np.object_]:
    """Return the text of each row; few sets differ, so each is written once."""
    codes = np.where(held, order, -1)
    distinct, member = np.unique(codes, axis=0, return_inverse=True)
    written = [SEPARATOR.join(names[code] for code in row if code >= 0) for row in distinct]
    found: NDArray[np.object_] = np.array(written, dtype=object)[member.reshape(-1)]
    return found


def backed_off(sets: pd.DataFrame, parents: Mapping[str, str], *, otherwise: str) -> NDArray[np.object_]:
    """Return the finest name that covers each cell's whole set, ``(cells,)``.

    That is its only label, or the parent that all of its labels share.

    Parameters
    ----------
    sets
        From :func:`label_sets`.
    parents
        Label to the label of a coarser level that it belongs to.
    otherwise
        What a cell is called whose labels have no parent in common.
    """
    distinct, member = np.unique(sets.to_numpy(), axis=0, return_inverse=True)
    names = [_cover([str(name) for name in sets.columns[row]], parents, otherwise) for row in distinct]
    found: NDArray[np.object_] = np.array(names, dtype=object)[member.reshape(-1)]
    return found


def _cover(labels: Sequence[str], parents: Mapping[str, str], otherwise: str) -> str:
    if len(labels) == 1:
        return labels[0]
    shared = {parents.get(label) for label in labels}
    return (shared.pop() or otherwise) if len(shared) == 1 else otherwise

"""What classifiers call cells that they were not trained on: by fold, without a batch, and by one batch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax

from hub_client.labels.expression import LinearClassifier, fit
from hub_client.labels.rules import Probabilities

MOST_CELLS = 1000
"""Cells of a label that a classifier is trained on, at most: more hardly help and cost time."""
MOST_BATCHES = 8
"""Parts that batches are put together to where there are more."""
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledCells:
    """Cells with one label and one batch each.

    Attributes
    ----------
    counts
        ``(cells, genes)``.
    codes, batches
        Number of the label and of the batch, ``(cells,)``.
    labels
        How many labels there are.
    seed
        Draws folds and the cells that are trained on.
    """

    counts: csr_matrix
    codes: Codes
    batches: Codes
    labels: int
    seed: int

    def called(self, trained: NDArray[np.bool_], judged: NDArray[np.bool_]) -> Probabilities:
        """Return the probability of each label by a classifier of other cells, ``(judged, labels)``."""
        rows = self._drawn(np.flatnonzero(trained))
        fitted: LinearClassifier = fit(self.counts[rows], self.codes[rows], self.batches[rows], labels=self.labels)
        none = np.empty(0, dtype=np.int64)
        found: Probabilities = softmax(fitted.logits(self.counts[judged], missing=none), axis=1)
        return found

    def _drawn(self, rows: Codes) -> Codes:
        """Return at most so many of the rows of each label, batches in equal parts as far as they reach."""
        order = np.random.default_rng(self.seed).permutation(len(rows))
        rows = rows[order]
        turn = _ranks(self.codes[rows] * (self.batches.max() + 1) + self.batches[rows])
        by_turn = np.argsort(turn, kind="stable")
        kept = np.empty(len(rows), dtype=bool)
        kept[by_turn] = _ranks(self.codes[rows][by_turn]) < MOST_CELLS
        return np.sort(rows[kept])


def _ranks(groups: Codes) -> Codes:
    """Return how many entries of the same group stand before each entry, ``(entries,)``."""
    order = np.argsort(groups, kind="stable")
    first = np.r_[0, np.flatnonzero(np.diff(groups[order])) + 1]
    starts = np.repeat(first, np.diff(np.r_[first, len(groups)]))
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - starts
    return ranks


def by_fold(cells: LabelledCells, *, folds: int) -> Probabilities:
    """Return the probability of each label by classifiers that did not see the cell, ``(cells, labels)``.

    Folds share out the cells of each label in each batch.
    """
    order = np.random.default_rng(cells.seed).permutation(len(cells.codes))
    strata = (cells.codes * (cells.batches.max() + 1) + cells.batches)[order]
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = (_ranks(strata) + strata) % folds  # the first of a small stratum is not always in the first fold
    found = np.zeros((len(order), cells.labels))
    for number in range(folds):
        judged = fold == number
        if judged.any():
            found[judged] = cells.called(~judged, judged)
    return found


def without_batch(cells: LabelledCells) -> Probabilities | None:
    """Return the probability of each label by classifiers of other batches, ``(cells, labels)``; None for one batch.

    A label that no other batch has gets a probability of 0 there.
    """
    if not cells.batches.any():
        return None
    found = np.zeros((len(cells.codes), cells.labels))
    for judged in _parts(cells.batches):
        found[judged] = cells.called(~judged, judged)
    return found


def _parts(batches: Codes) -> Iterator[NDArray[np.bool_]]:
    """Yield which cells are of each batch, ``(cells,)``; many batches are put together, the largest first."""
    sizes = np.bincount(batches)
    part = np.empty(len(sizes), dtype=np.int64)
    part[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes)) % MOST_BATCHES
    for number in range(min(len(sizes), MOST_BATCHES)):
        yield part[batches] == number


def by_batch(cells: LabelledCells) -> Iterator[tuple[int, NDArray[np.bool_], Codes]]:
    """Yield each of the largest batches, which cells are of others, and what a classifier of it alone calls those."""
    sizes = np.bincount(cells.batches)
    if len(sizes) == 1:
        return
    for batch in np.argsort(-sizes, kind="stable")[:MOST_BATCHES].tolist():
        trained = cells.batches == batch
        yield batch, ~trained, cells.called(trained, ~trained).argmax(axis=1)

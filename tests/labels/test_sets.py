"""Label sets: they hold the true label as often as stated, and are written as people read them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from hub_client.labels.sets import as_text, backed_off, label_sets, set_threshold

LABELS = ["B", "CD4 T", "CD8 T", "NK"]
PARENTS = {"CD4 T": "T", "CD8 T": "T", "NK": "NK"}


def even(cells: int) -> np.ndarray:
    """Return weights of cells that all count the same."""
    return np.full(cells, 1 / cells)


def exchangeable(generator: np.random.Generator, cells: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return probabilities that are far too sure of themselves, and labels drawn with others."""
    honest = generator.dirichlet(np.full(len(LABELS), 0.4), cells)
    codes = (generator.random((cells, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(max=len(LABELS) - 1)
    sure = honest**3 / (honest**3).sum(axis=1, keepdims=True)
    return pd.DataFrame(sure, columns=LABELS), codes


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_of_new_cells_hold_the_true_label_as_often_as_stated(coverage: float) -> None:
    """Over repeated draws the mean is the stated share, within three standard errors of the simulation."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(200):
        fitted, codes = exchangeable(generator, 99)
        above = set_threshold(fitted.to_numpy()[np.arange(99), codes], coverage=coverage, weights=even(99))
        new, truth = exchangeable(generator, 200)
        reached = new.to_numpy()[np.arange(200), truth] >= above
        held.append(reached.mean())
    error = np.std(held) / np.sqrt(len(held))
    assert np.mean(held) >= coverage - 3 * error
    assert np.mean(held) <= coverage + 1 / 100 + 3 * error  # the finest step of 99 cells


def test_the_threshold_is_the_usual_order_statistic() -> None:
    """Of 99 cells, 95 of 100 are to hold: 95 of them reach the fifth smallest probability."""
    true = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 99))
    assert set_threshold(true, coverage=0.95, weights=even(99)) == pytest.approx(0.05)


def test_groups_weigh_the_same_however_many_cells_they_have() -> None:
    """A batch of 1,000 cells that is told with ease does not hide one of 100 that is not."""
    easy, hard = np.full(1000, 0.9), np.linspace(0.01, 1.0, 100)
    true, weights = np.concatenate([easy, hard]), np.concatenate([np.full(1000, 0.5 / 1000), np.full(100, 0.5 / 100)])
    by_group = set_threshold(true, coverage=0.9, weights=weights)
    by_cell = set_threshold(true, coverage=0.9, weights=even(1100))
    reached = (easy >= by_group).mean() / 2 + (hard >= by_group).mean() / 2
    assert 0.9 <= reached < 0.92
    assert (easy >= by_cell).mean() / 2 + (hard >= by_cell).mean() / 2 < 0.6


def test_cells_with_the_same_probability_are_in_or_out_together() -> None:
    true = np.array([0.2] * 10 + [0.7] * 90)
    assert set_threshold(true, coverage=0.85, weights=even(100)) == 0.7
    assert set_threshold(true, coverage=0.95, weights=even(100)) == 0.2


@pytest.mark.parametrize(("cells", "coverage"), [(1, 0.95), (18, 0.95), (50, 1.0)])
def test_of_too_few_cells_no_threshold_promises_so_much(cells: int, coverage: float) -> None:
    above = set_threshold(np.full(cells, 0.9), coverage=coverage, weights=even(cells))
    assert above == 0
    assert label_sets(pd.DataFrame([[0.7, 0.3, 0.0, 0.0]], columns=LABELS), above=above).all(axis=None)


def test_nineteen_cells_are_enough_for_nineteen_in_twenty() -> None:
    true = np.linspace(0.1, 0.9, 19)
    assert set_threshold(true, coverage=0.95, weights=even(19)) == pytest.approx(0.1)


def test_the_best_label_is_always_in() -> None:
    found = label_sets(pd.DataFrame([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]], columns=LABELS), above=0.9)
    assert_array_equal(found.to_numpy(), [[True, False, False, False], [False, False, False, True]])


def test_of_equal_labels_all_reach_a_threshold_and_one_is_best() -> None:
    same = pd.DataFrame([[0.25] * 4], columns=LABELS)
    assert label_sets(same, above=0.25).all(axis=None)
    assert_array_equal(label_sets(same, above=0.3).to_numpy(), [[True, False, False, False]])


def test_sets_are_written_with_the_likeliest_label_first() -> None:
    likely = pd.DataFrame(
        [[0.0, 0.4, 0.6, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0]], columns=LABELS, index=["a", "b", "c"]
    )
    sets = label_sets(likely, above=0.3)
    assert list(as_text(sets, probabilities=likely)) == ["CD8 T | CD4 T", "B", "CD4 T | CD8 T"]
    assert list(sets.index) == ["a", "b", "c"]


def test_a_set_backs_off_to_the_parent_that_its_labels_share() -> None:
    sets = pd.DataFrame(
        [[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 0]], columns=LABELS, dtype=bool
    )
    assert list(backed_off(sets, PARENTS, otherwise="unknown")) == ["T", "B", "unknown", "unknown", "CD4 T"]
    assert list(backed_off(sets, {}, otherwise="unknown")) == ["unknown", "B", "unknown", "unknown", "CD4 T"]


def test_no_cells() -> None:
    none = pd.DataFrame(np.empty((0, 4)), columns=LABELS)
    sets = label_sets(none, above=0.5)
    assert sets.shape == (0, 4)
    assert as_text(sets, probabilities=none).shape == backed_off(sets, PARENTS, otherwise="unknown").shape == (0,)

"""The search for the nearest reference cells; how they vote is in test_transfer, scArches' votes in test_golden_*."""

from __future__ import annotations

import inspect
from typing import Any

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hub_client.labels.neighbors import EXACT_UP_TO, approximate, exact, nearest, votes

Points = NDArray[np.float32]
LABELS = 12


def cells(count: int, *, seed: int, width: int = 10) -> tuple[Points, NDArray[np.int64]]:
    """Points of some overlapping types, and which type each is of."""
    centres = np.random.default_rng(0).normal(0, 1.5, (LABELS, width))
    generator = np.random.default_rng([seed, count])
    codes = generator.integers(0, LABELS, count)
    return (centres[codes] + generator.normal(0, 1, (count, width))).astype(np.float32), codes


def test_exact_neighbors_are_the_nearest() -> None:
    reference, query = cells(200, seed=0)[0], cells(20, seed=1)[0]
    distances = np.linalg.norm(query[:, None] - reference, axis=2)
    found = exact(reference, query, neighbors=7)
    assert_array_equal(found.indices, distances.argsort(axis=1)[:, :7])
    assert_allclose(found.distances, np.sort(distances, axis=1)[:, :7], rtol=1e-5)


def test_a_reference_of_few_cells_lets_all_vote() -> None:
    reference, codes = cells(5, seed=0)
    found = votes(reference, codes, cells(3, seed=1)[0], neighbors=50, labels=LABELS)
    assert_array_equal(found > 0, np.isin(np.arange(LABELS), codes)[None].repeat(3, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "approximated"), [(2000, False), (2001, True)])
def test_only_large_references_are_searched_approximately(count: int, approximated: bool) -> None:
    """Which of the two it was shows in the last digits: one computes distances in double precision."""
    reference, query = cells(count, seed=0)[0], cells(50, seed=1)[0]
    found = nearest(reference, query, neighbors=20, exact_up_to=2000)
    searched = {search: search(reference, query, neighbors=20).distances for search in (exact, approximate)}
    assert (searched[exact] != searched[approximate]).any()
    assert_array_equal(found.distances, searched[approximate if approximated else exact])


def test_references_of_up_to_100_000_cells_are_searched_exactly() -> None:
    assert inspect.signature(nearest).parameters["exact_up_to"].default == EXACT_UP_TO == 100_000


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    reference, codes = cells(30_000, seed=0)
    query, _ = cells(1_000, seed=1)
    return {"reference": reference, "codes": codes, "query": query}


@pytest.mark.slow
def test_approximate_neighbors_are_almost_all_of_the_nearest(large: dict[str, Any]) -> None:
    found, truth = (search(large["reference"], large["query"], neighbors=50) for search in (approximate, exact))
    shared = [len(np.intersect1d(ours, theirs)) for ours, theirs in zip(found.indices, truth.indices, strict=True)]
    assert np.mean(shared) / 50 > 0.99
    assert (np.diff(found.distances, axis=1) >= 0).all()
    along = np.linalg.norm(large["query"][:, None] - large["reference"][found.indices], axis=2)
    assert_allclose(found.distances, along, rtol=1e-4)


@pytest.mark.slow
def test_approximate_neighbors_vote_as_the_exact_ones(large: dict[str, Any]) -> None:
    given = (large["reference"], large["codes"], large["query"])
    found, truth = (votes(*given, neighbors=50, labels=LABELS, search=search) for search in (approximate, exact))
    assert (found.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.99
    assert np.abs(found - truth).max(axis=1).mean() < 0.01
    assert_allclose(found.sum(axis=1), 1.0, rtol=1e-9)


@pytest.mark.slow
def test_approximate_neighbors_do_not_depend_on_threads_or_luck(large: dict[str, Any]) -> None:
    reference, query = large["reference"], large["query"]
    state, threads = np.random.get_state()[1].copy(), numba.get_num_threads()
    first = approximate(reference, query, neighbors=15)
    numba.set_num_threads(1)
    try:
        again = approximate(reference, query, neighbors=15)
    finally:
        numba.set_num_threads(threads)
    assert_array_equal(first.indices, again.indices)
    assert_array_equal(first.distances, again.distances)
    assert_array_equal(np.random.get_state()[1], state)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from hub_client.data.counts import Tally, are_counts, described
from tests import queries

COUNTS = queries.counts(40, 30)
TOTALS = COUNTS.sum(axis=1, keepdims=True)


def tally(values: Any) -> Tally:
    found = Tally()
    found.add(np.asarray(values).reshape(-1))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "int64", "bool"])
def test_counts_of_any_type_are_counts(dtype: str) -> None:
    assert tally(COUNTS.astype(dtype)).counts


@pytest.mark.parametrize("place", [0, 131_071, 131_072, 299_999])
@pytest.mark.parametrize(
    ("value", "fact"),
    [(np.nan, "nan"), (np.inf, "infinite"), (-np.inf, "infinite"), (-1.0, "negative"), (0.5, "fraction")],
)
def test_one_wrong_value_anywhere_is_seen(value: float, fact: str, place: int) -> None:
    values = np.ones(300_000, dtype=np.float32)
    values[place] = value
    found = tally(values)
    facts = {"nan": found.nan, "infinite": found.infinite, "negative": found.smallest < 0, "fraction": not found.whole}
    assert not found.counts
    assert facts[fact]


def test_a_tally_takes_in_block_after_block() -> None:
    found = Tally()
    for block in (np.array([3.0]), np.array([], dtype=np.float32), np.array([-2, 9])):
        found.add(block)
    assert (found.smallest, found.largest, found.whole) == (-2, 9, True)


LOOKS = {
    "NaN": np.where(COUNTS == 1, np.nan, COUNTS),
    "infinite values": np.where(COUNTS == 1, np.inf, COUNTS),
    "negative values (down to -2.5), like scaled data (z-scores)": np.where(COUNTS == 1, -2.5, COUNTS),
    "log1p of counts (np.expm1 gives them back)": np.log1p(COUNTS),
    "log-normalised counts (log1p of counts scaled to a common total)": np.log1p(COUNTS / TOTALS * 10_000),
    "log1p of log1p of counts or of normalised counts": np.log1p(np.log1p(COUNTS / TOTALS * 10_000)),
    "log10 of counts or of normalised counts": np.log10(1 + COUNTS),
    "log2 of counts or of normalised counts": np.log2(1 + COUNTS / TOTALS * 10_000),
    "square roots of counts or of normalised counts": np.sqrt(COUNTS),
    "arcsinh of counts or of normalised counts": np.arcsinh(COUNTS),
    "counts scaled to a common total (normalised)": COUNTS / TOTALS * 10_000,
    "fractions no larger than 3, like log-transformed data": np.where(COUNTS > 0, 1 + 2 * (COUNTS * np.pi % 1), 0),
    "fractions up to": COUNTS * 50 * (1 + np.arange(30) * np.pi % 1),
}


@pytest.mark.parametrize("looks", LOOKS)
def test_what_is_not_counts_is_described(looks: str) -> None:
    values = LOOKS[looks].astype(np.float32)
    if "no larger" in looks:
        values[0, 0] = 3
    assert described(tally(values), sparse.csr_matrix(values)).startswith(looks)


def test_log_normalised_values_are_known_by_a_part_of_their_genes() -> None:
    values = np.log1p(COUNTS / TOTALS * 10_000)[:, :9]
    assert "log-normalised" in described(tally(values), sparse.csr_matrix(values))


@pytest.mark.parametrize(
    ("values", "expected"), [(COUNTS, True), (np.log1p(COUNTS), False), (np.zeros((3, 3)), False), (-COUNTS, False)]
)
def test_matrices_are_judged_by_their_first_rows(values: Any, expected: bool) -> None:
    assert are_counts(values) is expected
    assert are_counts(sparse.csc_matrix(values)) is expected

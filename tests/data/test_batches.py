from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.data.batches import Batches
from hub_client.data.cells import Cells, GeneReport
from hub_client.data.vocabulary import Vocabulary
from tests.simulated import QUERY, cells_for, manifest

MANIFEST = manifest(conditions=("batch", "tech"), levels=("cell_type", "cell_class"))
VOCABULARY = Vocabulary.of(MANIFEST)


def batches() -> tuple[Batches, Cells]:
    cells = cells_for(MANIFEST)
    return Batches(cells, VOCABULARY), cells


@pytest.mark.parametrize("index", [[0], [5, 3, 200], [7, 7], list(range(240)), []])
def test_take_gathers_the_rows_that_were_asked_for(index: list[int]) -> None:
    found, cells = batches()
    batch = found.take(torch.tensor(index, dtype=torch.int64))
    assert_array_equal(batch.dense(batch.values), cells.x[index].toarray())
    assert_array_equal(batch.size_factor, cells.size_factor[index])
    assert_array_equal(batch.index, index)
    assert len(batch) == len(index)


def test_cells_without_counts() -> None:
    x = np.zeros((4, 3), dtype=np.float32)
    x[2, 1] = 5
    names = np.array(["a"] * 4)
    cells = Cells(csr_matrix(x), names.astype(object), {"k": names}, {}, x.sum(1), GeneReport(1.0))
    one = Vocabulary(("g0", "g1", "g2"), {"k": VOCABULARY.conditions["batch"].of("k", ["a"])}, (("a",),), 1)
    batch = Batches(cells, one).take(torch.tensor([3, 2, 0]))
    assert_array_equal(batch.dense(batch.values), x[[3, 2, 0]])


def test_codes() -> None:
    found, cells = batches()
    batch = found.take(torch.arange(len(cells)))
    for position, (key, axis) in enumerate(VOCABULARY.conditions.items()):
        assert_array_equal(np.array(axis.names)[batch.conditions[:, position]], cells.conditions[key])
    for position, (key, axis) in enumerate(VOCABULARY.labels.items()):
        assert_array_equal(np.array(axis.names)[batch.labels[:, position]], cells.labels[key])
    rows = [VOCABULARY.combinations[code] for code in batch.combinations.tolist()]
    assert rows == list(zip(cells.conditions["batch"], cells.conditions["tech"], strict=True))


def test_unknown_labels_are_no_labels_but_unknown_conditions_are_refused() -> None:
    cells = cells_for(MANIFEST)
    strange = cells.relabelled({"cell_type": np.full(len(cells), "Platelet")})
    assert_array_equal(Batches(strange, VOCABULARY).labels, np.full((len(cells), 2), -1))
    with pytest.raises(errors.VocabularyError, match="q0, q1"):
        Batches(cells_for(MANIFEST, QUERY), VOCABULARY)


def test_in_order() -> None:
    found, cells = batches()
    assert [len(batch) for batch in found.in_order(100)] == [100, 100, 40]
    assert torch.cat([batch.index for batch in found.in_order(7)]).tolist() == list(range(len(cells)))
    chosen = torch.tensor([9, 2, 4])
    assert torch.cat([batch.index for batch in found.in_order(2, index=chosen)]).tolist() == [9, 2, 4]
    assert list(found.in_order(5, index=torch.empty(0, dtype=torch.int64))) == []


def test_products_computed_beforehand_travel_with_their_cells() -> None:
    found, cells = batches()
    assert found.take(torch.tensor([1])).expression is None
    found.expression = torch.arange(len(cells), dtype=torch.float32)[:, None]
    assert_array_equal(found.take(torch.tensor([4, 2])).expression, [[4.0], [2.0]])


@pytest.mark.parametrize("index", [None, [9, 2, 4], []])
def test_rows_are_computed_in_order(index: list[int] | None) -> None:
    found, cells = batches()
    chosen = None if index is None else torch.tensor(index, dtype=torch.int64)
    computed = found.rows(lambda batch: batch.dense(batch.values), batch_size=50, index=chosen)
    assert_array_equal(computed, cells.x.toarray() if index is None else cells.x[index].toarray())
    assert found.rows(lambda batch: batch.size_factor, batch_size=50, index=chosen).ndim == 1

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from anndata.io import sparse_dataset, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hub_client import errors
from hub_client.data.matrix import BLOCK, head, in_memory, pick, readable, row_sums

KINDS = ["csr", "csc", "dense"]


def formed(values: Any, kind: str) -> Any:
    return {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[kind](values)


def expected(values: Any, target: Any, genes: int) -> Any:
    result = np.zeros((values.shape[0], genes), dtype=np.float32)
    for column, gene in enumerate(target):
        if gene >= 0:
            result[:, gene] += values[:, column]
    return result


@given(
    seed=st.integers(0, 1000), target=st.lists(st.integers(-1, 4), min_size=1, max_size=9), kind=st.sampled_from(KINDS)
)
@settings(max_examples=80, deadline=None)
def test_pick_is_a_sum_of_columns(seed: int, target: list[int], kind: str) -> None:
    values = np.random.default_rng(seed).integers(0, 3, (5, len(target)))
    picked = pick(formed(values, kind), np.array(target), genes=5, look=lambda stored: None)
    assert np.array_equal(picked.toarray(), expected(values, target, 5))
    assert picked.has_canonical_format
    assert picked.dtype == np.float32
    assert (picked.data != 0).all()


@pytest.fixture(scope="module")
def large() -> Any:
    """Counts of which a block holds a third, dense or sparse."""
    return np.random.default_rng(0).integers(0, 9, (3 * BLOCK // 1000, 1000), dtype=np.uint8)


def on_disk(values: Any, folder: Path, *, kind: str, form: str) -> Iterator[Any]:
    opened = {
        "hdf5": lambda: h5py.File(folder / "x.h5", "w"),
        "zarr": lambda: zarr.open_group(folder / "x.zarr", mode="w", zarr_format=2),
    }
    group = opened[form]()
    write_elem(group, "x", formed(values, kind))
    yield group["x"] if kind == "dense" else sparse_dataset(group["x"])
    if form == "hdf5":
        group.close()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hdf5", "zarr"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_on_disk_come_together(large: Any, tmp_path: Path, kind: str, form: str) -> None:
    target = np.full(1000, -1)
    target[[3, 500, 999]] = [2, 0, 1]
    for matrix in on_disk(large, tmp_path, kind=kind, form=form):
        seen: list[Any] = []
        picked = pick(matrix, target, genes=4, look=seen.append)
        assert np.array_equal(picked.toarray(), expected(large, target, 4))
        assert len(seen) > 2
        assert max(part.size for part in seen) < 1.1 * BLOCK
        assert sum(int(part.sum(dtype=np.int64)) for part in seen) == large.sum(dtype=np.int64)
        assert np.array_equal(row_sums(matrix), large.sum(axis=1, dtype=np.float64))
        assert np.array_equal(head(matrix, rows=7).toarray(), large[:7])


@pytest.mark.parametrize("kind", KINDS)
def test_row_sums_and_head_in_memory(kind: str) -> None:
    values = np.arange(12).reshape(4, 3)
    assert row_sums(formed(values, kind)).tolist() == [3, 12, 21, 30]
    assert head(formed(values, kind), rows=2).toarray().tolist() == values[:2].tolist()
    assert head(formed(values, kind), rows=99).shape == (4, 3)


def test_other_matrices_are_refused() -> None:
    with pytest.raises(errors.AlignmentError, match=r"is a coo_matrix.*to_memory\(\)"):
        pick(sparse.coo_matrix((2, 2)), np.array([0, 1]), genes=2, look=lambda stored: None)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">i2", ">f8", "g", "O", "u1"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_type_are_read_as_what_they_are(kind: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 9, (5, 3)).astype(np.float32)
    matrix = formed(values, kind)
    if kind == "dense":
        matrix = matrix.astype(dtype)
    else:
        matrix.data = matrix.data.astype(dtype)
    found = readable(matrix, name="X")
    seen: list[Any] = []
    picked = pick(found, np.array([2, -1, 0]), genes=3, look=seen.append)
    assert np.array_equal(picked.toarray(), expected(values, [2, -1, 0], 3))
    assert sum(float(part.sum()) for part in seen) == values.sum()
    assert np.array_equal(head(found, rows=2).toarray(), values[:2])
    assert row_sums(found).tolist() == values.sum(axis=1).tolist()


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_float16_on_disk_is_read(tmp_path: Path, kind: str) -> None:
    values = np.eye(4)
    matrix = formed(values, kind)
    matrix.data = matrix.data.astype(np.float16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_elem(file, "x", matrix)
        opened = sparse_dataset(file["x"])
        assert np.array_equal(pick(opened, np.arange(4), genes=4, look=lambda stored: None).toarray(), values)
        assert np.array_equal(in_memory(opened).toarray(), values)


@pytest.mark.parametrize("dtype", ["c8", "U4", "M8[s]", "S2"])
def test_what_is_no_number_is_refused_by_its_type(dtype: str) -> None:
    with pytest.raises(errors.AlignmentError, match=rf"^X holds values of type {re.escape(str(np.dtype(dtype)))}"):
        readable(np.zeros((2, 2)).astype(dtype), name="X")
    with pytest.raises(errors.AlignmentError, match=r"^X holds values of type object"):
        readable(np.array([[1, "many"]], dtype=object), name="X")
    with pytest.raises(errors.AlignmentError, match="masked"):
        readable(np.ma.masked_array(np.ones((2, 2)), True), name="X")


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("wrong", [("indices", -1), ("indices", 99), ("indptr", 99)])
def test_indices_that_lead_out_of_a_matrix_are_refused(tmp_path: Path, kind: str, wrong: tuple[str, int]) -> None:
    matrix = formed(np.eye(4), kind)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_elem(file, "x", matrix)
        file["x"][wrong[0]][1] = wrong[1]
        getattr(matrix, wrong[0])[1] = wrong[1]
        for damaged in (sparse_dataset(file["x"]), matrix):
            with pytest.raises(errors.InvalidInput, match="contradict each other"):
                pick(damaged, np.arange(4), genes=4, look=lambda stored: None)

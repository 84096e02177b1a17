"""Expression matrices in all their forms, read block by block: the model's columns, in its order, as one CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors

Indices = NDArray[np.int64]
Look = Callable[[NDArray[Any]], None]

BLOCK = 1 << 22
"""About how many entries of a matrix on disk, or of a dense one, are held at once."""

_IN_MEMORY = (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array)
_ON_DISK = (CSRDataset, CSCDataset)
_DENSE = (np.ndarray, h5py.Dataset, zarr.Array)
_BY_COLUMN = (sparse.csc_matrix, sparse.csc_array, CSCDataset)


def pick(
    matrix: Any, target: Indices, *, genes: int, look: Look, shown: NDArray[np.bool_] | None = None
) -> sparse.csr_matrix:
    """Return the model's columns of a matrix, ``(cells, genes)`` CSR float32, sorted and without explicit zeros.

    Memory is twice that of the result and a block, whatever the size of the matrix on disk.

    Parameters
    ----------
    matrix
        ``(cells, query genes)``: scipy CSR or CSC, numpy, or one of these on disk as anndata opens them.
    target
        Which of the model's genes each of the matrix's columns is, ``(query genes,)``; -1 for none. Columns with the
        same target are summed.
    genes
        How many genes the model has.
    look
        Is shown every stored value of the matrix once, also those of columns that are not picked.
    shown
        Which columns ``look`` is shown, ``(query genes,)``; None: all.

    Raises
    ------
    AlignmentError
        If the matrix is none of these kinds.
    """
    wanted = np.flatnonzero(target >= 0)
    read = _by_columns if isinstance(matrix, _BY_COLUMN) else _by_rows
    shown = None if shown is None or shown.all() else shown
    return _renamed(read(matrix, wanted, look=look, shown=shown).tocsr(), target[wanted], genes=genes)


def row_sums(matrix: Any, *, over: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the sum of each row over all columns, or over some of them, ``(cells,)``."""
    some = None if over is None or over.all() else over
    if not isinstance(matrix, _BY_COLUMN):
        blocks = row_blocks(matrix, whole=some is None)
        return np.concatenate([_sums(block if some is None else block[:, some]) for block in blocks])
    totals, start = np.zeros(matrix.shape[0]), 0
    for block in _column_blocks(matrix):
        totals += _sums(block if some is None else block[:, some[start : start + block.shape[1]]])
        start += block.shape[1]
    return totals


def head(matrix: Any, *, rows: int) -> sparse.csr_matrix:
    """Return the first rows, all columns, as CSR."""
    if isinstance(matrix, CSCDataset):
        return sparse.hstack([block[:rows] for block in _column_blocks(matrix)], format="csr")
    return sparse.csr_matrix(matrix[:rows])


def _by_rows(matrix: Any, wanted: Indices, *, look: Look, shown: NDArray[np.bool_] | None) -> sparse.csr_matrix:
    parts = []
    for block in row_blocks(matrix, whole=shown is None):
        look(_stored(block if shown is None else block[:, shown]))
        parts.append(sparse.csr_matrix(block[:, wanted]))
    return sparse.vstack(parts, format="csr")


def _by_columns(matrix: Any, wanted: Indices, *, look: Look, shown: NDArray[np.bool_] | None) -> sparse.csc_matrix:
    parts, start = [], 0
    for block in _column_blocks(matrix):
        stop = start + block.shape[1]
        look(_stored(block if shown is None else block[:, shown[start:stop]]))
        parts.append(block[:, wanted[(wanted >= start) & (wanted < stop)] - start])
        start = stop
    return sparse.hstack(parts, format="csc")


def _renamed(block: sparse.csr_matrix, target: Indices, *, genes: int) -> sparse.csr_matrix:
    """Return a CSR with each column's index replaced by its target; it may take the block's own values."""
    with np.errstate(over="ignore"):  # who is shown the values sees those that are too large
        values = block.data.astype(np.float32, copy=False)
    parts = (values, target.astype(block.indices.dtype)[block.indices], block.indptr)
    renamed = sparse.csr_matrix(parts, shape=(block.shape[0], genes))
    renamed.sum_duplicates()
    renamed.eliminate_zeros()
    return renamed


def row_blocks(matrix: Any, *, whole: bool = True) -> Iterator[Any]:
    """Yield consecutive rows: CSR, or numpy of a dense matrix.

    A CSR in memory comes as it is, since slices are copies; with ``whole=False``, for who copies blocks anyway, in
    slices.
    """
    if whole and isinstance(matrix, _IN_MEMORY):
        yield matrix
        return
    for rows in _steps(matrix, axis=0):
        yield np.asarray(matrix[rows]) if isinstance(matrix, _DENSE) else matrix[rows]


def _column_blocks(matrix: Any) -> Iterator[Any]:
    """Yield consecutive columns of a CSC matrix; one in memory as it is."""
    if isinstance(matrix, _IN_MEMORY):
        yield matrix
        return
    yield from (matrix[:, columns] for columns in _steps(matrix, axis=1))


def _steps(matrix: Any, *, axis: int) -> Iterator[slice]:
    length = matrix.shape[axis]
    step = max(1, BLOCK * length // max(_entries(matrix), 1))
    yield from (slice(start, min(start + step, length)) for start in range(0, length, step))


def _entries(matrix: Any) -> int:
    """Return how many entries a matrix stores."""
    if isinstance(matrix, _IN_MEMORY):
        return int(matrix.nnz)
    if isinstance(matrix, _ON_DISK):
        return int(matrix.group["data"].shape[0])
    if isinstance(matrix, _DENSE):
        return int(matrix.shape[0] * matrix.shape[1])
    raise errors.AlignmentError(
        f"the matrix is a {type(matrix).__name__}, which archzoo does not read; it reads numpy arrays, scipy CSR and "
        "CSC, and what anndata opens from .h5ad and .zarr. Call adata.to_memory() first."
    )


def _stored(block: Any) -> NDArray[Any]:
    values: NDArray[Any] = block.reshape(-1) if isinstance(block, np.ndarray) else block.data
    return values


def _sums(block: Any) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # infinite where the values' own type cannot hold it
        sums: NDArray[np.float64] = np.asarray(block.sum(axis=1, dtype=np.float64)).reshape(-1)
    return sums

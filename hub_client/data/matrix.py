"""Expression matrices in all their forms, read block by block: the model's columns, in its order, as one CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import Any

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors

Values = NDArray[Any]
Look = Callable[[Values], None]

BLOCK = 1 << 22
"""About how many entries are held at once while a matrix is read."""

_CSR = (sparse.csr_matrix, sparse.csr_array)
_CSC = (sparse.csc_matrix, sparse.csc_array)
_DENSE = (np.ndarray, h5py.Dataset, zarr.Array)


def pick(matrix: Any, target: NDArray[np.int64], *, genes: int, look: Look) -> sparse.csr_matrix:
    """Return the model's columns of a matrix, ``(cells, genes)`` CSR float32, sorted and without explicit zeros.

    Memory beyond the result is bounded by the block, whatever the size of the matrix on disk.

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

    Raises
    ------
    AlignmentError
        If the matrix is none of these kinds.
    """
    wanted = np.flatnonzero(target >= 0)
    if isinstance(matrix, (*_CSC, CSCDataset)):
        return _renamed(_columns(matrix, wanted, look=look), target[wanted], genes=genes)
    parts = [_part(block, target, wanted, genes=genes, look=look) for block in row_blocks(matrix)]
    return sparse.vstack(parts, format="csr")


def row_sums(matrix: Any) -> NDArray[np.float64]:
    """Return the sum of each row over all columns, ``(cells,)``."""
    if isinstance(matrix, (*_CSC, CSCDataset)):
        return sum((_sums(block) for block in _column_blocks(matrix)), np.zeros(matrix.shape[0]))
    return np.concatenate([_sums(block) for block in row_blocks(matrix)])


def head(matrix: Any, *, rows: int) -> sparse.csr_matrix:
    """Return the first rows, all columns, as CSR."""
    if isinstance(matrix, CSCDataset):
        return sparse.hstack([block[:rows] for block in _column_blocks(matrix)], format="csr")
    return sparse.csr_matrix(_rows(matrix, 0, rows))


def row_blocks(matrix: Any) -> Iterator[Any]:
    """Yield consecutive rows of a row-major matrix: CSR blocks of a sparse one, arrays of a dense one."""
    cells = matrix.shape[0]
    step = max(1, BLOCK * cells // max(_entries(matrix), 1))
    yield from (_rows(matrix, start, min(start + step, cells)) for start in range(0, cells, step))


def _part(
    block: Any, target: NDArray[np.int64], wanted: NDArray[np.int64], *, genes: int, look: Look
) -> sparse.csr_matrix:
    if isinstance(block, np.ndarray):
        look(block.reshape(-1))
        return _renamed(sparse.csr_matrix(block[:, wanted]), target[wanted], genes=genes)
    look(block.data)
    return _renamed(block, target, genes=genes)


def _renamed(block: Any, target: NDArray[np.int64], *, genes: int) -> sparse.csr_matrix:
    """Return a CSR block with each column's index replaced by its target; columns without one are dropped."""
    columns = target.astype(np.int32)[block.indices]
    kept = (columns >= 0) & (block.data != 0)
    starts = np.concatenate([[0], np.cumsum(kept)])[block.indptr]
    values = block.data[kept].astype(np.float32)
    part = sparse.csr_matrix((values, columns[kept], starts), shape=(block.shape[0], genes))
    part.sum_duplicates()
    return part


def _columns(matrix: Any, wanted: NDArray[np.int64], *, look: Look) -> sparse.csr_matrix:
    kept, start = [], 0
    for block in _column_blocks(matrix):
        look(block.data)
        stop = start + block.shape[1]
        kept.append(block[:, wanted[(wanted >= start) & (wanted < stop)] - start])
        start = stop
    return sparse.hstack(kept, format="csr")


def _column_blocks(matrix: Any) -> Iterator[Any]:
    genes = matrix.shape[1]
    step = max(1, BLOCK * genes // max(_entries(matrix), 1))
    yield from (matrix[:, start : start + step] for start in range(0, genes, step))


def _sums(block: Any) -> NDArray[np.float64]:
    return np.asarray(block.sum(axis=1, dtype=np.float64)).reshape(-1)


@singledispatch
def _entries(matrix: Any) -> int:
    """Return how many entries a matrix stores."""
    raise errors.AlignmentError(
        f"the matrix is a {type(matrix).__name__}, which align() does not read; it reads numpy arrays, scipy CSR and "
        "CSC, and what anndata opens from .h5ad and .zarr. Call adata.to_memory() first."
    )


@_entries.register(sparse.spmatrix)
@_entries.register(sparse.sparray)
def _(matrix: Any) -> int:
    return int(matrix.nnz)


@_entries.register(CSRDataset)
@_entries.register(CSCDataset)
def _(matrix: Any) -> int:
    return int(matrix.group["data"].shape[0])


@_entries.register(np.ndarray)
@_entries.register(h5py.Dataset)
@_entries.register(zarr.Array)
def _(matrix: Any) -> int:
    return int(matrix.shape[0] * matrix.shape[1])


def _rows(matrix: Any, start: int, stop: int) -> Any:
    if isinstance(matrix, _DENSE):
        return np.asarray(matrix[start:stop])
    if isinstance(matrix, _CSR):
        return _csr_rows(matrix, start, stop)
    return matrix[start:stop]


def _csr_rows(matrix: Any, start: int, stop: int) -> sparse.csr_matrix:
    """Return rows of a CSR that share its memory."""
    starts = matrix.indptr[start : stop + 1]
    span = slice(starts[0], starts[-1])
    parts = (matrix.data[span], matrix.indices[span], starts - starts[0])
    return sparse.csr_matrix(parts, shape=(len(starts) - 1, matrix.shape[1]))

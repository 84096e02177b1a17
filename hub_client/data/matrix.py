"""Expression matrices in all their forms, read block by block: the model's columns, in its order, as one CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors
from hub_client.data import elements

Indices = NDArray[np.int64]
Look = Callable[[NDArray[Any]], None]

BLOCK = 1 << 22
"""About how many entries of a matrix on disk, or of a dense one, are held at once."""

_IN_MEMORY = (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array)
_ON_DISK = (CSRDataset, CSCDataset)
_DENSE = (np.ndarray, h5py.Dataset, zarr.Array)
_BY_COLUMN = (sparse.csc_matrix, sparse.csc_array, CSCDataset)
_NUMBERS = "biuf"
"""Kinds of dtypes that counts come in."""


def readable(matrix: Any, *, name: str) -> Any:
    """Return a matrix that this module reads: a frame's values, and Python objects as numbers.

    Parameters
    ----------
    matrix
        ``(cells, query genes)``; None is returned as it is.
    name
        What to call it in errors.

    Raises
    ------
    AlignmentError
        If it is of no kind that archzoo reads, hides values behind a mask, or holds anything but numbers.
    """
    if matrix is None:
        return None
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    _entries(matrix, name=name)
    if isinstance(matrix, np.ma.MaskedArray):
        raise errors.AlignmentError(
            f"{name} is a masked array, and what a masked value counts is not known: fill them, as in "
            "adata.X = adata.X.filled(0)."
        )
    with elements.guarded(name, place="the query"):
        kind = matrix.dtype
    if kind.kind in _NUMBERS:
        return matrix
    if kind.kind == "O" and isinstance(matrix, (*_IN_MEMORY, np.ndarray)):
        return _from_objects(matrix, name)
    raise _no_numbers(name, kind)


def _from_objects(matrix: Any, name: str) -> Any:
    """Return a matrix of Python objects as one of numbers."""
    if isinstance(matrix, np.ndarray):
        return _converted(matrix, name)
    kind = sparse.csc_matrix if isinstance(matrix, _BY_COLUMN) else sparse.csr_matrix
    return kind((_converted(matrix.data, name), matrix.indices, matrix.indptr), shape=matrix.shape)


def _converted(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        numbers: NDArray[np.float64] = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise _no_numbers(name, values.dtype, f" ({elements.reason(error)})") from error
    return numbers


def _no_numbers(name: str, kind: Any, why: str = "") -> errors.AlignmentError:
    return errors.AlignmentError(
        f"{name} holds values of type {kind}{why}, where numbers are expected: convert it first, as in "
        "adata.X = adata.X.astype('float32')."
    )


def in_memory(value: Any) -> Any:
    """Return a copy of a matrix, or of anything else an AnnData holds, in memory.

    Sparse values that scipy does not compute with (float16, of another byte order) come as those that it does.
    """
    if isinstance(value, _ON_DISK) or (isinstance(value, _IN_MEMORY) and not _plain(value)):
        return _Compressed.of(value).block(0, None)
    return value[()] if isinstance(value, h5py.Dataset | zarr.Array) else deepcopy(value)


@dataclass(frozen=True)
class _Compressed:
    """The arrays of a CSR or CSC, in memory or on disk; rows and columns are called major and minor."""

    data: Any
    indices: Any
    indptr: Indices
    shape: tuple[int, int]
    """Major and minor length."""
    by_column: bool
    place: str
    """The file that they are in; ``""`` for those in memory."""
    name: str

    @classmethod
    def of(cls, matrix: Any) -> _Compressed:
        """Return the arrays of a matrix.

        Raises
        ------
        InvalidInput
            If they contradict each other.
        """
        _entries(matrix)  # refuses other kinds
        by_column, on_disk = isinstance(matrix, _BY_COLUMN), isinstance(matrix, _ON_DISK)
        place = elements.place_of(matrix.group) if on_disk else ""
        name = elements.part_name(str(matrix.group.name)) if on_disk else "the matrix"
        with elements.guarded(name, place=place or "the query"):
            shape = tuple(map(int, matrix.shape[::-1] if by_column else matrix.shape))
            parts = [matrix.group[key] if on_disk else getattr(matrix, key) for key in ("data", "indices", "indptr")]
            data, indices, indptr = parts[0], parts[1], np.asarray(parts[2][()]).astype(np.int64)
            found = cls(data, indices, indptr, (shape[0], shape[1]), by_column, place, name)
            starts = (indptr.shape == (shape[0] + 1,)) and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
            flat = len(data.shape) == len(indices.shape) == 1
            if not starts or not flat or not indptr[-1] <= min(data.shape[0], indices.shape[0]):
                raise found._wrong()
            if lost := _lost_chunks(data) or (_lost_chunks(indices) if shape[1] > 1 else 0):
                raise elements.unreadable(name, place=place, why=f"{lost:,} of its chunks are missing")
        return found

    def block(self, start: int, stop: int | None) -> Any:
        """Return rows of a CSR, or columns of a CSC, in memory."""
        stop = self.shape[0] if stop is None else stop
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        with elements.guarded(self.name, place=self.place or "the query"):
            values = _numbers(self.data[first:last])
            minor = np.asarray(self.indices[first:last])
            minor = minor.astype(minor.dtype.newbyteorder("="), copy=False)
        self.check(minor)
        parts, shape = (values, minor, self.indptr[start : stop + 1] - first), (stop - start, self.shape[1])
        return sparse.csc_matrix(parts, shape=shape[::-1]) if self.by_column else sparse.csr_matrix(parts, shape=shape)

    def check(self, minor: NDArray[Any]) -> None:
        """Refuse indices of rows or columns that there are none of.

        Raises
        ------
        InvalidInput
            If there are any.
        """
        if minor.size and (minor.min() < 0 or minor.max() >= self.shape[1]):
            raise self._wrong()

    def _wrong(self) -> errors.InvalidInput:
        why = "its values, indices and indptr contradict each other, or its shape"
        return elements.unreadable(self.name, place=self.place or "the query", why=why)


def _lost_chunks(part: Any) -> int:
    """Return how many chunks a zarr of stored values lacks: it reads them as zeros, of which none would be stored."""
    return max(int(part.nchunks - part.nchunks_initialized), 0) if isinstance(part, zarr.Array) else 0


def _numbers(values: Any) -> NDArray[Any]:
    """Return values in a type that scipy computes with: this machine's byte order, floats of 4 or 8 bytes."""
    found = np.asarray(values)
    return found.astype(_usable(found.dtype), copy=False)


def _usable(kind: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"f{min(max(kind.itemsize, 4), 8)}") if kind.kind == "f" else kind.newbyteorder("=")


def _plain(matrix: Any) -> bool:
    """Return whether scipy computes with a matrix in memory as it is."""
    return all(part.dtype == _usable(part.dtype) for part in (matrix.data, matrix.indices, matrix.indptr))


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


def log_variances(matrix: Any) -> NDArray[np.float64]:
    """Return the variance of each column's log1p counts over all rows, ``(query genes,)``, read in blocks.

    Values that are no counts, and so have no such logarithm, count as zero: who picks columns sees all values.
    """
    cells, genes = matrix.shape
    total, square = np.zeros(genes), np.zeros(genes)
    by_column, start = isinstance(matrix, _BY_COLUMN), 0
    for block in _column_blocks(matrix) if by_column else row_blocks(matrix, whole=False):
        logs = sparse.csc_matrix(block, dtype=np.float64)
        logs.data = np.log1p(np.nan_to_num(np.maximum(logs.data, 0), posinf=0.0))
        columns = slice(start, start + block.shape[1])
        total[columns] += np.asarray(logs.sum(axis=0)).reshape(-1)
        square[columns] += np.asarray(logs.multiply(logs).sum(axis=0)).reshape(-1)
        start += block.shape[1] if by_column else 0
    found: NDArray[np.float64] = square / max(cells, 1) - (total / max(cells, 1)) ** 2
    return found


def head(matrix: Any, *, rows: int) -> sparse.csr_matrix:
    """Return the first rows, all columns, as CSR."""
    if isinstance(matrix, _BY_COLUMN):
        return sparse.hstack([block[:rows] for block in _column_blocks(matrix)], format="csr")
    return sparse.csr_matrix(next(_slices(matrix, [slice(0, min(rows, matrix.shape[0]))])))


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
    if whole and isinstance(matrix, _IN_MEMORY) and _plain(matrix):
        yield _checked(matrix)
    else:
        yield from _slices(matrix, _steps(matrix, axis=0))


def _column_blocks(matrix: Any) -> Iterator[Any]:
    """Yield consecutive columns of a CSC matrix; one in memory as it is."""
    if isinstance(matrix, _IN_MEMORY) and _plain(matrix):
        yield _checked(matrix)
    else:
        yield from _slices(matrix, _steps(matrix, axis=1))


def _checked(matrix: Any) -> Any:
    """Return a sparse matrix in memory; refuse one whose indices would lead scipy out of it."""
    _Compressed.of(matrix).check(matrix.indices)
    return matrix


def _slices(matrix: Any, parts: Iterable[slice]) -> Iterator[Any]:
    """Yield rows of a dense matrix or CSR, or columns of a CSC, in types that scipy computes with."""
    if isinstance(matrix, _DENSE):
        for part in parts:
            yield _dense_block(matrix, part)
        return
    arrays = _Compressed.of(matrix)
    for part in parts:
        yield arrays.block(part.start, part.stop)


def _dense_block(matrix: Any, part: slice) -> NDArray[Any]:
    on_disk = not isinstance(matrix, np.ndarray)
    name = elements.part_name(str(matrix.name)) if on_disk else "the matrix"
    with elements.guarded(name, place=elements.place_of(matrix) if on_disk else "the query"):
        return _numbers(matrix[part])


def _steps(matrix: Any, *, axis: int) -> Iterator[slice]:
    length = matrix.shape[axis]
    step = max(1, BLOCK * length // max(_entries(matrix), 1))
    yield from (slice(start, min(start + step, length)) for start in range(0, length, step))


def _entries(matrix: Any, *, name: str = "the matrix") -> int:
    """Return how many entries a matrix stores."""
    if isinstance(matrix, _IN_MEMORY):
        return int(matrix.nnz)
    if isinstance(matrix, _ON_DISK):
        with elements.guarded(elements.part_name(str(matrix.group.name)), place=elements.place_of(matrix.group)):
            return int(matrix.group["data"].shape[0])
    if isinstance(matrix, _DENSE):
        return int(matrix.shape[0] * matrix.shape[1])
    library = type(matrix).__module__.partition(".")[0]
    raise errors.AlignmentError(
        f"{name} is a {type(matrix).__name__}, which archzoo does not read; it reads numpy arrays, scipy CSR and "
        f"CSC, and what anndata opens from .h5ad and .zarr. {_ADVICE.get(library, _TO_MEMORY)}"
    )


_TO_MEMORY = "Call adata.to_memory() first."
_ADVICE = {
    "cupy": "Bring it from the GPU first, with rapids_singlecell.get.anndata_to_CPU(adata).",
    "cupyx": "Bring it from the GPU first, with rapids_singlecell.get.anndata_to_CPU(adata).",
}


def _stored(block: Any) -> NDArray[Any]:
    values: NDArray[Any] = block.reshape(-1) if isinstance(block, np.ndarray) else block.data
    return values


def _sums(block: Any) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # infinite where the values' own type cannot hold it
        sums: NDArray[np.float64] = np.asarray(block.sum(axis=1, dtype=np.float64)).reshape(-1)
    return sums

"""What genes and counts a data set has, as one hash that no file format changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset
from scipy import sparse

from hub_client import errors
from hub_client.data.matrix import row_blocks

_FORMAT = b"archzoo fingerprint 1\n"


def fingerprint(data: Any, genes: Iterable[str] | None = None) -> str:
    """Return the sha256 of gene names and counts, 64 hex digits.

    The same for dense and sparse, CSR and CSC, in memory and on disk, ``int16`` and ``float64``, with or without
    explicit zeros, whatever order the entries of a row are stored in. Another order of genes or cells is another
    fingerprint. ``obs`` is not part of it.

    It is the sha256 of: a line naming this format; cells and genes, and the length and UTF-8 bytes of each gene name;
    then three sha256, of each row's number of entries, of their columns and of their values. Whole numbers are 64-bit
    and values 64-bit floats, little-endian; rows are in order, entries by column, repeated ones summed, zeros left out.

    Parameters
    ----------
    data
        AnnData, of which ``X`` is taken; or a matrix, ``(cells, genes)``: numpy, scipy, or on disk as anndata opens it.
    genes
        Gene names, ``(genes,)``; by default an AnnData's ``var_names``.

    Raises
    ------
    InvalidInput
        If there is no matrix, or not one name for each of its columns.
    """
    matrix, names = (data.X, data.var_names) if isinstance(data, AnnData) else (data, ())
    names = [str(name) for name in (names if genes is None else genes)]
    if matrix is None or len(names) != matrix.shape[1]:
        shape = None if matrix is None else matrix.shape
        raise errors.InvalidInput(
            f"a fingerprint is of a matrix and one name for each gene; the matrix has shape {shape} and there are "
            f"{len(names):,} names.",
            facts={"shape": shape, "names": len(names)},
        )
    digest = hashlib.sha256(_FORMAT + _int64(matrix.shape))
    for encoded in (name.encode() for name in names):
        digest.update(_int64([len(encoded)]) + encoded)
    for part in _parts(matrix):
        digest.update(part)
    return digest.hexdigest()


def _parts(matrix: Any) -> Iterator[bytes]:
    """Return the hashes of entries per row, columns and values; one block of rows is held at a time."""
    lengths, columns, values = (hashlib.sha256() for _ in range(3))
    for block in _blocks(matrix):
        lengths.update(_int64(np.diff(block.indptr)))
        columns.update(_int64(block.indices))
        values.update(block.data.astype("<f8").tobytes())
    return (part.digest() for part in (lengths, columns, values))


def _blocks(matrix: Any) -> Iterator[sparse.csr_matrix]:
    """Return blocks of rows as CSR in float64: entries by column, repeated ones summed, no zeros."""
    if isinstance(matrix, CSCDataset):
        matrix = matrix.to_memory()
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = (matrix if matrix.format == "csc" else matrix.astype(np.float64)).tocsr()  # COO sums what is repeated
    for block in row_blocks(matrix, whole=False):
        canonical = sparse.csr_matrix(block, dtype=np.float64, copy=True)
        canonical.sum_duplicates()
        canonical.eliminate_zeros()
        yield canonical


def _int64(values: Any) -> bytes:
    return np.asarray(values).astype("<i8").tobytes()

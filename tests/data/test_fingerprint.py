"""The fingerprint: the same for the same genes and counts, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from hub_client import errors
from hub_client.data import matrix
from hub_client.data.fingerprint import fingerprint

GENES = ["GAPDH", "CD4", "é", ""]
COUNTS = np.array([[0, 3, 0, 1], [0, 0, 0, 0], [200, 0, 7, 0]])
KNOWN = "c3b58f118882ce5785bdfb9b136bc6ee1891ea197942a2025f67e6b4a145c3a1"
"""Computed by hand from the definition in the docstring, with hashlib and no sparse matrix."""

FORMS = {
    "int64": COUNTS,
    "uint8": COUNTS.astype(np.uint8),
    "float32": COUNTS.astype(np.float32),
    "float64": COUNTS.astype(np.float64),
    "fortran": np.asfortranarray(COUNTS),
    "csr": sparse.csr_matrix(COUNTS),
    "csr array": sparse.csr_array(COUNTS.astype(np.float32)),
    "csc": sparse.csc_matrix(COUNTS),
    "coo": sparse.coo_matrix(COUNTS),
    "explicit zeros": sparse.csr_matrix(([3, 0, 1, 200, 7], [1, 2, 3, 0, 2], [0, 3, 3, 5]), shape=(3, 4)),
    "unsorted": sparse.csr_matrix(([1, 3, 7, 200], [3, 1, 2, 0], [0, 2, 2, 4]), shape=(3, 4)),
    "repeated": sparse.csr_matrix(([1, 2, 1, 100, 100, 7], [1, 1, 3, 0, 0, 2], [0, 3, 3, 6]), shape=(3, 4)),
    "repeated bytes": sparse.coo_matrix(
        (np.array([3, 1, 150, 50, 7], np.uint8), ([0, 0, 2, 2, 2], [1, 3, 0, 0, 2])), shape=(3, 4)
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_same_counts_has_the_same_fingerprint(form: object) -> None:
    assert fingerprint(form, GENES) == KNOWN


def test_nothing_is_written_to_the_callers_matrix() -> None:
    matrix = FORMS["repeated"].copy()
    before = (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy())
    fingerprint(matrix, GENES)
    assert all(np.array_equal(a, b) for a, b in zip(before, (matrix.data, matrix.indices, matrix.indptr), strict=True))


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("form", ["csr", "csc", "float32"])
def test_on_disk_it_is_the_same(tmp_path: Path, suffix: str, form: str) -> None:
    from hub_client.data.open_query import read_cells

    adata = anndata.AnnData(FORMS[form].astype(np.float32))
    adata.var_names = GENES
    path = tmp_path / f"cells{suffix}"
    group = h5py.File(path, "w") if suffix == ".h5ad" else zarr.open_group(path, mode="w", zarr_format=2)
    write_elem(group, "/", adata)
    group.store.close() if suffix == ".zarr" else group.close()
    assert fingerprint(adata) == fingerprint(read_cells(path)) == fingerprint(read_cells(path).to_memory()) == KNOWN


@pytest.mark.parametrize("genes", [["GAPDH", "CD4", "", "é"], ["GAPDHC", "D4", "é", ""], ["GAPDH", "CD4", "é", "x"]])
def test_other_genes_have_another(genes: list[str]) -> None:
    assert fingerprint(COUNTS, genes) != KNOWN


@settings(deadline=None)
@given(
    arrays(np.int16, (3, 4), elements=st.integers(0, 3)),
    arrays(np.int16, (3, 4), elements=st.integers(0, 3)),
)
def test_two_matrices_have_the_same_only_if_they_are_the_same(left: np.ndarray, right: np.ndarray) -> None:
    same = fingerprint(left, GENES) == fingerprint(sparse.csc_matrix(right), GENES)
    assert same == np.array_equal(left, right)


def test_the_shape_counts_even_where_there_is_nothing() -> None:
    shapes = [(0, 2), (1, 2), (2, 2), (2, 1)]
    assert len({fingerprint(np.zeros(shape), [str(i) for i in range(shape[1])]) for shape in shapes}) == len(shapes)


def test_blocks_do_not_show() -> None:
    counts = np.zeros((matrix.BLOCK // 500, 1000), np.uint8)
    counts[::7, 3] = 5
    assert len(list(matrix.row_blocks(counts))) > 1
    genes = [str(index) for index in range(1000)]
    assert fingerprint(counts, genes) == fingerprint(sparse.csr_matrix(counts), genes)


@pytest.mark.parametrize("genes", [GENES[:3], [*GENES, "x"], None])
def test_every_gene_needs_a_name(genes: list[str] | None) -> None:
    with pytest.raises(errors.InvalidInput, match="one name for each gene"):
        fingerprint(COUNTS, genes)


def test_an_annotation_without_counts_has_none() -> None:
    with pytest.raises(errors.InvalidInput):
        fingerprint(anndata.AnnData(obs={"a": ["x", "y"]}))

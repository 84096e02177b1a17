from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from anndata import AnnData
from anndata.abc import CSRDataset
from mudata import MuData, set_options

from hub_client import align, errors
from hub_client.data.open_query import opened, read_cells
from tests import queries


@pytest.fixture(autouse=True)
def _current_mudata() -> Iterator[None]:
    with set_options(pull_on_update=False):
        yield


def made() -> AnnData:
    query = queries.query()
    query.layers["counts"] = query.X * 2
    query.raw = query.copy()
    query.obsm["umap"] = np.ones((6, 2))
    query.uns["source"] = "here"
    return query


def paired() -> MuData:
    proteins = AnnData(np.ones((6, 2)), obs=made().obs[[]], var={"kind": ["protein", "protein"]})
    proteins.var_names = ["P1", "P2"]
    pair = MuData({"rna": made(), "prot": proteins})
    pair.obs["donor"] = ["d1", "d2"] * 3
    return pair


def written(folder: Path, name: str) -> Path:
    path = folder / name
    with warnings.catch_warnings(action="ignore"):  # on zarr formats to come, which are not the matter here
        WRITERS[path.suffix](path)
    return path


def zipped(path: Path) -> None:
    made().write_zarr(path.parent / "folder.zarr")
    shutil.make_archive(str(path.with_suffix("")), "zip", path.parent / "folder.zarr")


WRITERS: dict[str, Callable[[Path], None]] = {
    ".h5ad": lambda path: made().write_h5ad(path),
    ".h5mu": lambda path: paired().write(path),
    ".zarr": lambda path: made().write_zarr(path),
    ".zip": zipped,
}


@pytest.mark.parametrize("name", ["query.h5ad", "query.zarr", "query.zarr.zip", "query.h5mu"])
def test_files_are_read_with_their_matrices_left_on_disk(tmp_path: Path, name: str) -> None:
    cells = read_cells(written(tmp_path, name))
    assert isinstance(cells.X, CSRDataset)
    assert isinstance(cells.layers["counts"], CSRDataset)
    whole, expected = cells.to_memory(), made()
    assert (whole.X != expected.X).nnz == 0
    assert (whole.layers["counts"] != expected.layers["counts"]).nnz == 0
    assert (whole.raw.X != expected.raw.X).nnz == 0
    assert whole.uns["source"] == "here"
    assert np.array_equal(whole.obsm["umap"], expected.obsm["umap"])
    assert list(whole.obs["batch"]) == list(expected.obs["batch"])


@pytest.mark.parametrize("name", ["query.h5ad", "query.zarr", "query.zarr.zip", "query.h5mu"])
@pytest.mark.parametrize("layer", [None, "counts", "raw"])
def test_files_align_like_what_was_written(tmp_path: Path, name: str, layer: str | None) -> None:
    read = align(written(tmp_path, name), queries.manifest(), layer=layer)
    straight = align(made(), queries.manifest(), layer=layer)
    assert (read.x != straight.x).nnz == 0
    assert list(read.obs_names) == list(straight.obs_names)


def test_paths_may_be_text(tmp_path: Path) -> None:
    assert len(align(str(written(tmp_path, "query.h5ad")), queries.manifest())) == 6


def test_mudata_gives_its_rna_and_the_columns_all_modalities_share(tmp_path: Path) -> None:
    for query in (paired(), written(tmp_path, "query.h5mu")):
        cells = align(query, queries.manifest(), conditions={"batch": "donor"})
        assert cells.conditions["batch"].tolist() == ["d1", "d2"] * 3
        assert cells.x.sum() == made().X.sum()


def test_mudata_in_memory_is_neither_copied_nor_written_to() -> None:
    pair = paired()
    query = opened(pair)
    assert np.shares_memory(query.X.data, pair.mod["rna"].X.data)
    assert "donor" not in pair.mod["rna"].obs


def test_mudata_without_rna_is_refused() -> None:
    pair = MuData({"prot": paired().mod["prot"]})
    with pytest.raises(errors.AlignmentError, match="no modality 'rna', only prot"):
        opened(pair)


def test_missing_files_are_not_found_with_close_names(tmp_path: Path) -> None:
    written(tmp_path, "query.h5ad")
    with pytest.raises(errors.NotFound, match=r"Did you mean .*query\.h5ad") as caught:
        read_cells(tmp_path / "qery.h5ad")
    assert caught.value.suggestions == (str(tmp_path / "query.h5ad"),)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("query.pkl", "Pickles can run any code"),
        ("query.pickle", "write_h5ad"),
        ("query.h5", "read_10x_h5"),
        ("query.loom", "Read it with scanpy"),
        ("query.rds", "Save it from R"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(errors.InvalidInput, match=advice):
        read_cells(tmp_path / name)


@pytest.mark.parametrize("name", ["query.h5ad", "query.h5mu", "query.zarr.zip"])
@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_damaged_files_are_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = written(tmp_path, name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(errors.InvalidInput, match="may be damaged"):
        read_cells(path)


def test_folders_that_are_no_zarr_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="cannot be read as a zarr folder"):
        read_cells(tmp_path)


def test_files_without_cells_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file.attrs["encoding-type"] = "anndata"
        file["numbers"] = [1]
    with pytest.raises(errors.InvalidInput, match=r"cannot be read as .h5ad"):
        read_cells(tmp_path / "other.h5ad")

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from anndata.abc import CSRDataset
from anndata.io import write_elem
from mudata import MuData, set_options

from hub_client import align, errors
from hub_client.data.open_query import Needed, in_memory, opened, read_cells
from tests import queries, tenx_files


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
    ".h5": lambda path: tenx_files.write_h5(path, made()),
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
        ("query.h5ad.gz", "gunzip"),
        ("query.loom", "Read it with scanpy"),
        ("query.rds", "Save it from R"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(errors.InvalidInput, match=advice):
        read_cells(tmp_path / name)


@pytest.mark.parametrize("name", ["query.h5ad", "query.h5mu", "query.zarr.zip", "query.h5"])
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
    with pytest.raises(errors.InvalidInput, match=r"obs of .*other.h5ad cannot be read"):
        read_cells(tmp_path / "other.h5ad")


def with_unknown(path: Path, *parts: str) -> Path:
    """Make parts of a file of an encoding that nobody knows."""
    with h5py.File(path, "a") as file:
        for part in parts:
            if part in file:
                del file[part]
            group = file.create_group(part)
            group.attrs.update({"encoding-type": "of-the-future", "encoding-version": "1.0"})
    return path


OPTIONAL = ("uns/new", "obsm/new", "varm/new", "obsp/new", "varp/new", "layers/new", "obs/new", "var/new", "raw/X")


def test_parts_that_nobody_needs_may_be_of_unknown_encodings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, "query.h5ad")
    with h5py.File(path, "a") as file:
        for table in ("obs", "var"):
            file[table].attrs["column-order"] = np.array([*file[table].attrs["column-order"], "new"], dtype=object)
    with_unknown(path, *OPTIONAL)
    assert (align(path, queries.manifest()).x != align(made(), queries.manifest()).x).nnz == 0
    caplog.clear()
    cells = in_memory(read_cells(path))
    left_out = {record.getMessage().partition(" was left out")[0] for record in caplog.records}
    assert left_out == {"raw/X", *(f"{p.partition('/')[0]}['new']" for p in OPTIONAL if p != "raw/X")}
    assert (cells.X != made().X).nnz == 0 and list(cells.obs["batch"]) == list(made().obs["batch"])


@pytest.mark.parametrize(
    ("part", "name", "needed"),
    [
        ("X", "X", Needed()),
        ("obs/batch", r"obs\['batch'\]", Needed(columns={"batch"})),
        ("layers/counts", r"layers\['counts'\]", Needed(layer="counts")),
        ("obs", "obs", Needed()),
    ],
)
def test_what_is_needed_is_named_where_it_cannot_be_read(tmp_path: Path, part: str, name: str, needed: Needed) -> None:
    path = with_unknown(written(tmp_path, "query.h5ad"), part)
    with pytest.raises(errors.InvalidInput, match=f"^{name} of .*query.h5ad cannot be read"):
        read_cells(path, needed=needed)


def test_alignment_reads_of_a_file_what_it_needs(tmp_path: Path) -> None:
    cells = read_cells(written(tmp_path, "query.h5ad"), needed=Needed(columns={"batch"}), whole=False)
    assert list(cells.obs) == ["batch"]
    assert not cells.obsm and not cells.uns and not cells.obsp
    assert set(cells.layers) == {"counts"} and cells.raw is not None


def test_what_cannot_be_copied_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, query = written(tmp_path, "query.h5ad"), made()
    with h5py.File(path, "a") as file:
        del file["layers/counts/indices"]
    copy = in_memory(read_cells(path))
    assert "layers['counts'] cannot be read or copied" in caplog.text
    assert copy.uns["source"] == "here" and (copy.X != query.X).nnz == 0
    assert (copy.raw.X != query.raw.X).nnz == 0 and not copy.layers


def test_a_layer_that_was_written_as_a_frame_is_read(tmp_path: Path) -> None:
    path, query = written(tmp_path, "query.h5ad"), made()
    with h5py.File(path, "a") as file:
        frame = pd.DataFrame(query.X.toarray(), index=query.obs_names, columns=query.var_names)
        write_elem(file, "layers/counts", frame)
    cells = align(path, queries.manifest(), layer="counts")
    assert np.array_equal(cells.x.toarray(), query.X.toarray())


def test_a_file_in_use_is_not_called_damaged(tmp_path: Path) -> None:
    path = written(tmp_path, "query.h5ad")
    code = "import sys, h5py; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        with pytest.raises(errors.InvalidInput, match="Another program has it open for writing") as caught:
            read_cells(path)
        holder.communicate(b"")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("address", ["https://lab.org/query.h5ad", "s3://bucket/query.zarr", "file:///data/q.h5ad"])
def test_addresses_are_to_be_downloaded_first(address: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"{address} is an address.*download it first"):
        read_cells(address)


@pytest.mark.parametrize("name", ["query.h5ad", "query.h5mu", "query.zarr.zip", "query.h5"])
def test_suffixes_in_upper_case_are_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    upper = path.rename(path.with_name(name.upper()))
    assert len(align(upper, queries.manifest())) == 6


def test_an_anndata_in_a_file_called_h5_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "query.h5ad")
    assert read_cells(path.rename(tmp_path / "query.h5")).uns["source"] == "here"


def test_lazy_queries_are_to_be_read_first() -> None:
    query = made()
    query._obs = object()  # as of anndata.experimental.read_lazy, which needs xarray and dask
    with pytest.raises(errors.InvalidInput, match=r"obs is a object.*to_memory\(\)"):
        opened(query)


@pytest.mark.parametrize("table", ["obs", "var"])
def test_indices_of_several_levels_are_refused(table: str) -> None:
    query = made()
    frame = getattr(query, table)
    frame.index = pd.MultiIndex.from_product([["a"], range(len(frame))])
    with pytest.raises(errors.InvalidInput, match=rf"adata.{table}.index has 2 levels"):
        opened(query)


def test_nullable_text_is_read(tmp_path: Path) -> None:
    query = made()
    query.obs.index, query.var.index = query.obs_names.astype("string"), query.var_names.astype("string")
    query.obs["note"] = pd.array(["a", None] * 3, dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        query.write_h5ad(tmp_path / "query.h5ad")
    cells = align(tmp_path / "query.h5ad", queries.manifest())
    assert list(cells.obs_names) == list(made().obs_names)
    assert read_cells(tmp_path / "query.h5ad").obs["note"].isna().tolist() == [False, True] * 3


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file's bytes with some of them changed, zeroed or cut off."""
    start, length = chance.randrange(len(content)), chance.choice([1, 4, 16, 64])
    rest = content[start + length :]
    return content[:start] + chance.choice([chance.randbytes(length) + rest, bytes(length) + rest, b""])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["query.h5ad", "query.zarr", "query.zarr.zip", "query.h5mu", "query.h5"])
def test_random_damage_gives_our_errors_only(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    path, chance, refused = written(tmp_path, name), random.Random(name), 0
    for _ in range(40):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        file = chance.choice([file for file in files if file.stat().st_size])
        content = file.read_bytes()
        file.write_bytes(damaged(content, chance))
        try:
            align(path, queries.manifest())
            in_memory(read_cells(path))
        except errors.HubClientError:
            refused += 1
        file.write_bytes(content)
    assert refused
    assert len(align(path, queries.manifest())) == 6


class _Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def _pickled(folder: Path, trap: Path, part: str, *, consolidated: bool) -> Path:
    """Return a zarr of the older format in which one array's only chunk is a pickle that makes a folder."""
    path = folder / "query.zarr"
    with anndata.settings.override(zarr_write_format=2), warnings.catch_warnings(action="ignore"):
        made().write_zarr(path)
    described = {"shape": [6], "chunks": [6], "dtype": "|O", "fill_value": None, "order": "C", "zarr_format": 2}
    described |= {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None}
    if not consolidated:
        (path / ".zmetadata").unlink(missing_ok=True)
    else:
        whole = json.loads((path / ".zmetadata").read_bytes())
        whole["metadata"][f"{part}/.zarray"] = described
        (path / ".zmetadata").write_text(json.dumps(whole))
    shutil.rmtree(path / part)
    (path / part).mkdir()
    (path / part / "0").write_bytes(pickle.dumps(_Trap(trap)))
    if not consolidated:
        (path / part / ".zarray").write_text(json.dumps(described))
        (path / part / ".zattrs").write_text(json.dumps({"encoding-type": "string-array", "encoding-version": "0.2.0"}))
    return path


@pytest.mark.parametrize("kind", ["folder", "consolidated", "zip", "linked"])
@pytest.mark.parametrize("part", ["obs/_index", "X/data", "uns/source"])
def test_pickled_arrays_of_a_zarr_are_refused_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, kind: str
) -> None:
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = _pickled(tmp_path, trap := tmp_path / "sprung", part, consolidated=kind == "consolidated")
    if kind == "zip":
        path = Path(shutil.make_archive(str(path), "zip", path))
    if kind == "linked":
        top = part.partition("/")[0]
        shutil.move(path / top, tmp_path / "elsewhere")
        (path / top).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.InvalidInput, match=r"states that an array is pickled\. Pickles can run any code"):
        align(path, queries.manifest())
    assert not trap.exists()


def test_the_trap_of_the_test_above_springs_where_pickles_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = _pickled(tmp_path, trap := tmp_path / "sprung", "obs/_index", consolidated=False)
    with pytest.raises((TypeError, ValueError)):
        zarr.open_group(path, mode="r")["obs/_index"][:]
    assert trap.exists()


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("format_", [2, 3])
def test_lost_chunks_of_a_sparse_zarr_are_not_read_as_zeros(tmp_path: Path, format_: int, part: str) -> None:
    with anndata.settings.override(zarr_write_format=format_), warnings.catch_warnings(action="ignore"):
        query = made()
        query.write_zarr(tmp_path / "query.zarr")
    group = zarr.open_group(tmp_path / "query.zarr", mode="r+", use_consolidated=False)
    whole = group[f"X/{part}"][:]
    described = {"chunks": (5,), "shape": whole.shape, "dtype": whole.dtype}
    group["X"].create_array(part, overwrite=True, **described)[:] = whole  # type: ignore[union-attr]
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(group.store, zarr_format=format_)
    assert (align(tmp_path / "query.zarr", queries.manifest()).x != align(query, queries.manifest()).x).nnz == 0
    next((tmp_path / "query.zarr" / "X" / part).rglob("1")).unlink()
    with pytest.raises(errors.InvalidInput, match=r"X of .* cannot be read: 1 of its chunks are missing"):
        align(tmp_path / "query.zarr", queries.manifest())


@pytest.mark.parametrize("part", ["data", "indices"])
def test_stored_values_of_two_dimensions_are_refused(tmp_path: Path, part: str) -> None:
    path = written(tmp_path, "query.h5ad")
    with h5py.File(path, "r+") as file:
        values = file[f"X/{part}"][()]
        del file[f"X/{part}"]
        file[f"X/{part}"] = np.stack([values, values], axis=1)
    with pytest.raises(errors.InvalidInput, match="contradict each other"):
        align(path, queries.manifest())

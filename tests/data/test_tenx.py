from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from hub_client import align, errors
from hub_client.data.open_query import read_cells
from tests import queries, tenx_files

pytestmark = pytest.mark.slow  # scanpy is imported


def expected() -> list[list[float]]:
    return queries.query().X.toarray().tolist()


def test_h5_is_read_with_all_its_features(tmp_path: Path) -> None:
    kinds = ["Gene Expression"] * 7 + ["Antibody Capture"]
    tenx_files.write_h5(tmp_path / "q.h5", queries.query(), feature_types=kinds)
    cells = read_cells(tmp_path / "q.h5")
    assert cells.X.toarray().tolist() == expected()
    assert list(cells.var["feature_types"]) == kinds
    assert list(cells.var["gene_ids"]) == [f"id-{name}" for name in queries.PANEL]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_folders_of_mtx_are_read(tmp_path: Path, legacy: bool, prefix: str) -> None:
    tenx_files.write_mtx(tmp_path / "counts", queries.query(), legacy=legacy, prefix=prefix)
    for path in (tmp_path / "counts", next((tmp_path / "counts").glob("*matrix.mtx*"))):
        cells = align(path, queries.manifest())
        assert cells.x.toarray().tolist() == expected()
        assert list(cells.obs_names) == list(queries.query().obs_names)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_that_repeat_are_left_as_they_are(tmp_path: Path) -> None:
    tenx_files.write_mtx(tmp_path / "counts", queries.query([*queries.PANEL, "CD4"]))
    assert list(read_cells(tmp_path / "counts").var_names) == [*queries.PANEL, "CD4"]


def test_folders_that_lack_a_table_or_hold_two_matrices_are_refused(tmp_path: Path) -> None:
    tenx_files.write_mtx(tmp_path, queries.query(), prefix="a_")
    (tmp_path / "a_barcodes.tsv.gz").unlink()
    with pytest.raises(errors.InvalidInput, match=r"lacks a file.*a_barcodes.tsv.gz belong together.*gzip"):
        read_cells(tmp_path)
    tenx_files.write_mtx(tmp_path, queries.query(), prefix="b_")
    with pytest.raises(errors.InvalidInput, match=r"several matrices, a_matrix.mtx.gz, b_matrix.mtx.gz"):
        read_cells(tmp_path)
    assert len(read_cells(tmp_path / "b_matrix.mtx.gz")) == 6


def test_other_h5_files_are_refused(tmp_path: Path) -> None:
    tenx_files.write_h5(tmp_path / "q.h5", queries.query())
    with h5py.File(tmp_path / "q.h5", "a") as file:
        del file["matrix/barcodes"], file["matrix/features/name"]
    with pytest.raises(errors.InvalidInput, match="no matrix of 10x: it has no barcodes, name"):
        read_cells(tmp_path / "q.h5")
    with h5py.File(tmp_path / "q.h5", "w") as file:
        file["weights"] = [1.0]
    with pytest.raises(errors.InvalidInput, match="holds weights, where one matrix of 10x is expected"):
        read_cells(tmp_path / "q.h5")

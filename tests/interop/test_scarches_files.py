"""Folders that scArches saved: genes of any name, files that are missing or are none of its."""

from __future__ import annotations

import pickle
from pathlib import Path
from shutil import copytree

import pytest

from hub_client import errors
from hub_client.interop import scarches_files

LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
GENES = ["ACTB", "CD3E", "HLA-DRA", "MS4A1", "NKG7", "IL7R", "gene, old", "#9", "two words", "LYZ", "GNLY", "PPBP"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copytree(LEGACY / "trvae-0.3.0", tmp_path / "models" / "model")


def with_genes(folder: Path, content: bytes, *, count: int) -> Path:
    (folder / "var_names.csv").write_bytes(content)
    attributes = pickle.loads((folder / "attr.pkl").read_bytes()) | {"input_dim_": count}
    (folder / "attr.pkl").write_bytes(pickle.dumps(attributes))
    return folder


def test_a_folder(folder: Path) -> None:
    found = scarches_files.read(folder)
    assert list(found.genes) == GENES
    assert found.attributes["latent_dim_"] == 4
    assert found.state["theta"].shape == (12, 2)
    assert [file.path for file in found.files] == ["attr.pkl", "model_params.pt", "var_names.csv"]
    assert found.cells is None


@pytest.mark.parametrize(
    ("content", "genes"),
    [
        (b"ACTB\n", ["ACTB"]),
        (b"ACTB", ["ACTB"]),
        (b"A\r\nB\r\n", ["A", "B"]),
        (b"\xef\xbb\xbfA\nB\n", ["A", "B"]),
        (b" A \nB,C\n#D\n", [" A ", "B,C", "#D"]),
        ("A\u2028B\x0b\nC\x1cD\n".encode(), ["A\u2028B\x0b", "C\x1cD"]),
        ("TGF\u03b2\n".encode(), ["TGF\u03b2"]),
        ("\xb5-chain\n".encode("latin-1"), ["\xb5-chain"]),
    ],
)
def test_genes_are_lines(folder: Path, content: bytes, genes: list[str]) -> None:
    assert list(scarches_files.read(with_genes(folder, content, count=len(genes))).genes) == genes


def test_genes_that_the_model_does_not_read(folder: Path) -> None:
    with_genes(folder, b"A\nB\n", count=12)
    with pytest.raises(errors.IntegrityError, match="names 2 genes, the model reads 12") as refused:
        scarches_files.read(folder)
    assert (refused.value.file, refused.value.expected, refused.value.actual) == ("var_names.csv", 12, 2)


@pytest.mark.parametrize("name", scarches_files.NEEDED)
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(errors.NotFound, match=f"has no {name}. What scArches saves"):
        scarches_files.read(folder)


def test_a_folder_of_folders_suggests_them(folder: Path) -> None:
    with pytest.raises(errors.NotFound, match="Did you mean") as refused:
        scarches_files.read(folder.parent)
    assert refused.value.suggestions == (str(folder),)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such folder"):
        scarches_files.read(tmp_path / "none")


@pytest.mark.parametrize("value", [[1], "text", {1: 2}])
def test_attributes_of_no_model(folder: Path, value: object) -> None:
    (folder / "attr.pkl").write_bytes(pickle.dumps(value))
    for read in (scarches_files.read, scarches_files.look):
        with pytest.raises(errors.IntegrityError, match="does not hold a model's attributes"):
            read(folder)


def test_a_look_loads_no_attributes(folder: Path) -> None:
    found = scarches_files.look(folder)
    assert found.attributes["conditions_"] == ["b0", "b1"]
    assert found.shapes is not None and found.shapes["theta"] == (12, 2)
    assert all(request.allowed for request in found.requests)
    assert {request.file for request in found.requests} == {"model_params.pt"}


def test_the_saved_cells_are_found(folder: Path) -> None:
    (folder / "adata.h5ad").write_bytes(b"cells")
    found = scarches_files.read(folder)
    assert found.cells == folder / "adata.h5ad"
    assert found.files[-1].path == "adata.h5ad"


def test_a_range_of_names_is_refused(folder: Path) -> None:
    """It takes a few bytes, and more memory than there is."""
    attributes = pickle.loads((folder / "attr.pkl").read_bytes())
    for odd in ({"conditions_": range(10**15)}, {"conditions_": [["b0"], {"b1": (1, range(10**15))}]}):
        (folder / "attr.pkl").write_bytes(pickle.dumps(attributes | odd))
        with pytest.raises(errors.IntegrityError, match="range of numbers"):
            scarches_files.read(folder)
    (folder / "attr.pkl").write_bytes(pickle.dumps(attributes | {"labeled_indices_": range(10**15)}))
    assert scarches_files.read(folder).attributes["labeled_indices_"] == range(10**15)

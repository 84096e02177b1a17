"""What 10x's Cell Ranger writes, read by scanpy: ``.h5`` files, and folders of ``matrix.mtx`` with its tables."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
from anndata import AnnData

from hub_client import errors
from hub_client.data import elements

MATRICES = ("matrix.mtx", "matrix.mtx.gz")
_LAYOUTS = (("matrix.mtx", "genes.tsv", "barcodes.tsv"), ("matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"))
"""The files of a folder that scanpy reads, before Cell Ranger 3 and since."""
_MATRIX = ("shape", "data", "indices", "indptr", "barcodes")
_GENES = {"matrix": ("name", "id", "feature_type"), "": ("genes", "gene_names")}
"""The tables of an ``.h5`` beside its matrix, by the name of their group; before Cell Ranger 3 that was a genome."""


def is_tenx(path: Path) -> bool:
    """Return whether a path is 10x's rather than an AnnData's; an ``.h5`` can be either.

    Raises
    ------
    OSError
        If an ``.h5`` cannot be opened.
    """
    if path.is_dir() or path.name.lower().endswith(MATRICES):
        return bool(_matrices(path))
    if path.suffix.lower() != ".h5":
        return False
    with h5py.File(path, "r") as file:
        return "encoding-type" not in file.attrs and not {"obs", "var"} <= set(file)


def read(path: Path) -> AnnData:
    """Return the cells of a file or folder of 10x, with all features: antibodies and guides too, by ``feature_types``.

    Raises
    ------
    InvalidInput
        If a file or table is missing or cannot be read, or a folder holds several matrices.
    """
    with warnings.catch_warnings(), elements.guarded("the matrix", place=str(path)):
        warnings.filterwarnings("ignore", message=r".* names are not unique")  # genes are matched by their ids too
        return _read_h5(path) if path.suffix.lower() == ".h5" else _read_mtx(path)


def _read_h5(path: Path) -> AnnData:
    import scanpy

    _check_h5(path)
    return scanpy.read_10x_h5(path, gex_only=False)


def _check_h5(path: Path) -> None:
    """Refuse what is no matrix of 10x; scanpy raises a bare Exception of it."""
    with h5py.File(path, "r") as file:
        groups = ["matrix"] if "matrix" in file else list(file)
        if len(groups) != 1 or not isinstance(file[groups[0]], h5py.Group):
            raise _bad(path, f"holds {errors.names(groups) or 'nothing'}, where one matrix of 10x is expected")
        found: set[str] = set()
        file[groups[0]].visit(lambda name: found.add(name.rpartition("/")[2]))
    missing = [name for name in (*_MATRIX, *_GENES.get(groups[0], _GENES[""])) if name not in found]
    if missing:
        raise _bad(path, f"is no matrix of 10x: it has no {errors.names(missing)}")


def _read_mtx(path: Path) -> AnnData:
    import scanpy

    found = _matrices(path)
    if len(found) > 1:
        raise _bad(path, f"holds several matrices, {errors.names(found)}: pass the path of one of them")
    folder, prefix = (path if path.is_dir() else path.parent), _prefix(found[0])
    there = {file.name for file in folder.iterdir()}
    if not any(there.issuperset(prefix + name for name in layout) for layout in _LAYOUTS):
        expected = " or ".join(errors.names(prefix + name for name in layout) for layout in _LAYOUTS)
        raise _bad(
            folder,
            f"lacks a file of its matrix: {expected} belong together. Files of STARsolo are packed with gzip first",
        )
    return scanpy.read_10x_mtx(folder, gex_only=False, make_unique=False, prefix=prefix)


def _matrices(path: Path) -> list[str]:
    """Return the names of a folder's matrices, each once if it is there packed and unpacked; of a file its own."""
    names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
    found = sorted(name for name in names if name.endswith(MATRICES))
    return [name for name in found if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in found]


def _prefix(name: str) -> str:
    return name.removesuffix(".gz").removesuffix("matrix.mtx")


def _bad(path: Path, fault: str) -> errors.InvalidInput:
    return errors.InvalidInput(f"{path} {fault}.", facts={"path": str(path)})

"""Open a query: AnnData, MuData or a file of either, without reading its matrices into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from hub_client import errors

Group = h5py.Group | zarr.Group

SUFFIXES = (".h5ad", ".h5mu", ".zarr", ".zarr.zip")
RNA = "rna"


def read_cells(path: str | Path) -> AnnData:
    """Return the cells of a file; its matrices stay on disk until they are used.

    X, layers and raw are read by blocks while they are aligned; ``.to_memory()`` reads all of them.

    Parameters
    ----------
    path
        A ``.h5ad`` file, a ``.zarr`` folder, a ``.zarr.zip`` or a ``.h5mu`` file (its modality ``rna``).

    Raises
    ------
    NotFound
        If there is nothing at the path.
    InvalidInput
        If the file is none of these, or is damaged.
    """
    group = _opened(Path(path))
    return _cells(group)


def _opened(path: Path) -> Group:
    return h5py.File(path, "r") if path.suffix in {".h5ad", ".h5mu"} else zarr.open_group(str(path), mode="r")


def _cells(group: Group) -> AnnData:
    tables = {name: read_elem(group[name]) for name in ("obs", "var", "obsm", "varm", "uns") if name in group}
    layers = {name: _lazy(group["layers"][name]) for name in group.get("layers", ())}
    raw = {"X": _lazy(group["raw/X"]), "var": read_elem(group["raw/var"])} if "raw" in group else None
    return AnnData(X=_lazy(group["X"]) if "X" in group else None, layers=layers, raw=raw, **tables)


def _lazy(element: Any) -> Any:
    return sparse_dataset(element) if isinstance(element, (h5py.Group, zarr.Group)) else element


def opened(adata: Any) -> AnnData:
    """Return the AnnData of a query given as AnnData, MuData or path."""
    if isinstance(adata, (str, Path)):
        return read_cells(adata)
    return adata

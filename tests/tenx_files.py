"""What 10x's Cell Ranger writes, of a small query."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
from anndata import AnnData
from scipy.io import mmwrite


def write_h5(path: Path, query: AnnData, *, feature_types: list[str] | None = None) -> None:
    """Write an ``.h5`` as Cell Ranger 3 does; ids are the names with ``id-`` before them."""
    names = [str(name).encode() for name in query.var_names]
    kinds = feature_types or ["Gene Expression"] * query.n_vars
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            matrix[key] = getattr(query.X, key).astype("i4")
        matrix["shape"] = np.array(query.shape[::-1], dtype="i4")
        matrix["barcodes"] = np.array([name.encode() for name in query.obs_names])
        features = matrix.create_group("features")
        features["id"] = np.array([b"id-" + name for name in names])
        features["name"] = np.array(names)
        features["feature_type"] = np.array([kind.encode() for kind in kinds])


def write_mtx(folder: Path, query: AnnData, *, prefix: str = "", legacy: bool = False) -> None:
    """Write a folder as Cell Ranger does, or did before version 3."""
    folder.mkdir(exist_ok=True)
    mmwrite(folder / f"{prefix}matrix.mtx", query.X.T.astype(int))
    features = "".join(f"id-{name}\t{name}\tGene Expression\n" for name in query.var_names)
    (folder / f"{prefix}{'genes' if legacy else 'features'}.tsv").write_text(features)
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(query.obs_names) + "\n")
    for file in () if legacy else list(folder.glob(f"{prefix}*")):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()

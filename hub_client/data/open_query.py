"""Open a query: AnnData, MuData or a file of either, its matrices left where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import anndata
import h5py
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from mudata import MuData
from zarr.errors import GroupNotFoundError
from zarr.storage import ZipStore

from hub_client import errors

Query: TypeAlias = AnnData | MuData | str | Path
Group: TypeAlias = h5py.Group | zarr.Group

RNA = "rna"
PROTEINS = ("prot", "protein", "proteins", "adt")
"""What modalities with proteins are called, in any case."""
_IN_MEMORY = ("obsm", "varm", "uns")
_ON_DISK = ("layers", "obsp", "varp")


def opened(query: Query, *, proteins: Sequence[str] = ()) -> AnnData:
    """Return the cells of a query, its matrices neither copied nor read.

    Parameters
    ----------
    query
        AnnData; MuData, of which the modality ``rna`` is taken, with the columns all modalities share added to its obs,
        and the counts of modalities with proteins to its obsm; or a path, as :func:`read_cells` takes.
    proteins
        Names of modalities with proteins, besides those in ``PROTEINS``. Where there is no modality ``rna``, and one
        alone has no proteins, that one is taken.

    Raises
    ------
    InvalidInput
        If it is none of these.
    AlignmentError
        If a MuData has no modality ``rna``.
    NotFound
        If there is nothing at the path.
    """
    if isinstance(query, str | Path):
        return read_cells(query, proteins=proteins)
    if isinstance(query, MuData):
        return _modality(query, proteins)
    if isinstance(query, AnnData):
        return query
    raise errors.InvalidInput(
        f"a query is an AnnData, a MuData or the path of a file that holds one, not a {type(query).__name__}.",
        facts={"query": type(query).__name__},
    )


def read_cells(path: str | Path, *, proteins: Sequence[str] = ()) -> AnnData:
    """Return the cells of a file; X, layers and raw stay on disk until they are used.

    The file stays open as long as the result lives. ``.to_memory()`` returns a copy with everything read.

    Parameters
    ----------
    path
        A ``.h5ad`` or ``.h5mu`` file, or a zarr folder or ``.zarr.zip`` of either; of a MuData the modality ``rna``.
    proteins
        As for :func:`opened`.

    Raises
    ------
    NotFound
        If there is nothing at the path.
    InvalidInput
        If it is none of these, or is damaged.
    AlignmentError
        If a MuData has no modality ``rna``.
    """
    path = Path(path)
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = [str(path.parent / name) for name in get_close_matches(path.name, near, n=3, cutoff=0.8)]
        raise errors.NotFound(f"there is no file or folder {path}.", name=str(path), suggestions=close)
    try:
        return _cells(_group(path), path, proteins)
    except (OSError, BadZipFile, KeyError, GroupNotFoundError) as error:
        raise errors.InvalidInput(
            f"{path} cannot be read as {path.suffix or 'a zarr folder'}: {error}. It may be damaged or only partly "
            "copied: fetch or write it again.",
            facts={"path": str(path)},
        ) from error


def _group(path: Path) -> Group:
    if path.is_dir():
        return zarr.open_group(path, mode="r")
    if path.suffix not in _OPENERS:
        raise errors.InvalidInput(
            f"{path.name} is not a file archzoo reads: it takes .h5ad, .h5mu, .zarr and .zarr.zip. "
            f"{_ADVICE.get(path.suffix, _OTHERWISE)}",
            facts={"path": str(path)},
        )
    return _OPENERS[path.suffix](path)


_OPENERS: dict[str, Callable[[Path], Group]] = {
    ".h5ad": lambda path: h5py.File(path, "r"),
    ".h5mu": lambda path: h5py.File(path, "r"),
    ".zip": lambda path: zarr.open_group(ZipStore(path, mode="r"), mode="r"),
}
_PICKLE = "Pickles can run any code when they are opened, so archzoo never does: save the AnnData with write_h5ad()."
_OTHERWISE = "Read it with scanpy, and pass the AnnData or save it with write_h5ad()."
_ADVICE = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".h5": "Read it with scanpy.read_10x_h5(), and pass the AnnData or save it with write_h5ad().",
    ".rds": "Save it from R as .h5ad, with the packages anndataR or zellkonverter.",
}


def _cells(group: Group, path: Path, proteins: Sequence[str] = ()) -> AnnData:
    if group.attrs.get("encoding-type") == "MuData":
        return _modality_on_disk(group, proteins)
    if path.suffix == ".h5ad" and group.attrs.get("encoding-type") != "anndata":
        return anndata.read_h5ad(path, backed="r")  # written before anndata 0.8, which marked no file
    return AnnData(
        X=_lazy(group["X"]) if "X" in group else None,
        raw={"X": _lazy(group["raw/X"]), "var": read_elem(group["raw/var"])} if "raw/X" in group else None,
        obs=read_elem(group["obs"]),
        var=read_elem(group["var"]),
        **{name: read_elem(group[name]) for name in _IN_MEMORY if name in group},
        **{name: {key: _lazy(group[name][key]) for key in group[name]} for name in _ON_DISK if name in group},
    )


def _lazy(element: Any) -> Any:
    return sparse_dataset(element) if isinstance(element, h5py.Group | zarr.Group) else element


def _modality_on_disk(group: Group, proteins: Sequence[str]) -> AnnData:
    genes, others = _roles(list(group["mod"]), proteins)
    rna = _cells(group[f"mod/{genes}"], Path())
    shared = read_elem(group["obs"])
    rna.obs = _with_shared(rna.obs, shared)
    for name in group.get("obsm", ()):
        if name not in group["mod"] and name not in rna.obsm:
            rna.obsm[name] = _rows(read_elem(group["obsm"][name]), shared.index, rna.obs_names)
    for name in others:
        rna.obsm[name] = _frame(read_elem(group[f"mod/{name}"]), rna.obs_names)
    return rna


def _modality(query: MuData, proteins: Sequence[str]) -> AnnData:
    genes, others = _roles(list(query.mod), proteins)
    rna = query.mod[genes]
    shared = [name for name in query.obsm if name not in query.mod]
    return AnnData(
        X=rna.X,
        obs=_with_shared(rna.obs, query.obs),
        var=rna.var,
        layers=dict(rna.layers),
        obsm={name: _rows(query.obsm[name], query.obs_names, rna.obs_names) for name in shared}
        | dict(rna.obsm)
        | {name: _frame(query.mod[name], rna.obs_names) for name in others},
        varm=dict(rna.varm),
        obsp=dict(rna.obsp),
        varp=dict(rna.varp),
        uns=dict(rna.uns),
        raw=None if rna.raw is None else {"X": rna.raw.X, "var": rna.raw.var},
    )


def _rows(values: Any, index: pd.Index, cells: pd.Index) -> Any:
    """Return the rows of a whole MuData's array or frame that are of some cells."""
    return values.reindex(cells) if isinstance(values, pd.DataFrame) else values[index.get_indexer(cells)]


def _frame(modality: AnnData, cells: pd.Index) -> pd.DataFrame:
    """Return the matrix of a modality for some cells, ``(cells, columns)``, NaN for those it does not have."""
    return modality.to_df().reindex(cells)


def _roles(found: list[str], proteins: Sequence[str]) -> tuple[str, list[str]]:
    """Return the modality with genes, and those with proteins."""
    others = [name for name in found if name != RNA and (name in proteins or name.lower() in PROTEINS)]
    rest = [name for name in found if name not in others]
    if RNA in found:
        return RNA, others
    if len(rest) == 1 and any(name in proteins for name in others):
        return rest[0], others
    raise errors.AlignmentError(
        f"the MuData has no modality {RNA!r}, only {errors.names(found)}: pass the one that holds gene expression, "
        "mdata.mod[name]."
    )


def _with_shared(own: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """Return a modality's obs with the columns of the whole MuData's that belong to no modality."""
    extra = [name for name in shared.columns if ":" not in str(name) and name not in own]
    return own.join(shared[extra])

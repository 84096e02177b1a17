"""Open a query: AnnData, MuData or a file of either, its matrices left where they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import h5py
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset
from mudata import MuData
from scipy import sparse
from zarr.storage import ZipStore

from hub_client import errors
from hub_client.data import elements, tenx
from hub_client.data import matrix as matrices
from hub_client.data.elements import Group
from hub_client.files import zarr_pickles

Query: TypeAlias = AnnData | MuData | str | Path

RNA = "rna"
PROTEINS = ("prot", "protein", "proteins", "adt")
"""What modalities with proteins are called, in any case."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needed:
    """What of a query has to be readable; the rest is left out, with a warning, where it is not."""

    columns: Collection[str] = ()
    """Columns of obs."""
    layer: str | None = None
    """The matrix: a layer's name, ``raw`` or ``X``; None for X."""
    proteins: Sequence[str] | None = None
    """Names of modalities with proteins, besides those in ``PROTEINS``; None where no proteins are read. Where there is
    no modality ``rna``, and one alone has no proteins, that one is taken."""

    @property
    def matrix(self) -> str:
        """The matrix to read."""
        return self.layer or "X"

    def also(self, columns: Iterable[str]) -> Needed:
        """Return the same with more columns of obs."""
        return replace(self, columns={*self.columns, *columns})


def opened(query: Query, *, needed: Needed | None = None, whole: bool = True) -> AnnData:
    """Return the cells of a query, its matrices neither copied nor read.

    Parameters
    ----------
    query
        AnnData; MuData, of which the modality ``rna`` is taken, with the columns all modalities share added to its obs,
        and the counts of modalities with proteins to its obsm; or a path, as :func:`read_cells` takes.
    needed, whole
        As for :func:`read_cells`.

    Raises
    ------
    InvalidInput
        If it is none of these, or lazy, or its obs or var have several levels.
    AlignmentError
        If a MuData has no modality ``rna``.
    NotFound
        If there is nothing at the path.
    """
    if isinstance(query, str | Path):
        return _checked(read_cells(query, needed=needed, whole=whole))
    if isinstance(query, MuData):
        return _checked(_modality(query, (needed or Needed()).proteins or ()))
    if isinstance(query, AnnData):
        return _checked(query)
    raise errors.InvalidInput(
        f"a query is an AnnData, a MuData or the path of a file that holds one, not a {type(query).__name__}.",
        facts={"query": type(query).__name__},
    )


def _checked(query: AnnData) -> AnnData:
    """Return the query; refuse tables that are no plain data frames."""
    for name, table in {"obs": query.obs, "var": query.var}.items():
        if not isinstance(table, pd.DataFrame):
            raise errors.InvalidInput(
                f"the query is lazy: its {name} is a {type(table).__name__}, where a pandas DataFrame is expected. "
                "Pass adata.to_memory(), or the path of its file, which archzoo reads in blocks.",
                facts={name: type(table).__name__},
            )
        for axis, part in {"index": table.index, "columns": table.columns}.items():
            if isinstance(part, pd.MultiIndex):
                raise errors.InvalidInput(
                    f"adata.{name}.{axis} has {part.nlevels} levels (a pandas MultiIndex), where one name each is "
                    f"expected: join them, as in adata.{name}.{axis} = ['_'.join(map(str, names)) for names in "
                    f"adata.{name}.{axis}].",
                    facts={f"{name}.{axis}": f"{part.nlevels} levels"},
                )
    return query


def in_memory(query: AnnData) -> AnnData:
    """Return a copy of a query with everything in memory; what cannot be read or copied is left out, with a warning."""
    try:
        return query.to_memory(copy=True)
    except elements.FOREIGN:
        return _copied_in_parts(query)


def _copied_in_parts(query: AnnData) -> AnnData:
    copy, raw = AnnData(obs=query.obs.copy(), var=query.var.copy()), query.raw
    axes = {"obsm": copy.obs_names, "varm": copy.var_names}
    _take("X", lambda: setattr(copy, "X", matrices.in_memory(query.X)))
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        for key in getattr(query, name):
            _take(f"{name}[{key!r}]", partial(_copy_entry, query, copy, name, key, names=axes.get(name)))
    if raw is not None:
        empty = copy.obs[[]]
        _take("raw", lambda: setattr(copy, "raw", AnnData(matrices.in_memory(raw.X), obs=empty, var=raw.var.copy())))
    return copy


def _copy_entry(query: AnnData, copy: AnnData, name: str, key: str, *, names: pd.Index | None) -> None:
    value = matrices.in_memory(getattr(query, name)[key])
    if isinstance(value, pd.DataFrame) and names is not None:
        value = value.set_axis(names)  # those of the query may be dates, and the copy's are text
    getattr(copy, name)[key] = value


def _take(part: str, copy: Callable[[], None]) -> None:
    """Copy one part into memory, or report that it is left out."""
    try:
        copy()
    except elements.FOREIGN as error:
        _log.warning("%s cannot be read or copied, and is left out of the result: %s.", part, elements.reason(error))


def read_cells(path: str | Path, *, needed: Needed | None = None, whole: bool = True) -> AnnData:
    """Return the cells of a file; X, layers and raw stay on disk until they are used.

    The file stays open as long as the result lives. ``.to_memory()`` returns a copy with everything read.

    Parameters
    ----------
    path
        A ``.h5ad`` or ``.h5mu`` file, or a zarr folder or ``.zarr.zip`` of either; of a MuData the modality ``rna``. Or
        what 10x's Cell Ranger writes, a ``.h5`` file or a folder with ``matrix.mtx``, which is read whole.
    needed
        What has to be readable; by default X. Parts that cannot be read and are not needed are left out, each with a
        warning.
    whole
        Whether to read more than alignment does: it needs no other columns of obs, no ``uns``, ``varm``, ``obsp`` or
        ``varp``, and ``obsm`` for proteins only.

    Raises
    ------
    NotFound
        If there is nothing at the path.
    InvalidInput
        If it is none of these, in use by another program, or damaged in a part that is needed.
    AlignmentError
        If a MuData has no modality ``rna``.
    """
    if _ADDRESS.match(str(path)):
        raise errors.InvalidInput(
            f"{path} is an address, and a query is a file on this machine: download it first, then pass its path.",
            facts={"path": str(path)},
        )
    path = Path(path)
    if not _exists(path):
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = [str(path.parent / name) for name in get_close_matches(path.name, near, n=3, cutoff=0.8)]
        raise errors.NotFound(f"there is no file or folder {path}.", name=str(path), suggestions=close)
    try:
        if tenx.is_tenx(path):
            return tenx.read(path)
        return _cells(_group(path), path, _Parts(needed or Needed(), whole=whole))
    except errors.HubClientError:
        raise
    except elements.FOREIGN as error:
        raise _refused(path, error) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a zero
        return False


def _refused(path: Path, error: BaseException) -> errors.InvalidInput:
    """Return the error of a file that cannot be opened, with what to do about it."""
    text = str(error)
    advice = next((what for pattern, what in _FAULTS if re.search(pattern, text, re.IGNORECASE)), _DAMAGED)
    kind = path.suffix or "a zarr folder"
    return errors.InvalidInput(
        f"{path} cannot be read as {kind}: {elements.reason(error)}. {advice}", facts={"path": str(path)}
    )


_DAMAGED = "It may be damaged or only partly copied: fetch or write it again."
_FAULTS = (
    (
        r"unable to lock file|already open|h5clear|no locks available",
        "Another program has it open for writing, such as a notebook with backed='r+': close it there. If none has, "
        "this disk does not lock files: set the environment variable HDF5_USE_FILE_LOCKING=FALSE.",
    ),
    (r"permission denied|errno = 13|errno 13", "You may not read it: change its permissions, or ask its owner to."),
)
"""What the system states of files that are whole, and what to do."""


def _group(path: Path) -> Group:
    if path.is_dir():
        return _zarr(path)
    suffix = path.suffix.lower()
    if suffix not in _OPENERS:
        raise errors.InvalidInput(
            f"{path.name} is not a file archzoo reads: it takes .h5ad, .h5mu, .zarr and .zarr.zip, and 10x's .h5 and "
            f"folders with matrix.mtx. {_ADVICE.get(suffix, _OTHERWISE)}",
            facts={"path": str(path)},
        )
    return _OPENERS[suffix](path)


_PICKLE = "Pickles can run any code when they are opened, so archzoo never does: save the AnnData with write_h5ad()."


def _hdf5(path: Path) -> Group:
    return h5py.File(path, "r")


def _zarr(path: Path) -> Group:
    if found := zarr_pickles.find(path):
        raise errors.InvalidInput(
            f"{path} cannot be read: {found} states that an array is pickled. {_PICKLE}", facts={"path": str(path)}
        )
    return zarr.open_group(path if path.is_dir() else ZipStore(path, mode="r"), mode="r")


_OPENERS: dict[str, Callable[[Path], Group]] = {
    ".h5ad": _hdf5,
    ".h5mu": _hdf5,
    ".h5": _hdf5,
    ".zip": _zarr,
}
_OTHERWISE = "Read it with scanpy, and pass the AnnData or save it with write_h5ad()."
_ADVICE = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".rds": "Save it from R as .h5ad, with the packages anndataR or zellkonverter.",
    ".gz": "Unpack it first, with gunzip.",
}


def _cells(group: Group, path: Path, parts: _Parts) -> AnnData:
    kind = group.attrs.get("encoding-type")
    if kind == "MuData":
        return _modality_on_disk(group, parts)
    if isinstance(group, h5py.File) and kind != "anndata":
        return anndata.read_h5ad(path, backed="r")  # written before anndata 0.8, which marked no file
    obs, var = parts.frame(group, "obs"), parts.frame(group, "var")
    cells, genes = shape = (len(obs), len(var))
    sides = {"obsm": cells, "varm": genes, "uns": 0}
    squares = {"layers": shape, "obsp": (cells, cells), "varp": (genes, genes)}
    return AnnData(
        X=parts.x(group, shape=shape),
        raw=parts.raw(group, cells=cells),
        obs=obs,
        var=var,
        **{name: parts.values(group, name, rows=rows) for name, rows in sides.items()},
        **{name: parts.matrices(group, name, shape=shape) for name, shape in squares.items()},
    )


@dataclass(frozen=True)
class _Parts:
    """Reads the parts of a file: those that are needed must be readable, the others are left out where they are not."""

    needed: Needed
    whole: bool

    @property
    def with_proteins(self) -> bool:
        """Whether obsm is read, in which proteins are, and uns, which may name them."""
        return self.whole or self.needed.proteins is not None

    def frame(self, group: Group, key: str) -> pd.DataFrame:
        """Return obs or var."""
        needed = self.needed.columns if key == "obs" else ()
        only = self.needed.columns if key == "obs" and not self.whole else None
        return elements.read_frame(group, key, needed=needed, report=_leave_out, only=only)

    def x(self, group: Group, *, shape: tuple[int, int]) -> Any:
        """Return X, on disk; None where there is none."""
        return self._of(group, ["X"], partial(_matrix, shape=shape), needed=self.needed.matrix).get("X")

    def raw(self, group: Group, *, cells: int) -> dict[str, Any] | None:
        """Return raw, its matrix on disk; None where there is none."""

        def one(group: Group, key: str) -> dict[str, Any]:
            var = self.frame(group[key], "var")
            return {"X": _matrix(group[key], "X", shape=(cells, len(var))), "var": var}

        keys = ["raw"] if "raw/X" in group else []
        found: dict[str, Any] | None = self._of(group, keys, one, needed=self.needed.matrix).get("raw")
        return found

    def matrices(self, group: Group, name: str, *, shape: tuple[int, int]) -> dict[str, Any]:
        """Return the entries of layers, obsp or varp, on disk."""
        keys = self._keys(group, name) if self.whole or name == "layers" else []
        needed = self.needed.matrix if name == "layers" else ""
        return self._of(group, keys, partial(_matrix, shape=shape), within=name, needed=needed)

    def values(self, group: Group, name: str, *, rows: int) -> dict[str, Any]:
        """Return the entries of obsm, varm or uns, in memory."""
        if not (self.whole or (self.with_proteins and name in ("obsm", "uns"))):
            return {}
        one = elements.read if name == "uns" else partial(_table, rows=rows)
        return self._of(group, self._keys(group, name), one, within=name)

    @staticmethod
    def _keys(group: Group, name: str) -> list[str]:
        def keys(name: str) -> list[str]:
            with elements.guarded(name, place=elements.place_of(group)):
                return list(group[name]) if name in group else []

        found: list[str] = elements.readable([name], keys, report=_leave_out).get(name, [])
        return found

    @staticmethod
    def _of(
        group: Group, keys: list[str], one: Callable[[Group, str], Any], *, within: str = "", needed: str = ""
    ) -> dict[str, Any]:
        if not keys:
            return {}
        parent = group[within] if within else group
        there = [key for key in keys if key in parent]
        found: dict[str, Any] = elements.readable(there, partial(one, parent), needed=[needed], report=_leave_out)
        return found


def _leave_out(error: errors.InvalidInput) -> None:
    _log.warning("%s was left out. %s", error.facts["part"], error)


def _matrix(group: Group, key: str, *, shape: tuple[int, int]) -> Any:
    """Return a matrix, on disk."""
    part, place = elements.part_name(f"{group.name}/{key}"), elements.place_of(group)
    with elements.guarded(part, place=place):
        element = group[key]
        if element.attrs.get("encoding-type") == "dataframe":
            found = elements.read(group, key).to_numpy()
        else:
            found = sparse_dataset(element) if isinstance(element, h5py.Group | zarr.Group) else element
        if tuple(found.shape) != shape:
            raise elements.unreadable(part, place=place, why=f"its shape is {tuple(found.shape)}, not {shape}")
        return found


def _table(group: Group, key: str, *, rows: int) -> Any:
    """Return an entry of obsm or varm, in memory."""
    value = elements.read(group, key)
    part, place = elements.part_name(f"{group.name}/{key}"), elements.place_of(group)
    with elements.guarded(part, place=place):
        found = value.shape[0] if sparse.issparse(value) else len(value)
        if found != rows:
            raise elements.unreadable(part, place=place, why=f"it has {found:,} rows, not {rows:,}")
    return value


def _modality_on_disk(group: Group, parts: _Parts) -> AnnData:
    genes, others = _roles(list(group["mod"]), parts.needed.proteins or ())
    rna = _cells(group[f"mod/{genes}"], Path(), parts)
    shared = parts.frame(group, "obs")
    rna.obs = _with_shared(rna.obs, shared)
    if parts.with_proteins:
        for name, values in parts.values(group, "obsm", rows=len(shared)).items():
            if name not in group["mod"] and name not in rna.obsm:
                rna.obsm[name] = _rows(values, shared.index, rna.obs_names)
        for name in others:
            rna.obsm[name] = _frame(elements.read(group["mod"], name), rna.obs_names)
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

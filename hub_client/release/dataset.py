"""Released data sets: an AnnData as zipped zarr, and a record of what it is.

::

    dataset.json     the record below, canonical JSON; its sha256 is the release digest
    data.zarr.zip    AnnData in zarr format 3; entries in order and undated, so the same cells give the same bytes
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, PositiveInt, ValidationError

from hub_client import errors
from hub_client.files import atomic, zarr_zip
from hub_client.manifest import _json
from hub_client.manifest._frozen import Frozen, problems
from hub_client.manifest.scalars import Doi, SemVer, Sha256, Slug, Spdx, Text
from hub_client.release.files import ListedFile
from hub_client.release.store import DOCUMENT

if TYPE_CHECKING:
    from anndata import AnnData

RECORD = DOCUMENT["datasets"]
DATA = "data.zarr.zip"
_MAX_RECORD = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MALFORMED = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)
"""What zarr and anndata raise on metadata that contradict the data or each other."""


class Dataset(Frozen):
    """What a released data set is (format 1)."""

    schema_version: Literal["1.0"] = "1.0"
    name: Slug
    version: SemVer
    title: str = ""
    license: Spdx
    source: Text
    """Where the cells come from: an accession, a URL, a sentence."""
    doi: Doi | None = None
    cells: PositiveInt
    genes: PositiveInt
    fingerprint: Sha256
    """Of gene names and counts: :func:`hub_client.data.fingerprint.fingerprint`."""
    files: Annotated[tuple[ListedFile, ...], Field(max_length=1)] = ()


def describe(**fields: Any) -> Dataset:
    """Return the record with these fields.

    Raises
    ------
    ManifestError
        If one is missing or not as it should be, such as a licence that is not an SPDX id.
    """
    return _validated(fields, source=f"the data set {fields.get('name')!r}")


def parse(data: bytes, *, source: str) -> Dataset:
    """Return the record in ``data``; ManifestError if it is none."""
    try:
        raw = _json.strict(data, limit=_MAX_RECORD)
    except ValueError as error:
        raise errors.ManifestError(f"{source} {error}.", path=source) from None
    return _validated(raw, source=source)


def _validated(raw: Any, *, source: str) -> Dataset:
    try:
        return Dataset.model_validate(raw)
    except ValidationError as error:
        raise errors.ManifestError(f"{source} is not described as it should be:", problems=problems(error)) from None


def write(folder: Path, adata: AnnData, record: Dataset) -> Path:
    """Write a data set's release folder and return it; ``adata`` is not written to.

    Raises
    ------
    InvalidInput
        If ``adata`` holds something that cannot be stored as plain arrays.
    TransportError
        If the folder cannot be written.
    """
    with atomic.writing(f"the temporary folder {folder.parent}", otherwise="name another one in TMPDIR"):
        folder.mkdir(parents=True)
        tree, data = folder.parent / "zarr", folder / DATA
        _write_zarr(tree, adata)
        with zipfile.ZipFile(data, "x", zipfile.ZIP_STORED) as archive:  # chunks are compressed already
            for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), _EPOCH)
                with archive.open(entry, "w", force_zip64=True) as packed:
                    packed.writelines(atomic.chunks(path))
        with data.open("rb") as file:
            zarr_zip.check(file, name=DATA, counts=True)
        described = ListedFile(path=DATA, size=data.stat().st_size, sha256=atomic.sha256(data))
        (folder / RECORD).write_bytes(record.model_copy(update={"files": (described,)}).canonical())
    return folder


def _write_zarr(tree: Path, adata: AnnData) -> None:
    import zarr
    from anndata._io.specs.registry import IORegistryError  # anndata gives it no public name
    from anndata.io import write_elem

    root = zarr.open_group(str(tree), mode="w", zarr_format=3)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            write_elem(root, "/", adata)
    except (IORegistryError, TypeError, ValueError, NotImplementedError) as error:
        raise errors.InvalidInput(
            f"the AnnData cannot be stored as plain arrays: {' '.join(str(error).split())[:300]}. Remove or convert "
            "that part first.",
            facts={"adata": type(adata).__name__},
        ) from error


def read(folder: Path, *, digest: str) -> tuple[Dataset, AnnData]:
    """Return a data set and its record from a release folder, every hash checked.

    Parameters
    ----------
    folder
        A release folder.
    digest
        The sha256 that the record must have.

    Raises
    ------
    IntegrityError
        If a file is missing, uninvited or not the one that was released, or holds anything but plain arrays.
    ManifestError
        If the record cannot be read.
    """
    _check_file(folder / RECORD, digest)
    record = parse((folder / RECORD).read_bytes(), source=str(folder / RECORD))
    names = {path.name for path in folder.iterdir()}
    if names != {RECORD, DATA} or [file.path for file in record.files] != [DATA]:
        raise errors.IntegrityError(
            f"a data set is {RECORD} and {DATA}; this one holds {errors.names(sorted(names))}. Fetch it again.",
            file=DATA,
            expected=(RECORD, DATA),
            actual=sorted(names),
        )
    _check_file(folder / DATA, record.files[0].sha256)
    return record, _read_zarr(folder / DATA, record)


def _check_file(path: Path, expected: str) -> None:
    actual = atomic.sha256(path)
    if actual != expected:
        raise errors.IntegrityError(
            f"{path.name} should have sha256 {expected} but has {actual}. Fetch the data set again.",
            file=path.name,
            expected=expected,
            actual=actual,
        )


def _read_zarr(path: Path, record: Dataset) -> AnnData:
    import zarr
    from anndata import AnnData
    from anndata.io import read_elem
    from zarr.errors import BaseZarrError
    from zarr.storage import ZipStore

    with path.open("rb") as file:
        zarr_zip.check(file, name=DATA, counts=True)
    store = ZipStore(path, mode="r")
    try:
        found = read_elem(zarr.open_group(store, mode="r", zarr_format=3))
    except (*_MALFORMED, BaseZarrError) as error:
        raise _damaged(f"cannot be read as an AnnData in zarr: {' '.join(str(error).split())[:200]}") from error
    finally:
        store.close()
    if not isinstance(found, AnnData) or found.shape != (record.cells, record.genes):
        shape = getattr(found, "shape", type(found).__name__)
        raise _damaged(f"holds {shape}, not an AnnData of {record.cells:,} cells and {record.genes:,} genes")
    return cast("AnnData", found)


def _damaged(fault: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{DATA} {fault}. Ask whoever released it for an intact one.", file=DATA)

"""The reference atlas of a release: where the reference's cells lie in the latent, and what they are.

``reference.zarr.zip`` is an AnnData in zarr format 3 with latent, labels and conditions: no counts, no barcodes, no
donors, and the cells in a random order. The arrays are not compressed, only the zip around them is: so
nothing of it unpacks to more than its listing announces. Nothing in it can run code.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hub_client import errors
from hub_client.files import zarr_zip

if TYPE_CHECKING:
    from anndata import AnnData

FILE = "reference.zarr.zip"
LATENT = "X_latent"
_MALFORMED = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)
"""What zarr and anndata raise on metadata that contradict the data or each other."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def atlas(
    latent: NDArray[np.float32],
    *,
    conditions: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    seed: int = 0,
) -> AnnData:
    """Return reference cells as an AnnData without counts and names, in random order.

    Parameters
    ----------
    latent
        Posterior mean of each cell, ``(cells, latent)``.
    conditions, labels
        Condition key or label level to the category of each cell, ``(cells,)``; ``""`` is no label.
    seed
        Of the order.
    """
    from anndata import AnnData

    order = np.random.default_rng(seed).permutation(len(latent))
    index = pd.RangeIndex(len(latent)).astype(str)
    given = {key: np.asarray(values, dtype=object)[order] for key, values in {**conditions, **labels}.items()}
    columns = {key: pd.Categorical(pd.Series(values).replace("", None)) for key, values in given.items()}
    return AnnData(obs=pd.DataFrame(columns, index=index), obsm={LATENT: np.asarray(latent, np.float32)[order]})


def dump(atlas: AnnData) -> bytes:
    """Return an atlas as the bytes of ``reference.zarr.zip``; the same atlas gives the same bytes."""
    import zarr
    from anndata.io import write_elem

    files: dict[str, Any] = {}
    root = zarr.open_group(zarr.storage.MemoryStore(files), mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        for key, part in {"obs": atlas.obs, "var": atlas.var, "obsm": dict(atlas.obsm)}.items():
            write_elem(root, key, part, dataset_kwargs={"compressors": None})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            archive.writestr(entry, files[name].to_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def load(content: bytes | bytearray) -> AnnData:
    """Return the atlas in the bytes of ``reference.zarr.zip``.

    Raises
    ------
    IntegrityError
        If it is not an intact zip of plain zarr arrays, or they are no atlas.
    """
    import zarr
    from anndata.io import read_elem
    from zarr.core.buffer import default_buffer_prototype

    zarr_zip.check(io.BytesIO(content), name=FILE)
    buffer = default_buffer_prototype().buffer
    store = zarr.storage.MemoryStore({name: buffer.from_bytes(data) for name, data in _unzipped(content).items()})
    try:
        with warnings.catch_warnings(action="error", category=zarr.errors.ZarrUserWarning):
            found = read_elem(zarr.open_group(store, mode="r", zarr_format=3))
    except (*_MALFORMED, zarr.errors.BaseZarrError, zarr.errors.ZarrUserWarning) as error:
        raise _bad(f"cannot be read as an AnnData in zarr: {str(error).splitlines()[0][:200]}") from error
    return _checked(found)


def _unzipped(content: bytes | bytearray) -> dict[str, bytes]:
    """Return the files of a zip, each unpacked to no more than it announces."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in (entry for entry in archive.infolist() if not entry.is_dir()):
                with archive.open(entry) as file:
                    data = found[entry.filename] = file.read(entry.file_size + 1)
                if len(data) != (size := entry.file_size):
                    raise _bad(f"announces {entry.filename} with another size", expected=size, actual=len(data))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _bad(f"is not an intact zip: {error}") from error
    return found


def _checked(found: Any) -> AnnData:
    latent = np.asarray(getattr(found, "obsm", {}).get(LATENT))
    if latent.ndim != 2 or latent.dtype != np.float32 or not np.isfinite(latent).all():
        raise _bad(f"holds no {LATENT} that is a finite float32 matrix", actual=(latent.dtype, latent.shape))
    return cast("AnnData", found)


def _bad(message: str, *, expected: object = None, actual: object = None) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{FILE} {message}. Fetch the release again, or ask its authors for an intact one.",
        file=FILE,
        expected=expected,
        actual=actual,
    )

"""Whether an array of a zarr is pickled: its older format takes codecs by name, and one of them is pickle.

Metadata is looked through as text, before zarr opens anything: that of folders, zip files, and consolidated metadata.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hub_client.files import zarr_zip

_PICKLE = "pickle"


def find(path: Path) -> str | None:
    """Return the first metadata file of a zarr, a folder or a zip file, in which an array is pickled; None if none is.

    Metadata that is no JSON is passed over: zarr does not read it either.

    Raises
    ------
    OSError
        If it cannot be read.
    BadZipFile
        If it is a file, and no zip.
    """
    return next((name for name, content in _metadata(path) if _is_pickled(content)), None)


def _is_pickled(content: bytes) -> bool:
    try:
        node = json.loads(content)
    except ValueError:
        return False
    return any(_PICKLE in zarr_zip.codecs_of(array) for array in zarr_zip.arrays_of(node))


def _metadata(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give each metadata file's name and content."""
    if path.is_dir():
        yield from ((str(file.relative_to(path)), file.read_bytes()) for file in _files(path))
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.rpartition("/")[2].lower() in zarr_zip.METADATA:
                yield member.filename, archive.read(member)


def _files(folder: Path) -> Iterator[Path]:
    """Give the metadata files of a folder and of those that it links to, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names if name.lower() in zarr_zip.METADATA)

"""Elements of a file, read one by one: one that cannot be read is named, and the others are not lost with it."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from zipfile import BadZipFile

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata._io.specs.registry import IORegistryError  # anndata raises it and has no public name for it
from anndata.io import read_elem
from zarr.storage import LocalStore, ZipStore

from hub_client import errors

Group: TypeAlias = h5py.Group | zarr.Group
Report = Callable[[errors.InvalidInput], None]

FOREIGN = (
    *(OSError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, RuntimeError, AssertionError),
    *(EOFError, MemoryError, ImportError, BufferError, SystemError, BadZipFile, zlib.error, struct.error),
    IORegistryError,
)
"""What h5py, zarr, anndata, pandas and scipy raise on files that are damaged, or of a kind that they do not know."""
_KEYED = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")
_KEY = re.compile(r"key '(.+)' of <.*> (?:to|from) /(.*)")
_SHOWN = 300


@contextmanager
def guarded(part: str, *, place: str) -> Iterator[None]:
    """Turn what other libraries raise into an InvalidInput that names the part of the file.

    Raises
    ------
    InvalidInput
        In place of any error of ``FOREIGN`` that is not one of ours.
    """
    try:
        yield
    except errors.HubClientError:
        raise
    except FOREIGN as error:
        raise unreadable(part, place=place, why=reason(error)) from error


def unreadable(part: str, *, place: str, why: str) -> errors.InvalidInput:
    """Return the error of a part that cannot be read."""
    return errors.InvalidInput(
        f"{part} of {place} cannot be read: {why}. The file may be damaged, or written by a newer version of the "
        "program that made it: fetch or write it again, or write it without this part.",
        facts={"part": part, "path": place},
    )


def reason(error: BaseException) -> str:
    """Return the first line of what another library raised, or the kind of error where it has no message."""
    lines = str(error).strip().splitlines()
    return (lines[0][:_SHOWN].rstrip(". ") if lines else "") or type(error).__name__


def culprit(error: BaseException) -> str:
    """Return the part that anndata was reading or writing when it failed, as in ``uns['other']``; ``""`` if unknown."""
    found = next(filter(None, map(_KEY.search, getattr(error, "__notes__", ()))), None)
    return part_name(f"{found[2]}/{found[1]}") if found else ""


def part_name(path: str) -> str:
    """Return a part of a file as a user of anndata calls it: ``/uns/other`` is ``uns['other']``."""
    head, *rest = path.strip("/").split("/")
    return f"{head}['{'/'.join(rest)}']" if head in _KEYED and rest else "/".join([head, *rest])


def place_of(element: Any) -> str:
    """Return the file or folder that an element of HDF5 or zarr is in."""
    if isinstance(element, h5py.Group | h5py.Dataset):
        return str(element.file.filename)
    store = element.store
    return str(store.root if isinstance(store, LocalStore) else store.path if isinstance(store, ZipStore) else store)


def read(group: Group, key: str) -> Any:
    """Return an element of a group, in memory.

    Raises
    ------
    InvalidInput
        If it cannot be read; the message names it.
    """
    with guarded(part_name(f"{group.name}/{key}"), place=place_of(group)):
        return read_elem(group[key])


def readable(
    keys: Collection[str], open_one: Callable[[str], Any], *, report: Report, needed: Collection[str] = ()
) -> Any:
    """Return the elements under these keys; those that cannot be read and are not needed are reported and left out.

    Raises
    ------
    InvalidInput
        If one that is needed cannot be read.
    """
    found = {}
    for key in keys:
        try:
            found[key] = open_one(key)
        except errors.InvalidInput as error:
            if key in needed:
                raise
            report(error)
    return found


def read_frame(
    group: Group, key: str, *, needed: Collection[str], report: Report, only: Collection[str] | None = None
) -> pd.DataFrame:
    """Return a data frame of a file, its columns read one by one.

    Parameters
    ----------
    needed
        Columns without which nothing can be done.
    report
        Is given the error of each other column that cannot be read; it is left out.
    only
        The columns to read; None for all.

    Raises
    ------
    InvalidInput
        If the index or a needed column cannot be read.
    """
    place, part = place_of(group), part_name(f"{group.name}/{key}")
    with guarded(part, place=place):
        element = group[key]
        if element.attrs.get("encoding-version") != "0.2.0":
            frame: pd.DataFrame = read_elem(element)  # of anndata before 0.7.2, which kept categories elsewhere
            return frame if only is None else frame[[name for name in frame.columns if name in only]]
        index_key = str(element.attrs["_index"])
        index = pd.Index(read_elem(element[index_key]), name=None if index_key == "_index" else index_key)
        every = list(dict.fromkeys(map(str, element.attrs["column-order"])))

    def column(name: str) -> Any:
        values = read(element, name)
        if np.shape(values) != index.shape:
            why = f"its shape is {np.shape(values)}, and {part} has {len(index):,} rows"
            raise unreadable(part_name(f"{element.name}/{name}"), place=place, why=why)
        return values

    wanted = [name for name in every if only is None or name in only]
    columns = readable(wanted, column, needed=needed, report=report)
    return pd.DataFrame(columns, index=index, columns=list(columns))

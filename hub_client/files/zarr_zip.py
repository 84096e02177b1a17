"""Zipped zarr from outside, looked through before any library opens it: plain arrays, no pickles, no bombs.

Zarr's older formats name their codecs in JSON, and one of the registered codecs is pickle. So codecs and dtypes are
taken from lists of known good ones; everything else is refused.
"""

from __future__ import annotations

import math
import stat
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from hub_client import errors
from hub_client.manifest import _json

MAX_MEMBERS = 200_000
MAX_BYTES = 4 * 2**30
"""The most bytes all members unpack to."""
MAX_METADATA = 16 * 2**20
MAX_ITEMS = 2**31
"""The most entries an array may claim to have: one that is not in the file at all is made of its fill value."""
COUNTS = frozenset({"X", "layers", "raw"})
"""Where an AnnData keeps what a reference must not give away."""
CODECS = frozenset(
    {"blosc", "bytes", "crc32c", "delta", "gzip", "lz4", "sharding_indexed", "shuffle", "transpose"}
    | {"vlen-bytes", "vlen-utf8", "zlib", "zstd"}
)
DTYPES = frozenset(
    {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"string", "variable_length_bytes", "fixed_length_utf32", "null_terminated_bytes"}
)
METADATA = frozenset({".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"})
_KINDS_2 = frozenset("biufSU")


def check(file: IO[bytes], *, name: str, counts: bool = False) -> None:
    """Refuse a zipped zarr that is more than arrays of numbers and text.

    Parameters
    ----------
    file
        The whole zip file, open for reading.
    name
        What to call it in errors.
    counts
        Whether the expression matrix of an AnnData (``X``, ``layers``, ``raw``) may be in it.

    Raises
    ------
    IntegrityError
        If it is no zip file of zarr, a member's path is unsafe, repeated or a link, it unpacks to too much, its
        metadata is not zarr's, or an array is of Python objects or behind a codec that is not on the list.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), name=name)
            if not counts:
                _check_no_counts(archive.namelist(), name=name)
            for member in archive.infolist():
                if member.filename.rpartition("/")[2] in METADATA:
                    _check_metadata(_metadata(archive, member, name=name), name=f"{name}/{member.filename}")
            if METADATA.isdisjoint(archive.namelist()):
                raise _bad(name, "is a zip file, but not of zarr")
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad(name, f"is not a readable zip file ({error})") from error


def _bad(name: str, fault: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{name} {fault}. It was not opened.", file=name)


def _check_members(members: list[zipfile.ZipInfo], *, name: str) -> None:
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
        raise _bad(name, f"unpacks to more than {MAX_MEMBERS:,} files or {MAX_BYTES:,} bytes")
    if len({member.filename.casefold() for member in members}) < len(members):
        raise _bad(name, "names a member twice")
    for member in members:
        if not _safe(member.filename) or stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & 1:
            raise _bad(name, f"holds {member.filename!r}: an unsafe path, a link or encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(name, f"holds {member.filename!r}, packed in a way other than stored or deflated")


def _safe(path: str) -> bool:
    parts = path.removesuffix("/").split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts)


def _check_no_counts(paths: list[str], *, name: str) -> None:
    for path in paths:
        parts = path.split("/")
        if parts[0] in COUNTS and parts[-1] not in METADATA and not path.endswith("/"):
            raise _bad(name, f"holds {path!r}: a reference gives latent and labels, no counts")


def _metadata(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, name: str) -> Any:
    with archive.open(member) as file:
        text = file.read(MAX_METADATA + 1)
    try:
        return _json.strict(text, limit=MAX_METADATA)
    except ValueError as error:
        raise _bad(f"{name}/{member.filename}", str(error)) from None


def _check_metadata(metadata: Any, *, name: str) -> None:
    for array in arrays_of(metadata):
        shape = array.get("shape")
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= MAX_ITEMS for size in shape):
            raise _bad(name, "describes an array whose shape is not whole numbers")
        if math.prod(shape) > MAX_ITEMS:
            raise _bad(name, f"describes an array of {math.prod(shape):,} entries, more than {MAX_ITEMS:,}")
        codecs = list(codecs_of(array))
        if strangers := sorted({str(codec) for codec in codecs if codec not in CODECS}):
            raise _bad(name, f"describes an array behind the codecs {errors.names(strangers)}, which are not trusted")
        if not _trusted_dtype(array, codecs):
            raise _bad(
                name, f"describes an array of {array.get('dtype', array.get('data_type'))!r}, which is not trusted"
            )


def arrays_of(node: Any) -> Iterator[dict[str, Any]]:
    """Give every array's metadata in a metadata file, consolidated ones too."""
    if not isinstance(node, dict):
        return
    if node.get("node_type") == "array" or "dtype" in node or "data_type" in node:
        yield node
    consolidated = node.get("consolidated_metadata")
    listed = consolidated.get("metadata") if isinstance(consolidated, dict) else node.get("metadata")
    for child in listed.values() if isinstance(listed, dict) else ():
        yield from arrays_of(child)


def codecs_of(array: dict[str, Any]) -> Iterator[Any]:
    """Give the name of every codec of an array: formats 2 and 3, and those inside shards."""
    for codec in [*_listed(array.get("codecs")), *_listed(array.get("filters")), array.get("compressor")]:
        if codec is None:
            continue
        yield codec.get("name", codec.get("id")) if isinstance(codec, dict) else codec
        inner = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(inner, dict):
            yield from codecs_of({"codecs": [*_listed(inner.get("codecs")), *_listed(inner.get("index_codecs"))]})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _trusted_dtype(array: dict[str, Any], codecs: list[Any]) -> bool:
    """Return whether an array is of plain values, in whichever of the two formats it is described."""
    described = [_plain_3(array["data_type"])] if "data_type" in array else []
    described += [_plain_2(array["dtype"], codecs)] if "dtype" in array else []
    return bool(described) and all(described)


def _plain_3(kind: Any) -> bool:
    return (kind.get("name") if isinstance(kind, dict) else kind) in DTYPES


def _plain_2(kind: Any, codecs: list[Any]) -> bool:
    """Return whether a format 2 dtype is plain; it writes text as objects behind a text codec."""
    if not isinstance(kind, str) or len(kind) < 2:
        return False
    return kind[1] in _KINDS_2 or (kind[1] == "O" and "vlen-utf8" in codecs)

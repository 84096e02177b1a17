"""safetensors files, distrusted: the header is checked against the manifest before any tensor is made.

The library refuses most malformed headers, but accepts one of 79 MB with a million empty tensors, and repeated keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hub_client import errors
from hub_client.manifest import _json
from hub_client.manifest.v1 import Manifest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FILE = "model.safetensors"
MAX_HEADER = 4 * 2**20
MAX_TENSORS = 10_000
ITEM_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
ORDER = ("I64", "F64", "F32", "I32", "U8", "BOOL")
"""The order of tensors in the file, by their type."""
Described = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the file, in bytes from its start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def described(manifest: Manifest) -> Described:
    """Return dtype and shape of every tensor the manifest names."""
    shapes = manifest.shapes()
    return {spec.name: (spec.dtype, shapes[spec.name]) for spec in manifest.tensors}


def check(content: bytes | bytearray, manifest: Manifest) -> list[Entry]:
    """Return where each tensor lies, once the whole header is what the manifest states.

    Raises
    ------
    IntegrityError
        If the header is malformed, or names other tensors, dtypes or shapes than the manifest.
    """
    entries = _entries(content)
    _compare({entry.name: (entry.dtype, entry.shape) for entry in entries}, described(manifest))
    return entries


def load(content: bytearray, manifest: Manifest) -> dict[str, Tensor]:
    """Return the file's tensors, on the CPU; those whose bytes are aligned share ``content``'s memory.

    Raises
    ------
    IntegrityError
        If the header is not what the manifest states, or a tensor holds NaN, an infinity or an impossible boolean.
    """
    tensors = {entry.name: _tensor(content, entry) for entry in check(content, manifest)}
    for name, tensor in tensors.items():
        _check_values(name, tensor)
    return tensors


def dump(tensors: Mapping[str, Tensor], manifest: Manifest) -> list[memoryview]:
    """Return the tensors as the parts of a safetensors file, not copied; the same tensors give the same bytes.

    They are the bytes that the library's own ``save`` makes: the widest types first, then by name.

    Raises
    ------
    IntegrityError
        If names, dtypes or shapes are not the manifest's, or a tensor holds NaN or an infinity.
    """
    codes = {dtype: code for code, dtype in _dtypes().items()}
    found = {name: (codes.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}
    _compare(found, described(manifest))
    ordered = sorted(tensors, key=lambda name: (ORDER.index(found[name][0]), name))
    plain = {name: tensors[name].detach().cpu().contiguous() for name in ordered}
    for name, tensor in plain.items():
        _check_values(name, tensor)
    header, end = {}, 0
    for name in ordered:
        code, shape = found[name]
        start, end = end, end + math.prod(shape) * ITEM_BYTES[code]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = [tensor.reshape(-1).view(_dtypes()["U8"]).numpy().data for tensor in plain.values() if tensor.numel()]
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts]


def _bad(message: str, *, expected: object = None, actual: object = None) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{FILE} {message}. It was not loaded or written: get an intact release, or train the model again.",
        file=FILE,
        expected=expected,
        actual=actual,
    )


def _entries(content: bytes | bytearray) -> list[Entry]:
    header, start = _header(content)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise _bad(f"names {len(header):,} tensors, more than the {MAX_TENSORS:,} that are read")
    entries = sorted((_entry(name, value, start) for name, value in header.items()), key=lambda e: (e.start, e.end))
    bounds = [(start, start), *((entry.start, entry.end) for entry in entries), (len(content), len(content))]
    if any(left[1] != right[0] for left, right in pairwise(bounds)):
        raise _bad("has gaps or overlaps between its tensors, or ends before or after them")
    return entries


def _header(content: bytes | bytearray) -> tuple[dict[str, Any], int]:
    """Return the header and where the data after it starts."""
    if len(content) < 8:
        raise _bad(f"has {len(content)} bytes, too few for a header", expected=8, actual=len(content))
    size = int.from_bytes(content[:8], "little")
    if size > min(MAX_HEADER, len(content) - 8):
        raise _bad(f"announces a header of {size:,} bytes, beyond the file's end or {MAX_HEADER:,}", actual=size)
    try:
        header = _json.strict(bytes(content[8 : 8 + size]), limit=MAX_HEADER)
    except ValueError as error:
        raise _bad(f"has a header that {error}") from None
    if not isinstance(header, dict):
        raise _bad("has a header that is not a JSON object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad("has __metadata__ that is not text under names")
    return header, 8 + size


def _entry(name: str, value: Any, start: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"describes tensor {name!r} otherwise than by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _bad(f"holds tensor {name!r} of unknown dtype {dtype!r}", expected=tuple(ITEM_BYTES), actual=dtype)
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _bad(f"gives tensor {name!r} a shape or offsets that are not whole numbers")
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise _bad(f"gives tensor {name!r} {offsets[1] - offsets[0]:,} bytes, but its shape needs {size:,}")
    return Entry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 8 and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _compare(found: Described, expected: Described) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise _bad(f"lacks tensors the manifest names: {errors.names(missing)}", expected=missing)
    if strangers := sorted(found.keys() - expected.keys()):
        raise _bad(f"holds tensors the manifest does not name: {errors.names(strangers)}", actual=strangers)
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, shape):
            raise _bad(
                f"holds tensor {name!r} as {found[name][0]} {found[name][1]}, but the manifest states {dtype} {shape}",
                expected=(dtype, shape),
                actual=found[name],
            )


def _dtypes() -> dict[str, torch.dtype]:
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "I64": torch.int64,
        "I32": torch.int32,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }


def _tensor(content: bytearray, entry: Entry) -> Tensor:
    import torch

    dtype, count = _dtypes()[entry.dtype], math.prod(entry.shape)
    if not count:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.dtype == "BOOL" and max(content[entry.start : entry.end]) > 1:
        raise _bad(f"holds a boolean tensor {entry.name!r} with bytes that are neither 0 nor 1")
    if entry.start % ITEM_BYTES[entry.dtype]:
        content, start = content[entry.start : entry.end], 0
    else:
        start = entry.start
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start).reshape(entry.shape)


def _check_values(name: str, tensor: Tensor) -> None:
    # the least and the largest are NaN where any is; unlike isfinite() they take no array as large as the tensor
    if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, map(float, tensor.aminmax()))):
        raise _bad(f"holds NaN or an infinity in tensor {name!r}")

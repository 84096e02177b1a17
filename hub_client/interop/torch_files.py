"""Read PyTorch's files, zipped or old, as tensors on the CPU: with ``weights_only``, after a look at what they name."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hub_client import errors
from hub_client.interop import pickles
from hub_client.interop.pickles import Call, Pickled

_KINDS = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
DTYPES = {f"{module}:{kind}Storage": dtype for kind, dtype in _KINDS.items() for module in ("torch", "torch.cuda")}
"""Kinds of storages, and the type of the numbers in them."""
ALLOWED = frozenset(
    [
        pickles.PERSISTENT,
        "collections:OrderedDict",
        "torch:Size",
        "torch._utils:_rebuild_parameter",
        "torch._utils:_rebuild_tensor",
        "torch._utils:_rebuild_tensor_v2",
        *DTYPES,
    ]
)
"""All that a file of tensors names."""
LOCAL_HEADER = 30
"""Bytes before a part of a zip archive, its name aside."""
OLD_PICKLES = 5
"""Before it zipped, PyTorch wrote these one after the other: a magic number, the protocol, the system, the object and
the keys of its storages; then the numbers."""
UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    RuntimeError,
    AssertionError,
    ImportError,
    *pickles.UNREADABLE,
)
"""What reading a damaged file of tensors raises."""


def names(content: bytes, *, file: str) -> tuple[str, ...]:
    """Return all that a file of tensors names, as ``module:name``, without loading it.

    Raises
    ------
    IntegrityError
        If it is no file of tensors.
    """
    with _readable(file):
        found = archive(content, file=file).pickled.names if _zipped(content) else _old_names(content, file)
    return tuple(dict.fromkeys(found))


def load(content: bytes, *, file: str) -> Any:
    """Return what PyTorch saved, on the CPU.

    Raises
    ------
    IntegrityError
        If it is no file of tensors, is damaged, or names anything that tensors do not need.
    """
    if strangers := [name for name in names(content, file=file) if name not in ALLOWED]:
        raise pickles.refused(strangers, file=file, allowed=ALLOWED)
    with _readable(file), warnings.catch_warnings(action="ignore"):  # of odd files that it reads nevertheless
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def state(content: bytes, *, file: str) -> dict[str, Tensor]:
    """Return the named tensors of a ``state_dict``, on the CPU.

    Raises
    ------
    IntegrityError
        As :func:`load`; or if it holds anything but tensors, or tensors larger than what is stored of them.
    """
    return named(load(content, file=file), file=file, size=len(content))


def named(state: Any, *, file: str, size: int) -> dict[str, Tensor]:
    """Return an object as named tensors, if that is what it is.

    Parameters
    ----------
    state
        The object.
    file, size
        The file it was read from, and its bytes.

    Raises
    ------
    IntegrityError
        If it holds anything but dense tensors by name, or more numbers than the file.
    """
    if not isinstance(state, dict) or not state or not all(_plain(name, value) for name, value in state.items()):
        raise errors.IntegrityError(
            f"{file} does not hold what a saved model has: a state_dict of names and dense tensors. "
            "Save model.state_dict() again with torch.save().",
            file=file,
            actual=type(state).__name__,
        )
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > size:
        raise _broken(file, ValueError("its tensors share their numbers, so that they are more than the file holds"))
    return dict(state)


def _plain(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and stored(value)


def stored(tensor: Tensor) -> bool:
    """Return whether every element is in memory: a tensor with strides of 0 claims more than it has."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return where tensors are not those of a network: other names, other sizes, NaN or an infinity."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"{name} is {found.get(name)}, not {size}" for name, size in expected.items() if found.get(name) != size]
    wrong += [f"{name} is no tensor of it" for name in found if name not in expected]
    return wrong + [
        f"{name} holds NaN or an infinity" for name, tensor in tensors.items() if not tensor.isfinite().all()
    ]


def _zipped(content: bytes) -> bool:
    return content.startswith(b"PK\x03\x04")


@dataclass(frozen=True)
class Archive:
    """A zipped file of PyTorch, of which nothing is loaded."""

    pickled: Pickled
    """Its pickle, as data. Numbers are outside of it."""
    _opened: zipfile.ZipFile
    _folder: str
    _read: dict[str, Tensor] = field(default_factory=dict)

    def storage(self, call: Call) -> Tensor:
        """Return the numbers that a persistent id stands for, ``(numbers,)``: read once, however often it is there."""
        _, kind, key, _, _ = call.arguments[0]
        dtype = DTYPES[kind.name]
        if key not in self._read:
            content = bytearray(self._opened.read(f"{self._folder}data/{key}"))
            self._read[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if self._read[key].dtype != dtype:
            raise ValueError(f"storage {key!r:.40} is of two types")
        return self._read[key]


def archive(content: bytes, *, file: str) -> Archive:
    """Return a zipped file of PyTorch, without loading it.

    Raises
    ------
    IntegrityError
        If it is none, or its parts are compressed, overlap, have the same or odd names, or other sizes than is claimed.
    """
    with _readable(file):
        if not _zipped(content):
            raise ValueError("it is no zip archive")
        opened = zipfile.ZipFile(io.BytesIO(content))
        entries = opened.infolist()
        _check_entries(entries, len(content))
        (data,) = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
        folder = data.removesuffix("data.pkl")
        sizes = {entry.filename.removeprefix(folder): entry.file_size for entry in entries}
        if "byteorder" in sizes and opened.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are of a big-endian machine")
        pickled = pickles.read(opened.read(data), file=file)
        _check_storages(pickled.persistent, sizes)
        return Archive(pickled, opened, folder)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive that PyTorch did not write: it stores parts one after the other, in one folder."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, which PyTorch does not do")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two of its parts have the same name")
    if len({name.partition("/")[0] for name in names}) > 1 or any(
        {"", ".", ".."} & {*name.split("/")} for name in names
    ):
        raise ValueError("its parts are not in one folder")
    starts = sorted((entry.header_offset, entry.file_size) for entry in entries)
    ends = [*(start for start, _ in starts[1:]), size]
    if any(start + length + LOCAL_HEADER > end for (start, length), end in zip(starts, ends, strict=True)):
        raise ValueError("its parts overlap")


def _check_storages(persistent: tuple[Any, ...], sizes: Mapping[str, int]) -> None:
    """Refuse storages that claim another size than their part of the archive has, which some PyTorchs read beyond."""
    for _, kind, key, _, numbers in persistent:
        known = isinstance(kind, pickles.Named) and kind.name in DTYPES
        if sizes[f"data/{key}"] != numbers * (DTYPES[kind.name].itemsize if known else 1):
            raise ValueError(f"storage {key!r:.40} does not have the size it claims")


def _old_names(content: bytes, file: str) -> list[str]:
    names: list[str] = []
    end = 0
    for _ in range(OLD_PICKLES):
        pickled = pickles.read(content, file=file, start=end)
        names, end = [*names, *pickled.names], pickled.end
    return names


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Raise IntegrityError for whatever reading a damaged file raises."""
    try:
        yield
    except errors.IntegrityError:
        raise
    except UNREADABLE as error:
        raise _broken(file, error) from None


def _broken(file: str, error: BaseException) -> errors.IntegrityError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return errors.IntegrityError(
        f"{file} is no file of tensors that can be read ({first}). Copy it again from where it was saved.", file=file
    )

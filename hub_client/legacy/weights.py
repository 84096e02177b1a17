"""PyTorch's files, zipped or old, as tensors on the CPU: read with ``weights_only`` after a look at what they name."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from typing import Any

import torch
from torch import Tensor

from hub_client import errors
from hub_client.legacy import pickles

_STORAGES = {
    "Float": 4,
    "Double": 8,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
"""Kinds of storages, and the bytes of a number in them."""
_BYTES = {f"{module}:{kind}Storage": size for kind, size in _STORAGES.items() for module in ("torch", "torch.cuda")}
ALLOWED = frozenset(
    [
        pickles.PERSISTENT,
        "collections:OrderedDict",
        "torch:Size",
        "torch._utils:_rebuild_parameter",
        "torch._utils:_rebuild_tensor",
        "torch._utils:_rebuild_tensor_v2",
        *_BYTES,
    ]
)
"""All that a file of tensors names."""
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
    try:
        found = _zipped_names(content, file) if _zipped(content) else _old_names(content, file)
    except errors.IntegrityError:
        raise
    except UNREADABLE as error:
        raise _broken(file, error) from None
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
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd files that it reads nevertheless, or refuses below
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _broken(file, error) from None


def state(content: bytes, *, file: str) -> dict[str, Tensor]:
    """Return the named tensors of a ``state_dict``, on the CPU.

    Raises
    ------
    IntegrityError
        As :func:`load`; or if it holds anything but tensors, or tensors larger than what is stored of them.
    """
    found = load(content, file=file)
    if not isinstance(found, dict) or not found or not all(_plain(name, value) for name, value in found.items()):
        raise errors.IntegrityError(
            f"{file} is not what scArches saves: a state_dict of names and dense tensors. "
            "Save model.state_dict() again with torch.save().",
            file=file,
            actual=type(found).__name__,
        )
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > len(content):
        raise _broken(file, ValueError("its tensors share their numbers, so that they are more than the file holds"))
    return dict(found)


def _plain(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and stored(value)


def stored(tensor: Tensor) -> bool:
    """Return whether every element is in memory: a tensor with strides of 0 claims more than it has."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _zipped(content: bytes) -> bool:
    return content.startswith(b"PK\x03\x04")


def _zipped_names(content: bytes, file: str) -> list[str]:
    """Return the names in the pickle of a zip archive that holds no more than its own size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which PyTorch does not do")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("its parts overlap")
        (data,) = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        pickled = pickles.read(archive.read(data), file=file)
    folder = data.filename.removesuffix("data.pkl")
    _check_storages(pickled.persistent, {entry.filename.removeprefix(folder): entry.file_size for entry in entries})
    return list(pickled.names)


def _check_storages(persistent: tuple[Any, ...], sizes: dict[str, int]) -> None:
    """Refuse storages that claim another size than their part of the archive has, which some PyTorchs read beyond."""
    for _, kind, key, _, numbers in persistent:
        if isinstance(kind, pickles.Named) and sizes[f"data/{key}"] != numbers * _BYTES.get(kind.name, 1):
            raise ValueError(f"storage {key!r:.40} does not have the size it claims")


def _old_names(content: bytes, file: str) -> list[str]:
    found: list[str] = []
    end = 0
    for _ in range(OLD_PICKLES):
        pickled = pickles.read(content, file=file, start=end)
        found, end = [*found, *pickled.names], pickled.end
    return found


def _broken(file: str, error: BaseException) -> errors.IntegrityError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return errors.IntegrityError(
        f"{file} is no file of tensors that can be read ({first}). Copy it again from where scArches saved it.",
        file=file,
    )

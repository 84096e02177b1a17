"""Rebuild the values of a pickle that was read as data: numbers, texts, arrays, tensors and frames.

Every call that is known has a function of ours here. Nothing is looked up by a name that a file gives.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hub_client import errors
from hub_client.interop import pickled_frames, pickles, torch_files
from hub_client.interop.pickles import Call, Named, Pickled

MAX_DEPTH = 60
"""How deep lists, frames and arrays may be nested in each other."""
TENSOR = "a tensor's own file"
"""The file within the file that a tensor's numbers are pickled in."""
UNFOLDED = 20
"""How many values a pickle may unfold to, as a multiple of its bytes; one that repeats itself could fill any memory."""


def rebuilt(pickled: Pickled, *, file: str, beside: Mapping[str, Reader] | None = None) -> Any:
    """Return the value a pickle stands for.

    Parameters
    ----------
    pickled
        The pickle, as data.
    file
        Its name, for messages.
    beside
        What else it may ask for, such as numbers that are in other parts of its file.

    Raises
    ------
    IntegrityError
        If it names anything that is neither there nor in :data:`READERS`, all of which are listed, or is damaged.
    """
    readers = {**READERS, **(beside or {})}
    if strangers := [name for name in pickled.names if name not in readers]:
        raise pickles.refused(strangers, file=file, allowed=readers)
    try:
        return _Builder(UNFOLDED * (pickled.end + 100), readers).value(pickled.value)
    except errors.IntegrityError:
        raise
    except torch_files.UNREADABLE as error:
        raise errors.IntegrityError(
            f"{file} holds an object that cannot be read ({error}). Copy the folder again from where it was saved.",
            file=file,
        ) from None


class _Builder:
    """Walks through a pickle's data and calls our functions."""

    def __init__(self, budget: int, readers: Mapping[str, Reader]) -> None:
        self.budget = budget
        self.readers = readers
        self.made: dict[int, tuple[Any, int]] = {}

    def value(self, raw: Any, depth: int = 0) -> Any:
        self._spend(1, depth)
        made = _BY_TYPE.get(type(raw))
        return made(self, raw, depth + 1) if made else raw

    def _spend(self, count: int, depth: int) -> None:
        self.budget -= count
        if self.budget < 0 or depth > MAX_DEPTH:
            raise ValueError("it repeats or nests itself without end")

    def list(self, raw: list[Any], depth: int) -> list[Any]:
        if _BY_TYPE.keys().isdisjoint(map(type, raw)):
            self._spend(len(raw), depth)
            return raw
        return [self.value(item, depth) for item in raw]

    def tuple(self, raw: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
        return tuple(self.list(list(raw), depth))

    def dict(self, raw: dict[Any, Any], depth: int) -> dict[Any, Any]:
        return {self.value(key, depth): self.value(item, depth) for key, item in raw.items()}

    def set(self, raw: set[Any] | frozenset[Any], depth: int) -> set[Any] | frozenset[Any]:
        return type(raw)(self.list(list(raw), depth))

    def call(self, raw: Call, depth: int) -> Any:
        """Return the object of a call: made once, counted as often as it is used."""
        if id(raw) in self.made:
            made, cost = self.made[id(raw)]
            self._spend(cost, depth)
            return made
        before = self.budget
        made = self._make(raw, depth)
        self.made[id(raw)] = made, before - self.budget
        return made

    def _make(self, raw: Call, depth: int) -> Any:
        if not isinstance(raw.callee, Named) or not isinstance(raw.arguments, tuple):
            raise ValueError("it calls something that is no function")
        items = [(self.value(key, depth), self.value(item, depth)) for key, item in raw.items]
        known = Call(raw.callee, self.value(raw.arguments, depth), self.value(raw.state, depth), items)
        return self.readers[raw.callee.name](known)


_BY_TYPE: Mapping[type, Callable[[_Builder, Any, int], Any]] = {
    list: _Builder.list,
    tuple: _Builder.tuple,
    dict: _Builder.dict,
    set: _Builder.set,
    frozenset: _Builder.set,
    Call: _Builder.call,
}


# --- Python ----------------------------------------------------------------------------------------------------------


def _dict(call: Call) -> dict[Any, Any]:
    pairs = call.arguments[0] if call.arguments else []
    return dict(pairs) | dict(call.items)


def _range(call: Call) -> range:
    numbers = range(*map(_whole, call.arguments))
    if numbers and max(abs(numbers[0]), abs(numbers[-1])) >= 1 << 63:
        raise ValueError("a range of numbers that are no positions")
    return numbers


def _collection(make: type[set[Any]] | type[frozenset[Any]]) -> Callable[[Call], Any]:
    return lambda call: make(*(_checked(part, list, tuple) for part in call.arguments))


def _bytes(call: Call) -> bytes:
    text, encoding = call.arguments
    return bytes(_checked(text, str).encode(_one_of(encoding, "latin1", "latin-1")))


def _byte_array(call: Call) -> bytearray:
    return bytearray(b"".join(_checked(part, bytes, bytearray) for part in call.arguments))


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} where a whole number belongs")
    return value


def _checked(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"an object of {type(value).__name__} where {types[0].__name__} belongs")
    return value


def _one_of(value: Any, *known: str) -> str:
    if value not in known:
        raise ValueError(f"{value!r:.40} where {known[0]!r} belongs")
    return str(value)


# --- numpy -----------------------------------------------------------------------------------------------------------

_KINDS = re.compile(r"[biufcSUOMm]\d*")
_UNITS = re.compile(r"[A-Za-zμ]{1,2}")


def _dtype(call: Call) -> np.dtype[Any]:
    """Return a plain dtype: numbers, texts, times or objects; records and shapes are refused."""
    code = _checked(call.arguments[0], str)
    if not _KINDS.fullmatch(code):
        raise ValueError(f"dtype {code!r:.40}")
    state: tuple[Any, ...] = call.state or (3, "|")
    unit = _unit(state[8]) if len(state) > 8 and state[8] else ""
    order = state[1].decode() if isinstance(state[1], bytes) else state[1]
    dtype: np.dtype[Any] = np.dtype(_one_of(order, "|", "<", ">", "=").replace("|", "") + code + unit)
    return dtype


def _unit(metadata: Any) -> str:
    unit, count = metadata[1][:2]
    name = unit.decode() if isinstance(unit, bytes) else _checked(unit, str)
    if not _UNITS.fullmatch(name):
        raise ValueError(f"unit {name!r:.40}")
    return f"[{_whole(count)}{name}]"


def _array(call: Call) -> NDArray[Any]:
    """Return an array from the state numpy sets: version, shape, dtype, order, numbers."""
    _, shape, dtype, by_column, data = call.state
    return _shaped(data, _checked(dtype, np.dtype), shape, "F" if by_column else "C")


def _buffer_array(call: Call) -> NDArray[Any]:
    data, dtype, shape, order = call.arguments
    return _shaped(data, _checked(dtype, np.dtype), shape, _one_of(order, "C", "F"))


def _shaped(data: Any, dtype: np.dtype[Any], shape: Any, order: str) -> NDArray[Any]:
    sizes = tuple(_whole(size) for size in shape)
    if dtype.hasobject:
        flat = np.empty(len(_checked(data, list)), dtype=object)
        flat[:] = data
    else:
        flat = np.frombuffer(_checked(data, bytes, bytearray), dtype=dtype)
    return flat.reshape(sizes, order="F" if order == "F" else "C").copy()


def _scalar(call: Call) -> Any:
    dtype, data = call.arguments
    (value,) = np.frombuffer(_checked(data, bytes), dtype=_checked(dtype, np.dtype))
    return value.item()


# --- torch -----------------------------------------------------------------------------------------------------------


def _storage(call: Call) -> Tensor:
    """Return the numbers a tensor is a view of, ``(numbers,)``: a file of PyTorch's within the pickle."""
    (content,) = call.arguments
    storage = torch_files.load(bytes(_checked(content, bytes)), file=TENSOR)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("a tensor without numbers")
    with warnings.catch_warnings(action="ignore"):  # that typed storages will go, as those of old files never can
        return torch.empty(0, dtype=storage.dtype).set_(storage.untyped())  # type: ignore[no-untyped-call]


def _tensor(call: Call) -> Tensor:
    storage, offset, size, stride, *_ = call.arguments
    numbers, sizes, steps = _checked(storage, Tensor), [*map(_whole, size)], [*map(_whole, stride)]
    if min([_whole(offset), *sizes, *steps]) < 0:
        raise ValueError("a tensor of negative size")
    tensor = torch.as_strided(numbers, sizes, steps, offset)
    if not torch_files.stored(tensor):
        raise ValueError("a tensor that claims more numbers than it has")
    return tensor


# --- what is known ---------------------------------------------------------------------------------------------------


Reader = Callable[[Call], Any]
_PYTHON: dict[str, Reader] = {
    "_codecs:encode": _bytes,
    "collections:OrderedDict": _dict,
    "collections:defaultdict": lambda call: dict(call.items),  # what a missing key would stand for is forgotten
    **{
        f"{module}:{name}": reader
        for module in ("builtins", "__builtin__")
        for name, reader in {
            "bytearray": _byte_array,
            "bytes": lambda call: bytes(_byte_array(call)),
            "complex": lambda call: complex(*(_checked(part, int, float) for part in call.arguments)),
            "dict": _dict,
            "frozenset": _collection(frozenset),
            "range": _range,
            "set": _collection(set),
            "slice": lambda call: slice(*(None if bound is None else _whole(bound) for bound in call.arguments)),
            "xrange": _range,
        }.items()
    },
}
_NUMPY: dict[str, Reader] = {
    "numpy:dtype": _dtype,
    **dict.fromkeys(("numpy:ndarray", "numpy:matrix", "numpy.matrixlib.defmatrix:matrix"), pickled_frames.unread),
    **{
        f"numpy.{core}.{name}": reader
        for core in ("core", "_core")
        for name, reader in {
            "multiarray:_reconstruct": _array,
            "multiarray:scalar": _scalar,
            "numeric:_frombuffer": _buffer_array,
        }.items()
    },
}
_TORCH: dict[str, Reader] = {
    "torch:Size": lambda call: tuple(_whole(size) for size in call.arguments[0]),
    "torch._utils:_rebuild_parameter": lambda call: _checked(call.arguments[0], Tensor).detach(),
    "torch._utils:_rebuild_tensor": _tensor,
    "torch._utils:_rebuild_tensor_v2": _tensor,
    "torch.storage:_load_from_bytes": _storage,
}
READERS: Mapping[str, Reader] = {
    **_PYTHON,
    **_NUMPY,
    **_TORCH,
    **pickled_frames.READERS,
    **dict.fromkeys(pickled_frames.UNREAD, pickled_frames.unread),
}
"""All that a pickle may ask for, and what is done instead of it."""

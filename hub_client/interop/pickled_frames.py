"""Rebuild frames that pandas 0.25 to 3 pickled: blocks of columns and two indexes, put together by documented calls.

None of pandas' own pickling code runs: it moves between versions, and it trusts its input. A column of a type that
no model needs, such as periods, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hub_client.interop.pickles import Call, Named

LONGEST = 10_000_000
"""Rows of a frame that are only counted: a few bytes can claim more than any memory holds."""


@dataclass(frozen=True)
class Unread:
    """An object that is known to be harmless but is of no use here, such as a time zone."""

    name: str


@dataclass(frozen=True)
class _Block:
    """Columns of one type: ``(columns, rows)``, or one column of an extension type, and where they stand."""

    values: Any
    positions: Any


@dataclass(frozen=True)
class _Blocks:
    columns: Any
    index: Any
    blocks: tuple[_Block, ...]


@dataclass(frozen=True)
class _Categories:
    names: Any
    ordered: bool


def unread(call: Call) -> Unread:
    """Return a stand-in for an object of no use."""
    return Unread(call.callee.name)


# --- frames ----------------------------------------------------------------------------------------------------------


def _frame(call: Call) -> pd.DataFrame | Unread:
    manager = call.state.get("_mgr", call.state.get("_data"))
    if isinstance(manager.index, Unread) or isinstance(manager.columns, Unread):
        return unread(call)
    columns = dict(sorted(_columns(manager)))
    frame = pd.DataFrame(columns, index=manager.index)
    frame.columns = manager.columns[[*columns]]
    return frame


def _columns(manager: _Blocks) -> Iterator[tuple[int, Any]]:
    everywhere = np.arange(len(manager.columns))
    for block in manager.blocks:
        if isinstance(block.values, Unread):
            continue
        rows = block.values if getattr(block.values, "ndim", 0) == 2 else [block.values]
        for position, values in zip(everywhere[block.positions], rows, strict=True):
            yield int(position), _plain(values)


def _plain(values: Any) -> Any:
    """Return a column in which what could not be read is missing."""
    if not isinstance(values, np.ndarray) or not values.dtype.hasobject:
        return values
    known = np.empty(len(values), dtype=object)
    known[:] = [None if isinstance(value, Unread | Named) else value for value in values]
    return known


def _manager(call: Call) -> _Blocks:
    if call.arguments:
        blocks, axes = call.arguments[:2]
    else:  # before pandas 1.3
        state = call.state[3]["0.14.1"]
        axes = state["axes"]
        blocks = [_Block(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    columns, index = axes
    return _Blocks(columns, index, tuple(blocks))


# --- indexes ---------------------------------------------------------------------------------------------------------


def _index(call: Call) -> pd.Index | Unread:
    """Return an index from the class and the constructor's arguments that pandas writes down."""
    kind, parts = call.arguments
    make = _INDEXES.get(kind.name.rpartition(":")[2])
    if make is None or isinstance(parts.get("data"), Unread):
        return Unread(kind.name)
    return make(parts)


def _plain_index(parts: dict[str, Any]) -> pd.Index:
    values = parts["data"]
    return pd.Index(_plain(values), dtype=values.dtype, name=parts.get("name"))


def _range_index(parts: dict[str, Any]) -> pd.RangeIndex:
    index = pd.RangeIndex(parts["start"], parts["stop"], parts["step"], name=parts.get("name"))
    if len(index) > LONGEST:
        raise ValueError(f"a frame of {len(index):,} rows")
    return index


def _multi_index(parts: dict[str, Any]) -> pd.MultiIndex | Unread:
    codes = parts["codes"] if "codes" in parts else parts["labels"]
    if any(isinstance(level, Unread) for level in parts["levels"]):
        return Unread("pandas:MultiIndex")
    return pd.MultiIndex(levels=parts["levels"], codes=codes, names=parts["names"])


_INDEXES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **dict.fromkeys(("CategoricalIndex", "DatetimeIndex", "Index"), _plain_index),
    **dict.fromkeys(("Float64Index", "Int64Index", "UInt64Index"), _plain_index),
    "MultiIndex": _multi_index,
    "RangeIndex": _range_index,
}


# --- columns of pandas' own types ------------------------------------------------------------------------------------


def _backed(call: Call) -> Any:
    """Return an array of pandas that keeps its values in one of numpy's: ``(dtype, values)``."""
    dtype, values = call.state[:2]
    return _typed(values, dtype)


def _from_attributes(call: Call) -> Any:
    """Return the same, from the attributes that pandas set before 1.3."""
    values = [call.state[name] for name in ("_codes", "_ndarray", "_data") if name in call.state]
    return _typed(values[0], call.state["_dtype"])


def _typed(values: Any, dtype: Any) -> Any:
    if isinstance(dtype, _Categories):
        names = dtype.names
        return names if isinstance(names, Unread) else pd.Categorical.from_codes(values, names, ordered=dtype.ordered)
    is_text = isinstance(dtype, Unread) and dtype.name.endswith(":StringDtype")
    return values if isinstance(dtype, np.dtype) or is_text else dtype


def _arrow_texts(call: Call) -> Any:
    """Return the texts of an Arrow array, ``(rows,)``: bytes of all of them, and where each ends."""
    kind, length, _, start, (valid, bounds, content) = call.arguments[0][:5]
    if kind not in _ARROW_BOUNDS:
        return unread(call)
    ends = np.frombuffer(bounds, _ARROW_BOUNDS[kind])[start : start + length + 1]
    if len(ends) != length + 1 or (np.diff(ends) < 0).any():
        raise ValueError("texts that overlap")
    known = np.unpackbits(np.frombuffer(valid or b"\xff" * (len(ends) + start), "u1"), bitorder="little")
    texts = np.empty(length, dtype=object)
    pieces = zip(ends[:-1], ends[1:], known[start : start + length], strict=True)
    texts[:] = [(content or b"")[first:last].decode() if here else None for first, last, here in pieces]
    return texts


_ARROW_BOUNDS = {"string": "<i4", "large_string": "<i8"}


def _arrow_column(call: Call) -> Any:
    """Return the texts of pandas' array around an Arrow array."""
    texts = call.state.get("_pa_array", call.state.get("_data"))
    return texts if isinstance(texts, np.ndarray) else unread(call)


def _joined(call: Call) -> Any:
    chunks = call.arguments[0]
    return unread(call) if any(isinstance(chunk, Unread) for chunk in chunks) else np.concatenate(chunks)


def _masked(call: Call) -> Any:
    values = call.state["_data"].astype(object)
    values[call.state["_mask"]] = None
    return values


def _in_modules(names: str, *modules: str) -> list[str]:
    return [f"{module}:{name}" for name in names.split() for module in modules]


_ARRAYS = "pandas.core.arrays"
READERS: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(_in_modules("DataFrame", "pandas", "pandas.core.frame"), _frame),
    **dict.fromkeys(_in_modules("BlockManager", "pandas.core.internals", "pandas.core.internals.managers"), _manager),
    "pandas._libs.internals:_unpickle_block": lambda call: _Block(*call.arguments[:2]),
    "pandas.core.internals.blocks:new_block": lambda call: _Block(*call.arguments[:2]),
    "pandas.core.indexes.base:_new_Index": _index,
    "pandas.core.indexes.datetimes:_new_DatetimeIndex": _index,
    "pandas._libs.arrays:__pyx_unpickle_NDArrayBacked": _backed,
    **dict.fromkeys(_in_modules("Categorical", "pandas", f"{_ARRAYS}.categorical"), _from_attributes),
    **dict.fromkeys(_in_modules("DatetimeArray", "pandas.arrays", f"{_ARRAYS}.datetimes"), _from_attributes),
    **dict.fromkeys(_in_modules("TimedeltaArray", "pandas.arrays", f"{_ARRAYS}.timedeltas"), _from_attributes),
    **dict.fromkeys(_in_modules("StringArray", "pandas.arrays", f"{_ARRAYS}.string_"), _from_attributes),
    **dict.fromkeys(_in_modules("BooleanArray", "pandas.arrays", f"{_ARRAYS}.boolean"), _masked),
    **dict.fromkeys(_in_modules("FloatingArray", "pandas.arrays", f"{_ARRAYS}.floating"), _masked),
    **dict.fromkeys(_in_modules("IntegerArray", "pandas.arrays", f"{_ARRAYS}.integer"), _masked),
    **dict.fromkeys(_in_modules("ArrowStringArray", "pandas.arrays", f"{_ARRAYS}.string_arrow"), _arrow_column),
    "pyarrow.lib:_restore_array": _arrow_texts,
    "pyarrow.lib:chunked_array": _joined,
    **dict.fromkeys(_in_modules("py_buffer type_for_alias", "pyarrow.lib"), lambda call: call.arguments[0]),
    **dict.fromkeys(
        _in_modules("CategoricalDtype", "pandas", "pandas.core.dtypes.dtypes"),
        lambda call: _Categories(call.state["categories"], bool(call.state["ordered"])),
    ),
}
UNREAD = frozenset(
    [
        *_in_modules("Index RangeIndex MultiIndex CategoricalIndex DatetimeIndex IntervalIndex PeriodIndex", "pandas"),
        *_in_modules("Index", "pandas.core.indexes.base"),
        *_in_modules("RangeIndex", "pandas.core.indexes.range"),
        *_in_modules("MultiIndex", "pandas.core.indexes.multi"),
        *_in_modules("CategoricalIndex", "pandas.core.indexes.category"),
        *_in_modules("DatetimeIndex", "pandas.core.indexes.datetimes"),
        *_in_modules("TimedeltaIndex", "pandas", "pandas.core.indexes.timedeltas"),
        *_in_modules("PeriodIndex _new_PeriodIndex", "pandas.core.indexes.period"),
        *_in_modules("IntervalIndex _new_IntervalIndex", "pandas.core.indexes.interval"),
        *_in_modules("Int64Index UInt64Index Float64Index", "pandas.core.indexes.numeric"),
        *_in_modules("FrozenNDArray", "pandas.core.indexes.frozen"),
        *_in_modules("Series", "pandas", "pandas.core.series"),
        *_in_modules("SingleBlockManager", "pandas.core.internals", "pandas.core.internals.managers"),
        *_in_modules("NA", "pandas", "pandas._libs.missing"),
        *_in_modules("StringDtype", "pandas", f"{_ARRAYS}.string_"),
        *_in_modules("BooleanDtype", "pandas", f"{_ARRAYS}.boolean"),
        *_in_modules("Float32Dtype Float64Dtype", "pandas", f"{_ARRAYS}.floating"),
        *_in_modules("Int8Dtype Int16Dtype Int32Dtype Int64Dtype", "pandas", f"{_ARRAYS}.integer"),
        *_in_modules("UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype", "pandas", f"{_ARRAYS}.integer"),
        *_in_modules("DatetimeTZDtype PeriodDtype IntervalDtype", "pandas", "pandas.core.dtypes.dtypes"),
        *_in_modules("SparseDtype", "pandas", f"{_ARRAYS}.sparse.dtype", "pandas.core.dtypes.dtypes"),
        *_in_modules("PeriodArray", "pandas.arrays", f"{_ARRAYS}.period"),
        *_in_modules("IntervalArray", "pandas.arrays", f"{_ARRAYS}.interval"),
        *_in_modules("SparseArray", "pandas.arrays", f"{_ARRAYS}.sparse.array"),
        *_in_modules("Interval", "pandas", "pandas._libs.interval"),
        *_in_modules("Period", "pandas", "pandas._libs.tslibs.period"),
        "pandas._libs.tslibs.nattype:_nat_unpickle",
        "pandas._libs.tslibs.nattype:__nat_unpickle",
        "pandas._libs.tslibs.period:__pyx_unpickle_PeriodMixin",
        "pandas._libs.tslibs.timedeltas:_timedelta_unpickle",
        "pandas._libs.tslibs.timestamps:_unpickle_timestamp",
        "pandas._libs.tslibs.timestamps:Timestamp",
        *_in_modules("Day Hour MonthEnd", "pandas._libs.tslibs.offsets", "pandas.tseries.offsets"),
        *_in_modules("date datetime time timedelta timezone", "datetime"),
        *_in_modules("_p _UTC", "pytz"),
        "decimal:Decimal",
        "uuid:UUID",
    ]
)
"""Classes and functions that are known to be harmless; what they would make is left out."""

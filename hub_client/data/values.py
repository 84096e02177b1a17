"""The text of a value, one for each way to store it, and which texts mean that there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors

Names = NDArray[np.str_]

_BLANK = re.compile(
    r"|\?+|\.|--+|<?(nan|nat|na|n/a|n\.a\.|none|null|nil)>?|#n/a( n/a)?|#na|-?1\.#(ind|qnan)|-nan"
    r"|na_(character|integer|real|complex)_|unk|tbd|\((blank|empty|none|missing)\)"
    r"|un(known|assigned|labell?ed|annotated|defined|specified|determined|classified|identified)([ _-]cells?)?"
    r"|not[ _-]?(known|available|applicable|assigned|annotated|labell?ed|provided|reported|recorded|collected"
    r"|determined|defined|specified)|no[ _-](data|labels?|value|annotation)|missing",
    re.IGNORECASE,
)
"""What people, pandas, R and spreadsheets write where there is no value."""
_NO_TEXT = re.compile(r"[\ud800-\udfff\0]")


def texts(values: pd.Series) -> Names:
    """Return a column as text, ``(cells,)``: whole numbers without a decimal point, ``""`` for missing values.

    A value has one text, however it is stored: as bytes, as a scalar of numpy's or as one of a nullable type.
    """
    codes, distinct = pd.factorize(values)
    names = np.array([*map(text, _scalars(distinct, of=values.dtype)), ""], dtype=str)
    found: Names = names[codes]
    return found


def _scalars(distinct: Any, *, of: Any) -> Iterable[object]:
    """Return the distinct values of a column as its type has them: of a float32, 0.1 as Python's float is no 0.1."""
    kind = getattr(of, "categories", of)
    kind = getattr(kind, "dtype", kind)
    kind = getattr(kind, "numpy_dtype", kind)
    return np.asarray(distinct).astype(kind) if isinstance(kind, np.dtype) and kind.kind == "f" else distinct


def text(value: object) -> str:
    """Return a value as text."""
    if isinstance(value, bytes):  # numpy's, too
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, np.datetime64):
        return str(pd.Timestamp(value))
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def unwritable(names: Names) -> list[str]:
    """Return the texts that no file holds: with half a character (a lone surrogate) or a zero."""
    return [name for name in map(str, np.unique(names)) if _NO_TEXT.search(name)]


def is_blank(name: str) -> bool:
    """Return whether a text means that there is no value, as ``nan``, ``NA``, ``None`` and ``Unknown`` do."""
    return _BLANK.fullmatch(" ".join(name.split())) is not None


def without_blanks(names: Names, *, known: Iterable[str] = ()) -> Names:
    """Return names, ``(cells,)``, with ``""`` where they mean that there is none and are not ``known``."""
    distinct, codes = np.unique(names, return_inverse=True)
    kept = {*known}
    found: Names = np.array(["" if is_blank(n) and n not in kept else n for n in distinct.tolist()], dtype=str)[codes]
    return found


def blanks(values: pd.Series, *, known: Iterable[str] = ()) -> dict[str, int]:
    """Return how many cells have no value by each way to say so, the most frequent first; ``NaN`` for missing ones.

    Texts that are ``known`` are values.
    """
    gaps = values.isna().to_numpy(dtype=bool)
    names, kept = texts(values), {*known}
    written = pd.Series(names[~gaps]).value_counts()
    found = {"NaN": int(gaps.sum())} if gaps.any() else {}
    found |= {repr(str(n)): int(c) for n, c in written.items() if is_blank(str(n)) and n not in kept}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def counted(found: dict[str, int]) -> str:
    """Return blanks as a message shows them: how many cells have each."""
    if len(found) == 1:
        return next(iter(found))
    return errors.names(f"{name} {cells:,}" for name, cells in found.items())

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hub_client.data.values import blanks, counted, is_blank, texts, without_blanks

SAME = {
    "bytes": [b"1", b"2", b"1"],
    "numpy bytes": np.array([b"1", b"2", b"1"]),
    "numpy text": np.array([np.str_("1"), np.str_("2"), np.str_("1")], dtype=object),
    "mixed": ["1", b"2", 1.0],
    "float16": np.array([1, 2, 1], dtype=np.float16),
    "float32": np.array([1, 2, 1], dtype=np.float32),
    "float32 objects": np.array([np.float32(1), np.float32(2), np.float64(1)], dtype=object),
    "int8": np.array([1, 2, 1], dtype=np.int8),
    "Float32": pd.array([1, 2, 1], dtype="Float32"),
    "Float64": pd.array([1.0, 2.0, 1.0], dtype="Float64"),
    "Int16": pd.array([1, 2, 1], dtype="Int16"),
    "string": pd.array(["1", "2", "1"], dtype="string"),
    "categories of float32": pd.Categorical(np.array([1, 2, 1], dtype=np.float32)),
    "categories of bytes": pd.Categorical([b"1", b"2", b"1"]),
    "categories of Float32": pd.Categorical(pd.array([1, 2, 1], dtype="Float32")),
}


@pytest.mark.parametrize("form", SAME)
def test_a_value_has_one_text_however_it_is_stored(form: str) -> None:
    assert texts(pd.Series(SAME[form])).tolist() == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"kang_ctrl", "kang_ctrl"),
        ("Ärzte".encode(), "Ärzte"),
        (b"\xff", r"\xff"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.5), "0.5"),
        (-0.0, "0"),
        (np.inf, "inf"),
        (np.bool_(True), "True"),
        (np.datetime64("2020-01-02"), "2020-01-02 00:00:00"),
        (pd.Timestamp("2020-01-02"), "2020-01-02 00:00:00"),
        (decimal.Decimal("1.5"), "1.5"),
    ],
)
def test_the_text_of_a_value(value: Any, expected: str) -> None:
    assert texts(pd.Series([value], dtype=object)).tolist() == [expected]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "Float32"])
@pytest.mark.parametrize("categories", [False, True])
def test_a_fraction_has_the_text_of_its_own_type(kind: str, categories: bool) -> None:
    values = pd.Series([0.1, 2.0, 0.1], dtype=kind)
    if categories and kind != "float16":  # which pandas makes no categories of
        values = values.astype("category")
    assert texts(values).tolist() == ["0.1", "2", "0.1"]


def test_nullable_booleans_are_named_as_plain_ones() -> None:
    assert texts(pd.Series([True, None], dtype="boolean")).tolist() == ["True", ""]


OTHER_NONE = ["not determined", "Not\u00a0available", "not-applicable", "NA_character_", "undetermined", "Unknown_cell"]
NONE = [
    *OTHER_NONE,
    "",
    " ",
    "nan",
    "NaN",
    "NA",
    "<NA>",
    "N/A",
    "n/a",
    "None",
    "none",
    "NULL",
    "NaT",
    "Unknown",
    "unknown",
    "#N/A",
]
NONE += ["Unknown cells", "unassigned", "unlabeled", "Unlabelled", "not available", "not_reported", "missing", "?"]


@pytest.mark.parametrize("text", NONE)
def test_what_means_no_value(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["A", "0", "+", "-", "nano", "NK", "Na+", "untreated", "unknown virus", "None-1"])
def test_what_is_a_value(text: str) -> None:
    assert not is_blank(text)


def test_blanks_are_counted_by_how_they_are_written() -> None:
    column = pd.Series(["nan", "Unknown", "nan", None, "B", np.nan, "NA", "Unknown", "nan"])
    assert blanks(column, known=["NA"]) == {"'nan'": 3, "NaN": 2, "'Unknown'": 2}
    assert counted(blanks(column, known=["NA"])) == "'nan' 3, NaN 2, 'Unknown' 2"
    assert counted(blanks(pd.Series(["a", None]))) == "NaN"
    assert blanks(pd.Series(["a", "b"])) == {}


def test_what_is_known_is_a_name() -> None:
    names = np.array(["Unknown", "B", "nan", ""])
    assert without_blanks(names, known=["Unknown", "B"]).tolist() == ["Unknown", "B", "", ""]
    assert without_blanks(names[:0]).tolist() == []

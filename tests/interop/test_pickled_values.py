"""Frames, arrays and tensors as old and new pandas, numpy and PyTorch pickle them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hub_client import errors
from hub_client.interop import pickled_values, pickles
from hub_client.interop.pickled_frames import Unread
from tests.hostile import Calls

CPU, GPU = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
"""How PyTorch's files say where a tensor was: the rest is the same."""
LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
VERSIONS = ["0.25", "1.1", "1.5", "2.3", "3.1"]

every = pytest.mark.parametrize("version", VERSIONS)


def read(content: bytes) -> Any:
    return pickled_values.rebuilt(pickles.read(content, file="attr.pkl"), file="attr.pkl")


@pytest.fixture(scope="module")
def pickled() -> dict[str, dict[str, Any]]:
    """What each version of pandas pickled, by name."""
    return {version: read((LEGACY / f"pandas-{version}.pkl").read_bytes()) for version in VERSIONS}


Pickled = dict[str, dict[str, Any]]


@every
def test_a_frame(pickled: Pickled, version: str) -> None:
    found = pickled[version]["plain"]
    assert found.index.tolist() == ["r0", "r1", "r2"]
    assert found["text"].tolist() == ["a", "b", None]
    assert found["whole"].tolist() == [1, 2, 3] and found["again"].tolist() == [4, 5, 6]
    assert found["short"].dtype == "int8" and found["single"].dtype == "float32"
    assert found["real"].tolist()[::2] == [0.5, 2.5] and np.isnan(found["real"].iloc[1])
    assert found["truth"].tolist() == [True, False, True]
    assert found["kind"].cat.categories.tolist() == ["y", "x"] and found["kind"].cat.codes.tolist() == [1, -1, 0]
    assert found["rank"].cat.ordered and found["rank"].tolist() == [2, 1, 2]
    assert found["day"].dt.year.tolist()[:2] == [2020, 2021] and found["day"].isna().tolist() == [False, False, True]
    assert found["span"].dt.days.tolist() == [1, 2, 3]


@every
def test_columns_of_pandas_own_types(pickled: Pickled, version: str) -> None:
    found = pickled[version]["extended"]
    assert found["whole"].tolist() == [1, 2, 3]
    assert found["count"].tolist() == [1, None, 3]
    assert not {"bin", "month"} & set(found)  # intervals and periods are left out
    if version != "0.25":
        assert found["word"].tolist() == ["u", None, "w"]
        assert found["maybe"].tolist() == [True, None, False]


@every
def test_tables_by_condition(pickled: Pickled, version: str) -> None:
    one, two, category = (pickled[version][name] for name in ("one key", "two keys", "category"))
    assert (one.index.name, one.index.tolist()) == ("batch", ["b0", "b1"])
    assert one["age"].tolist() == [2, 1] and one["tech"].tolist() == ["v2", "v2"]
    assert list(two.index.names) == ["batch", "tech"]
    assert two.index.tolist() == [("b0", "v2"), ("b0", "v3"), ("b1", "v2"), ("b1", "v3")]
    assert two["age"].tolist() == [2, 4, 1, 3]
    assert isinstance(category.index, pd.CategoricalIndex) and category.index.tolist() == ["b0", "b1"]


@every
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("range", [0, 1]),
        ("whole", [5, 7]),
        ("real", [0.5, 1.5]),
        ("days", [pd.Timestamp("2020-01-02"), pd.Timestamp("2021-03-04")]),
    ],
)
def test_indexes(pickled: Pickled, version: str, name: str, labels: list[Any]) -> None:
    found = pickled[version][name]
    assert found.index.tolist() == labels
    assert found["value"].tolist() == [1.0, 2.0]


@every
def test_frames_that_are_odd(pickled: Pickled, version: str) -> None:
    assert isinstance(pickled[version]["bins"], Unread)
    assert pickled[version]["no columns"].shape == (2, 0)


@every
def test_arrays(pickled: Pickled, version: str) -> None:
    found = pickled[version]
    np.testing.assert_array_equal(found["rows"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found["columns"], np.arange(6).reshape(2, 3))
    assert found["columns"].dtype == "int16" and found["half"].tolist() == [0.5]
    assert found["big-endian"].tolist() == [0, 1, 2]
    assert found["texts"].tolist() == ["a", "bcd"] and found["bytes"].tolist() == [b"a", b"bcd"]
    assert found["mixed"].tolist() == ["a", 1, None] and found["truths"].tolist() == [True, False]
    assert found["empty"].shape == (0, 3) and found["point"].shape == ()
    assert found["scalars"] == [0.5, 3, True, "b0", 2.0]
    assert all(type(value) in (float, int, bool, str) for value in found["scalars"])


@every
def test_builtins(pickled: Pickled, version: str) -> None:
    expected = [range(3, 9, 2), slice(1, None), {"a"}, frozenset(["b"]), 1 + 2j, bytearray(b"c"), b"d"]
    assert pickled[version]["builtins"] == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_in_every_protocol(protocol: int) -> None:
    given = {"a": np.arange(4.0), "b": np.asfortranarray(np.ones((2, 3))), "c": np.float32(2.5), "d": np.array(["x"])}
    found = read(pickle.dumps(given, protocol=protocol))
    for name, value in given.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_frames_in_every_binary_protocol(protocol: int) -> None:
    given = pd.DataFrame({"x": [1, 2], "y": pd.Categorical(["a", "b"])}, index=["r", "s"])
    pd.testing.assert_frame_equal(read(pickle.dumps(given, protocol=protocol)), given)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors(dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(4, 6).to(dtype)
    for given in (base, base.T, base[1:3, ::2], base[0, 0], base[:0]):
        found = read(pickle.dumps({"mean": given}))["mean"]
        assert found.dtype == dtype and torch.equal(found, given)


def test_parameters_are_tensors() -> None:
    found = read(pickle.dumps(torch.nn.Parameter(torch.ones(2))))
    assert torch.equal(found, torch.ones(2)) and not found.requires_grad


def test_tensors_of_a_gpu_are_read_to_the_cpu() -> None:
    make, (storage, *rest) = torch.arange(3.0).__reduce_ex__(4)
    load, (content,) = storage.__reduce__()
    on_gpu = Calls(make, Calls(load, content.replace(CPU, GPU)), *rest)
    pickled = pickle.dumps({"mean": on_gpu})
    with pytest.raises(RuntimeError, match="CUDA"):
        pickle.loads(pickled)
    found = read(pickled)["mean"]
    assert found.device.type == "cpu" and found.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, (2, 2), (1, 1)), None),
        ((-1, (2,), (1,)), "negative"),
        ((0, (-2,), (1,)), "negative"),
        ((3, (2,), (1,)), "out of bounds"),
        ((0, (2, 3), (1,)), "mismatch"),
        ((0, (2.0,), (1,)), "whole number"),
        ((0, (5,), (0,)), "claims more"),
    ],
)
def test_views_stay_within_their_numbers(arguments: tuple[Any, ...], said: str | None) -> None:
    make, (storage, *_) = torch.arange(4.0).__reduce_ex__(4)

    content = pickle.dumps(Calls(make, storage, *arguments, False, {}))
    if said is None:
        assert read(content).tolist() == [[0, 1], [1, 2]]
    else:
        with pytest.raises(errors.IntegrityError, match=said):
            read(content)

"""Pickles as data: what pickle writes is read back, and what is damaged is refused."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_client import errors
from hub_client.interop import pickled_values, pickles
from hub_client.interop.pickles import CONSTANTS, HANDLERS, Call, Named

LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
SAVED = {path.parent.name: path.read_bytes() for path in sorted(LEGACY.glob("*/attr.pkl"))}
SAVED |= {path.stem: path.read_bytes() for path in sorted(LEGACY.glob("*.pkl"))}

integers = st.integers(-(2**64) + 1, 2**64 - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text() | st.binary()
keys = integers | st.text() | st.binary() | st.tuples(st.text(), integers)
plain = st.recursive(
    scalars | st.sets(keys) | st.frozensets(keys),
    lambda inner: (
        st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner) | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=40,
)
protocols = st.integers(0, pickle.HIGHEST_PROTOCOL)


def read(content: bytes) -> Any:
    return pickled_values.rebuilt(pickles.read(content, file="attr.pkl"), file="attr.pkl")


@given(plain, protocols)
@settings(deadline=None)
def test_what_pickle_writes_is_read_back(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol=protocol)) == value


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 70_000) | st.floats(allow_nan=False), min_size=1))
@settings(deadline=None)
def test_numbers_in_a_row(numbers: list[float]) -> None:
    assert read(pickle.dumps([numbers, tuple(numbers)])) == [numbers, tuple(numbers)]
    assert [type(number) for number in read(pickle.dumps(numbers))] == [type(number) for number in numbers]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_shared_parts(protocol: int) -> None:
    part = ["b0", "b1"]
    found = read(pickle.dumps({"a": part, "b": [part, part], "c": "b0"}, protocol=protocol))
    assert found == {"a": part, "b": [part, part], "c": "b0"}


def test_every_instruction_is_known() -> None:
    assert HANDLERS.keys() | CONSTANTS == {opcode.name for opcode in pickletools.opcodes}
    assert HANDLERS.keys().isdisjoint(CONSTANTS)


def test_calls_are_written_down() -> None:
    found = pickles.read(pickle.dumps(slice(1, 2)), file="attr.pkl")
    assert found.names == ("builtins:slice",)
    assert isinstance(found.value, Call)
    assert (found.value.callee, found.value.arguments) == (Named("builtins:slice"), (1, 2, None))


def test_several_pickles_in_a_file() -> None:
    content = pickle.dumps("first") + pickle.dumps("second")
    first = pickles.read(content, file="model_params.pt")
    assert (first.value, pickles.read(content, file="model_params.pt", start=first.end).value) == ("first", "second")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04K\x01",
        b"\x80\x04h\x00.",
        b"\x80\x04e.",
        b"\x80\x04t.",
        b"\x80\x04K\x01K\x02a.",
        b"\x80\x04K\x01(K\x02e.",
        b"\x80\x04K\x01(K\x02K\x03u.",
        b"\x80\x04](K\x01K\x02u.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04}]K\x01s.",
        b"\x80\x04](K\x01\x90.",
        b"\x80\x04]}b.",
        b"\x80\x05\x97.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x04\x8c\xff",
        b"\x80\x04\x8c\x02\xff\xff.",
    ],
)
def test_what_is_no_pickle(content: bytes) -> None:
    with pytest.raises(errors.IntegrityError, match="no pickle that can be read") as refused:
        pickles.read(content, file="attr.pkl")
    assert refused.value.file == "attr.pkl"


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(errors.IntegrityError, match="more than the"):
        pickles.read(bytes(pickles.MAX_BYTES + 1), file="attr.pkl")


@pytest.mark.parametrize("name", SAVED)
def test_every_beginning_is_refused(name: str) -> None:
    content = SAVED[name]
    for end in range(0, len(content), 1 + len(content) // 60):
        with pytest.raises(errors.IntegrityError):
            read(content[:end])


@pytest.mark.slow
@given(st.sampled_from(sorted(SAVED)), st.lists(st.tuples(st.integers(0), st.binary(max_size=6)), max_size=4))
@settings(deadline=None, max_examples=2000)
def test_damage_is_refused_or_read(name: str, edits: list[tuple[int, bytes]]) -> None:
    content = bytearray(SAVED[name])
    for where, what in edits:
        start = where % len(content)
        content[start : start + len(what)] = what
    try:
        read(bytes(content))
    except errors.IntegrityError as error:
        assert error.file in {"attr.pkl", "a tensor's own file"}


@pytest.mark.slow
@given(st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]) | st.binary(max_size=3)))
@settings(deadline=None, max_examples=3000)
def test_any_instructions_are_refused_or_read(parts: list[bytes]) -> None:
    try:
        read(b"\x80\x04" + b"".join(parts) + b".")
    except errors.IntegrityError as error:
        assert error.file in {"attr.pkl", "a tensor's own file"}

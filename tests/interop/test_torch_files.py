"""PyTorch's files: zipped and old, of CPU and GPU, whole and damaged."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_client import errors
from hub_client.interop import torch_files
from tests.hostile import saved

CPU, GPU = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
STATE = OrderedDict(theta=torch.arange(6.0).reshape(2, 3), steps=torch.tensor(3), half=torch.ones(2).half())
LEGACY = Path(__file__).parents[1] / "golden" / "legacy"

zipped = pytest.mark.parametrize("zipped", [True, False])


def rewritten(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a zipped file of tensors with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, change(part) if entry.filename.endswith("data.pkl") else part)
    return file.getvalue()


@zipped
def test_a_state_is_read(zipped: bool) -> None:
    found = torch_files.state(saved(STATE, zipped=zipped), file="model_params.pt")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) and found[name].dtype == STATE[name].dtype for name in STATE)


@zipped
def test_a_state_of_a_gpu_is_read_to_the_cpu(zipped: bool) -> None:
    content = saved(STATE, zipped=zipped)
    moved = rewritten(content, lambda part: part.replace(CPU, GPU)) if zipped else content.replace(CPU, GPU)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(io.BytesIO(moved), weights_only=True)
    found = torch_files.state(moved, file="model_params.pt")
    assert {tensor.device.type for tensor in found.values()} == {"cpu"}
    assert torch.equal(found["theta"], STATE["theta"])


@zipped
def test_what_a_state_names(zipped: bool) -> None:
    found = torch_files.names(saved(STATE, zipped=zipped), file="model_params.pt")
    assert {"collections:OrderedDict", "torch._utils:_rebuild_tensor_v2", "torch:FloatStorage"} <= set(found)
    assert set(found) <= torch_files.ALLOWED


@zipped
@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(2, 2).to_sparse()}])
def test_what_is_no_state(value: Any, zipped: bool) -> None:
    with pytest.raises(errors.IntegrityError, match=r"model_params\.pt"):
        torch_files.state(saved(value, zipped=zipped), file="model_params.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04 no archive", b"no file of tensors", b"\x80\x02."])
def test_what_is_no_file_of_tensors(content: bytes) -> None:
    with pytest.raises(errors.IntegrityError, match=r"no file of tensors|no pickle") as refused:
        torch_files.load(content, file="model_params.pt")
    assert refused.value.file == "model_params.pt"


def test_a_whole_network_is_refused() -> None:
    """torch.save(model) instead of torch.save(model.state_dict())."""
    with pytest.raises(errors.IntegrityError, match=r"torch\.nn\.modules\.linear:Linear"):
        torch_files.load(saved(torch.nn.Linear(2, 2), zipped=True), file="model_params.pt")


def test_an_archive_of_another_kind() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(errors.IntegrityError, match="no file of tensors"):
        torch_files.load(file.getvalue(), file="model_params.pt")


@zipped
def test_every_beginning_is_refused(zipped: bool) -> None:
    content = saved(STATE, zipped=zipped)
    for end in range(0, len(content), 1 + len(content) // 60):
        with pytest.raises(errors.IntegrityError):
            torch_files.state(content[:end], file="model_params.pt")


@pytest.mark.slow
@zipped
@given(edits=st.lists(st.tuples(st.integers(0), st.binary(max_size=6)), max_size=4))
@settings(deadline=None, max_examples=400)
def test_damage_is_refused_or_read(zipped: bool, edits: list[tuple[int, bytes]]) -> None:
    content = bytearray(saved(STATE, zipped=zipped))
    for where, what in edits:
        start = where % len(content)
        content[start : start + len(what)] = what
    try:
        torch_files.state(bytes(content), file="model_params.pt")
    except errors.IntegrityError as error:
        assert error.file == "model_params.pt"

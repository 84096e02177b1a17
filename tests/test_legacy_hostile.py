"""Folders that would run a stranger's code: each is refused, its names are listed, and nothing runs."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import pytest
import torch

from hub_client import errors
from hub_client.compat import scPoli
from hub_client.legacy import pickles, values, weights
from hub_client.legacy.importing import import_legacy
from hub_client.legacy.inspecting import inspect
from tests import hostile

FOLDER = Path(__file__).parent / "golden" / "legacy" / "scpoli-0.5.9"

every = pytest.mark.parametrize("name", hostile.PICKLES)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def registered() -> Iterator[None]:
    """``os.system`` in Python's extension registry, where a pickle can ask for it by a number."""
    copyreg.add_extension("os", "system", hostile.EXTENSION)
    yield
    copyreg.remove_extension("os", "system", hostile.EXTENSION)


def with_attributes(folder: Path, content: bytes) -> Path:
    copytree(FOLDER, folder)
    (folder / "attr.pkl").write_bytes(content)
    return folder


@every
@pytest.mark.usefixtures("registered")
def test_each_would_run(name: str, marker: Path) -> None:
    """What the other tests prove is nothing, unless the files are dangerous."""
    with warnings.catch_warnings(action="ignore"), suppress(TypeError, ValueError, AttributeError):
        pickle.loads(hostile.PICKLES[name](marker))
    assert marker.exists()


@every
@pytest.mark.usefixtures("registered")
def test_none_runs(name: str, marker: Path, tmp_path: Path) -> None:
    folder = with_attributes(tmp_path / "model", hostile.PICKLES[name](marker))
    with pytest.raises(errors.IntegrityError):
        import_legacy(folder)
    with pytest.raises(errors.IntegrityError):
        scPoli.load(str(folder))
    assert not marker.exists()


@every
@pytest.mark.usefixtures("registered")
def test_none_runs_when_it_is_looked_at(name: str, marker: Path, tmp_path: Path) -> None:
    content = hostile.PICKLES[name](marker)
    names = pickles.read(content, file="attr.pkl").names
    if content.startswith(b"\x80\x04\x95"):  # a dictionary of attributes, made by pickle
        found = inspect(with_attributes(tmp_path / "model", content))
        assert tuple(asked.name for asked in found.contents.asked if asked.file == "attr.pkl") == names
    assert not marker.exists()


NAMED = {
    "system": ["posix:system"],
    "system_by_its_lines": ["posix:system"],
    "nested_eval": ["builtins:eval", "builtins:str"],
    "attribute_of_an_object": ["builtins:getattr", "pathlib:PosixPath"],
    "attribute_by_operator": ["operator:attrgetter", "pathlib:PosixPath"],
    "process_by_keywords": ["functools:partial", "subprocess:call"],
    "pickle_in_a_pickle": ["_pickle:loads"],
    "numpys_load": ["numpy:load"],
    "pandas_read_pickle": ["pandas.io.pickle:read_pickle"],
    "in_the_cells_of_a_frame": ["posix:system"],
    "in_an_array": ["posix:system"],
    "names_from_the_memo": ["posix:system"],
    "names_among_constants": ["posix:system"],
    "dotted_name": ["torch:os.system"],
    "dotted_name_in_a_permitted_module": ["numpy._core.numeric:builtins.eval"],
    "old_instance": ["os:system"],
    "old_object": ["os:system"],
    "extension": ["the extension registry:240"],
    "after_the_end_of_a_number_row": ["posix:system"],
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.usefixtures("registered")
def test_all_that_is_asked_for_is_listed(name: str, marker: Path) -> None:
    pickled = pickles.read(hostile.PICKLES[name](marker), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="Nothing was loaded") as refused:
        values.rebuilt(pickled, file="attr.pkl")
    assert refused.value.file == "attr.pkl"
    assert list(refused.value.actual) == NAMED[name]  # type: ignore[call-overload]
    assert all(asked in str(refused.value) for asked in NAMED[name])


def test_names_are_listed_at_once_and_before_anything_is_made(marker: Path) -> None:
    both = [hostile.Calls(os.system, hostile.shell(marker)), hostile.Calls(eval, "1"), torch.zeros(2)]
    pickled = pickles.read(hostile.dumped(both), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="posix:system, builtins:eval: "):
        values.rebuilt(pickled, file="attr.pkl")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("make", [hostile.tensors, hostile.tensors_with_an_eval])
def test_tensors_run_nothing(make: Callable[..., bytes], zipped: bool, marker: Path, tmp_path: Path) -> None:
    content = make(marker, zipped=zipped)
    folder = copytree(FOLDER, tmp_path / "model")
    (folder / "model_params.pt").write_bytes(content)
    with pytest.raises(errors.IntegrityError, match=r"model_params\.pt asks for") as refused:
        import_legacy(folder)
    found = inspect(folder)
    assert found.refused == tuple(refused.value.actual)  # type: ignore[arg-type]
    assert found.contents.shapes is None
    assert not marker.exists()
    torch.load(folder / "model_params.pt", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", ["in_a_tensors_storage", "in_a_tensors_old_storage"])
def test_what_is_in_a_storage_is_named(name: str, marker: Path) -> None:
    pickled = pickles.read(hostile.PICKLES[name](marker), file="attr.pkl")
    assert "torch.storage:_load_from_bytes" in pickled.names
    with pytest.raises(errors.IntegrityError, match=r"a tensor of attr\.pkl asks for posix:system"):
        values.rebuilt(pickled, file="attr.pkl")


def test_a_persistent_object_is_refused() -> None:
    pickled = pickles.read(b"\x80\x04" + hostile.text("torch.save's business") + b"Q.", file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="a persistent id"):
        values.rebuilt(pickled, file="attr.pkl")


def test_a_computed_name_is_refused() -> None:
    module = hostile.text("builtins") + hostile.text("str") + b"\x93" + hostile.text("posix") + b"\x85R"
    pickled = pickles.read(b"\x80\x04" + module + hostile.text("system") + b"\x93.", file="attr.pkl")
    assert pickled.names == ("builtins:str", pickles.COMPUTED)
    with pytest.raises(errors.IntegrityError, match="a computed name"):
        values.rebuilt(pickled, file="attr.pkl")


def test_a_name_cannot_write_to_the_terminal() -> None:
    pickled = pickles.read(b"cos\nsystem\x1b[2J\n.", file="attr.pkl")
    assert pickled.names == (r"'os:system\x1b[2J'",)


# --- files that would fill the memory or never end -------------------------------------------------------------------


def test_repetition_is_bounded() -> None:
    """Each tuple holds the one before it ten times."""
    content = b"\x80\x04(" + hostile.text("a") + b"t\x94"
    for level in range(20):
        content += b"(" + (b"h" + bytes([level])) * 10 + b"t\x94"
    pickled = pickles.read(content + b".", file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="repeats or nests itself"):
        values.rebuilt(pickled, file="attr.pkl")


def test_repetition_behind_calls_is_bounded() -> None:
    made = b"ccollections\nOrderedDict\n\x94"
    content = b"\x80\x04" + made + b")R\x94"
    for level in range(1, 20):
        pairs = b"".join(b"K" + bytes([key]) + b"h" + bytes([level]) for key in range(10))
        content += b"h\x00)R(" + pairs + b"u\x94"
    with pytest.raises(errors.IntegrityError, match="repeats or nests itself"):
        values.rebuilt(pickles.read(content + b".", file="attr.pkl"), file="attr.pkl")


@pytest.mark.parametrize("content", [b"]\x94h\x00a.", b"}\x94K\x01h\x00s.", b"(" * 1000 + b"t" * 1000 + b"."])
def test_depth_is_bounded(content: bytes) -> None:
    pickled = pickles.read(b"\x80\x04" + content, file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="repeats or nests itself"):
        values.rebuilt(pickled, file="attr.pkl")


def test_a_deep_key_is_refused() -> None:
    """Hashing it would exhaust the C stack."""
    with pytest.raises(errors.IntegrityError, match="for a key"):
        pickles.read(b"\x80\x04})" + b"\x85" * 100_000 + b"K\x01s.", file="attr.pkl")


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"cbuiltins\nset\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R.",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
    ],
)
def test_a_number_is_no_size(content: bytes) -> None:
    with pytest.raises(errors.IntegrityError, match="cannot be read"):
        values.rebuilt(pickles.read(b"\x80\x04" + content, file="attr.pkl"), file="attr.pkl")


def test_a_far_memo_costs_nothing() -> None:
    assert pickles.read(b"\x80\x04K\x07r\xff\xff\xff\x7fj\xff\xff\xff\x7f\x86.", file="attr.pkl").value == (7, 7)


def test_a_range_is_not_unrolled() -> None:
    content = pickle.dumps({"labeled_indices_": range(10**18)})
    assert values.rebuilt(pickles.read(content, file="a"), file="a") == {"labeled_indices_": range(10**18)}


def test_a_tensor_that_claims_more_than_it_has() -> None:
    content = hostile.saved({"theta": torch.zeros(1).expand(10**6, 10**6)}, zipped=True)
    with pytest.raises(errors.IntegrityError, match="names and dense tensors"):
        weights.state(content, file="model_params.pt")
    pickled = pickles.read(pickle.dumps(torch.zeros(1).expand(10**6, 10**6)), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="claims more numbers"):
        values.rebuilt(pickled, file="attr.pkl")


def test_a_compressed_file_of_tensors() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)
    with pytest.raises(errors.IntegrityError, match="is compressed"):
        weights.load(file.getvalue(), file="model_params.pt")

"""Folders that would run a stranger's code: each is refused, its names are listed, and nothing runs."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
import torch

from hub_client import errors
from hub_client.compat import scPoli
from hub_client.interop import pickled_values, pickles, scarches_files, torch_files
from hub_client.interop.import_legacy import import_legacy
from hub_client.interop.inspection import inspect
from tests import hostile

FOLDER = Path(__file__).parents[1] / "golden" / "legacy" / "scpoli-0.5.9"

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


def edited(folder: Path, into: Path, **changes: object) -> Path:
    """A copy of a folder with other attributes."""
    copytree(folder, into)
    attributes = pickle.loads((into / "attr.pkl").read_bytes()) | changes
    (into / "attr.pkl").write_bytes(pickle.dumps(attributes))
    return into


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
        assert tuple(one.name for one in found.contents.requests if one.file == "attr.pkl") == names
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
    "by_saving_a_tensor": ["torch.serialization:save"],
    "state_of_a_partial": ["functools:partial", "builtins:len", "posix:system"],
    "after_the_end_of_a_number_row": ["posix:system"],
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.usefixtures("registered")
def test_all_that_is_asked_for_is_listed(name: str, marker: Path) -> None:
    pickled = pickles.read(hostile.PICKLES[name](marker), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="Nothing was loaded") as refused:
        pickled_values.rebuilt(pickled, file="attr.pkl")
    assert refused.value.file == "attr.pkl"
    assert list(refused.value.actual) == NAMED[name]  # type: ignore[call-overload]
    assert all(asked in str(refused.value) for asked in NAMED[name])


def test_names_are_listed_at_once_and_before_anything_is_made(marker: Path) -> None:
    both = [hostile.Calls(os.system, hostile.shell(marker)), hostile.Calls(eval, "1"), torch.zeros(2)]
    pickled = pickles.read(hostile.dumped(both), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="posix:system, builtins:eval: "):
        pickled_values.rebuilt(pickled, file="attr.pkl")


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
    with pytest.raises(errors.IntegrityError, match=r"a tensor's own file asks for posix:system"):
        pickled_values.rebuilt(pickled, file="attr.pkl")


def test_a_persistent_object_is_refused() -> None:
    pickled = pickles.read(b"\x80\x04" + hostile.text("torch.save's business") + b"Q.", file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="a persistent id"):
        pickled_values.rebuilt(pickled, file="attr.pkl")


def test_a_computed_name_is_refused() -> None:
    module = hostile.text("builtins") + hostile.text("str") + b"\x93" + hostile.text("posix") + b"\x85R"
    pickled = pickles.read(b"\x80\x04" + module + hostile.text("system") + b"\x93.", file="attr.pkl")
    assert pickled.names == ("builtins:str", pickles.COMPUTED)
    with pytest.raises(errors.IntegrityError, match="a computed name"):
        pickled_values.rebuilt(pickled, file="attr.pkl")


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
        pickled_values.rebuilt(pickled, file="attr.pkl")


def test_repetition_behind_calls_is_bounded() -> None:
    made = b"ccollections\nOrderedDict\n\x94"
    content = b"\x80\x04" + made + b")R\x94"
    for level in range(1, 20):
        pairs = b"".join(b"K" + bytes([key]) + b"h" + bytes([level]) for key in range(10))
        content += b"h\x00)R(" + pairs + b"u\x94"
    with pytest.raises(errors.IntegrityError, match="repeats or nests itself"):
        pickled_values.rebuilt(pickles.read(content + b".", file="attr.pkl"), file="attr.pkl")


@pytest.mark.parametrize("content", [b"]\x94h\x00a.", b"}\x94K\x01h\x00s.", b"(" * 1000 + b"t" * 1000 + b"."])
def test_depth_is_bounded(content: bytes) -> None:
    pickled = pickles.read(b"\x80\x04" + content, file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="repeats or nests itself"):
        pickled_values.rebuilt(pickled, file="attr.pkl")


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
        pickled_values.rebuilt(pickles.read(b"\x80\x04" + content, file="attr.pkl"), file="attr.pkl")


@pytest.mark.parametrize(
    "number",
    [
        pickle.dumps(1 << 100_000, protocol=4)[2:-1],
        pickle.dumps(1 << 128, protocol=0)[:-1],
        b"I" + b"9" * 40 + b"\n",
    ],
)
def test_a_number_is_one_that_can_be_printed(number: bytes) -> None:
    with pytest.raises(errors.IntegrityError, match="a number of"):
        pickles.read(b"\x80\x04" + number + b".", file="attr.pkl")


def test_keys_that_hash_alike_are_refused() -> None:
    """A dictionary of a million of them would take hours."""
    content = pickle.dumps({step * (2**61 - 1): 0 for step in range(1, 100)})
    with pytest.raises(errors.IntegrityError, match="a long number for a key"):
        pickles.read(content, file="attr.pkl")


@pytest.mark.parametrize(
    ("model", "claimed"),
    [
        ("expimap-0.5.0", {"n_ext_": 10**9}),
        ("expimap-0.5.0", {"n_ext_m_": 10**9}),
        ("trvae-0.3.0", {"latent_dim_": 2**63}),
        ("trvae-0.3.0", {"input_dim_": 10**15}),
        ("trvae-0.3.0", {"hidden_layer_sizes_": [10**15, 4]}),
        ("trvae-0.3.0", {"hidden_layer_sizes_": [4] * 100_000}),
        ("scpoli-0.5.9", {"embedding_dims_": [10**15, 10**15]}),
    ],
)
def test_a_claimed_size_costs_nothing(model: str, claimed: dict[str, object], tmp_path: Path) -> None:
    folder = edited(FOLDER.with_name(model), tmp_path / "model", **claimed)
    with pytest.raises(errors.IntegrityError, match=r"claims more than model_params\.pt holds|genes, the model reads"):
        import_legacy(folder)


def test_a_frame_of_many_rows_is_refused(tmp_path: Path) -> None:
    folder = edited(FOLDER, tmp_path / "model", obs_metadata_=pd.DataFrame(index=pd.RangeIndex(10**11)))
    with pytest.raises(errors.IntegrityError, match=r"a frame of 100,000,000,000 rows"):
        import_legacy(folder)


@pytest.mark.parametrize("name", scarches_files.NEEDED)
def test_a_file_of_holes_is_not_read(name: str, tmp_path: Path) -> None:
    folder = copytree(FOLDER, tmp_path / "model")
    with (folder / name).open("r+b") as file:
        file.truncate(scarches_files.MAX_BYTES[name] + 1)
    with pytest.raises(errors.IntegrityError, match=f"{name} has .* bytes; no model's has more"):
        import_legacy(folder)
    with pytest.raises(errors.IntegrityError, match=f"{name} has .* bytes; no model's has more"):
        inspect(folder)


@pytest.mark.parametrize("name", scarches_files.NEEDED)
def test_a_file_without_an_end_is_no_file(name: str, tmp_path: Path) -> None:
    """Links to devices and pipes, which would give bytes for ever, or none."""
    folder = copytree(FOLDER, tmp_path / "model")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(errors.NotFound, match=name):
        import_legacy(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(errors.NotFound, match=name):
        inspect(folder)


def test_a_link_is_what_it_leads_to(marker: Path, tmp_path: Path) -> None:
    folder = copytree(FOLDER, tmp_path / "model")
    (tmp_path / "elsewhere").write_bytes(hostile.system(marker))
    (folder / "attr.pkl").unlink()
    (folder / "attr.pkl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.IntegrityError, match="posix:system"):
        import_legacy(folder)
    assert not marker.exists()


def test_a_far_memo_costs_nothing() -> None:
    assert pickles.read(b"\x80\x04K\x07r\xff\xff\xff\x7fj\xff\xff\xff\x7f\x86.", file="attr.pkl").value == (7, 7)


def test_a_range_is_not_unrolled() -> None:
    content = pickle.dumps({"labeled_indices_": range(10**18)})
    assert pickled_values.rebuilt(pickles.read(content, file="a"), file="a") == {"labeled_indices_": range(10**18)}


def test_a_range_is_of_positions() -> None:
    content = pickle.dumps({"labeled_indices_": range(1 << 70)})
    with pytest.raises(errors.IntegrityError, match="no positions"):
        pickled_values.rebuilt(pickles.read(content, file="a"), file="a")


def test_a_tensor_that_claims_more_than_it_has() -> None:
    content = hostile.saved({"theta": torch.zeros(1).expand(10**6, 10**6)}, zipped=True)
    with pytest.raises(errors.IntegrityError, match="names and dense tensors"):
        torch_files.state(content, file="model_params.pt")
    pickled = pickles.read(pickle.dumps(torch.zeros(1).expand(10**6, 10**6)), file="attr.pkl")
    with pytest.raises(errors.IntegrityError, match="claims more numbers"):
        pickled_values.rebuilt(pickled, file="attr.pkl")


def test_a_compressed_file_of_tensors() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)
    with pytest.raises(errors.IntegrityError, match="is compressed"):
        torch_files.load(file.getvalue(), file="model_params.pt")


# --- archives that are not what they seem ----------------------------------------------------------------------------

Parts = dict[str, bytes]


def archive(parts: Parts) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return file.getvalue()


def parts_of(state: object) -> Parts:
    with zipfile.ZipFile(io.BytesIO(hostile.saved(state, zipped=True))) as found:
        return {entry.filename: found.read(entry) for entry in found.infolist()}


@pytest.mark.parametrize("kept", [0, 3, 4000 - 1, 4000 + 4])
def test_a_storage_of_another_size_than_it_claims(kept: int) -> None:
    """Numbers beyond its end would be those of other data in memory."""
    parts = parts_of({"theta": torch.arange(1000.0)})
    parts["archive/data/0"] = (parts["archive/data/0"] + bytes(4))[:kept]
    with pytest.raises(errors.IntegrityError, match="does not have the size it claims"):
        torch_files.state(archive(parts), file="model_params.pt")


def test_tensors_that_share_their_numbers() -> None:
    """Each would become a copy."""
    shared = torch.zeros(100_000)
    content = hostile.saved({f"theta{number}": shared for number in range(100)}, zipped=True)
    with pytest.raises(errors.IntegrityError, match="share their numbers"):
        torch_files.state(content, file="model_params.pt")


@pytest.mark.parametrize("name", ["../outside", "archive/../../outside", "/tmp/outside", "archive/data/../../outside"])
def test_nothing_of_an_archive_is_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    content = archive({**parts_of({"theta": torch.zeros(2)}), name: b"anything"})
    with suppress(errors.IntegrityError):
        assert torch_files.state(content, file="model_params.pt").keys() == {"theta"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("name", ["archive/data.pkl", "other/data.pkl", "archive/more/data.pkl"])
def test_a_second_pickle_in_an_archive(name: str, marker: Path) -> None:
    parts = parts_of({"theta": torch.zeros(2)})
    file = io.BytesIO(archive(parts))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "a") as made:
        made.writestr(name, hostile.system(marker))
    with pytest.raises(errors.IntegrityError, match=r"too many values|same name|one folder"):
        torch_files.load(file.getvalue(), file="model_params.pt")
    assert not marker.exists()


def test_a_program_of_torchscript(tmp_path: Path) -> None:
    """Its archive holds code."""
    parts = parts_of({"theta": torch.zeros(2)})
    code = {"archive/constants.pkl": pickle.dumps(()), "archive/code/__torch__.py": b"raise SystemExit"}
    with pytest.raises(errors.IntegrityError, match=r"model_params\.pt"):
        torch_files.load(archive(parts | code), file="model_params.pt")


def test_a_tar_of_pickles(marker: Path) -> None:
    """What PyTorch wrote before 0.1.10, whose parts are pickles of their own."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content := hostile.system(marker))
            made.addfile(info, io.BytesIO(content))
    with pytest.raises(errors.IntegrityError, match=r"model_params\.pt"):
        torch_files.load(file.getvalue(), file="model_params.pt")
    assert not marker.exists()

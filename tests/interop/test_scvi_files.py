"""Folders of scvi-tools: read as data, equal to what it would load, and written again for its own functions."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from hub_client import errors
from hub_client.interop import pickled_values, scvi_files
from hub_client.models.architectures.scvi.modules import scvi_tools
from tests import scvi_folders
from tests.hostile import PICKLES, Calls, python, shell
from tests.scvi_models import SCVI, scvi_model, undisturbed

slow = pytest.mark.slow
ALL = "all keys, encoded"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scvi_folders.saved(scvi_model(ALL), tmp_path_factory.mktemp("scvi") / "saved", cells=True)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scvi_folders.saved_old(scvi_model("plain"), tmp_path_factory.mktemp("scvi") / "old")


def assert_same(found: Any, expected: Any) -> None:
    """Compare what was read with what the original says, types included."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


# --- reading ---------------------------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("example", SCVI)
def test_all_that_was_saved_is_read(example: str, tmp_path: Path) -> None:
    model = scvi_model(example)
    found = scvi_files.read(scvi_folders.saved(model, tmp_path / "saved"))
    told = scvi_folders.content(model)
    del told["model_state_dict"]["pyro_param_store"]
    assert_same(found.state, dict(told["model_state_dict"]))
    assert_same(found.attributes, told["attr_dict"])
    assert_same(found.genes, told["var_names"])
    assert scvi_files.kind_of(found) == "scvi"
    assert not found.is_old


@slow
def test_files_are_hashed(folder: Path) -> None:
    assert [file.path for file in scvi_files.read(folder).files] == ["model.pt", "adata.h5ad"]


@slow
def test_a_prefix(tmp_path: Path) -> None:
    place = scvi_folders.saved(scvi_model("plain"), tmp_path / "saved", prefix="lung_", cells=True)
    found = scvi_files.read(place, prefix="lung_")
    assert found.cells == place / "lung_adata.h5ad"
    assert scvi_files.is_saved(place, prefix="lung_")
    assert not scvi_files.is_saved(place)
    with pytest.raises(errors.NotFound, match=r"no model\.pt"):
        scvi_files.read(place)


@pytest.mark.parametrize("prefix", ["../", "a/b", "/etc/"])
def test_a_prefix_is_no_path(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="prefix"):
        scvi_files.read(tmp_path, prefix=prefix)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such folder"):
        scvi_files.read(tmp_path / "nothing")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "model.pt").touch()
    with pytest.raises(errors.NotFound, match=r"no model\.pt") as refused:
        scvi_files.read(tmp_path)
    assert refused.value.suggestions == (str(tmp_path / "inner"),)


@slow
def test_what_was_saved_before_0_15(old: Path) -> None:
    found = scvi_files.read(old)
    assert found.is_old
    assert scvi_files.is_saved(old)
    assert [file.path for file in found.files] == ["attr.pkl", "model_params.pt", "var_names.csv"]
    registry, expected = scvi_files.current(found).attributes["registry_"], scvi_model("plain").registry_
    assert registry["model_name"] == "SCVI"
    assert registry["setup_args"]["batch_key"] == expected["setup_args"]["batch_key"] == "batch"
    assert registry["setup_args"]["labels_key"] is None
    assert_same(
        registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"],
        expected["field_registries"]["batch"]["state_registry"]["categorical_mapping"],
    )


@slow
def test_a_setup_that_says_nothing(tmp_path: Path) -> None:
    place = scvi_folders.saved_old(scvi_model("plain"), tmp_path / "old", scvi_setup_dict_={})
    with pytest.raises(errors.IntegrityError, match=r"attr\.pkl"), scvi_files.safe_copy(place):
        pass


@slow
def test_a_class_that_archzoo_does_not_know(tmp_path: Path) -> None:
    told = scvi_folders.content(scvi_model("plain"))
    registry = told["attr_dict"]["registry_"] | {"model_name": "PEAKVI"}
    told["attr_dict"] = told["attr_dict"] | {"registry_": registry}
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(told))
    with pytest.raises(errors.Unsupported, match="PEAKVI"):
        scvi_files.kind_of(scvi_files.read(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {},
        {"model_state_dict": {"a": torch.ones(1)}, "attr_dict": {}},
        {"model_state_dict": {"a": 1}, "attr_dict": {}, "var_names": np.array(["g0"])},
        {"model_state_dict": {"a": torch.ones(1)}, "attr_dict": {}, "var_names": range(1 << 60)},
        {"model_state_dict": {"a": torch.ones(1)}, "attr_dict": {1: 2}, "var_names": np.array(["g0"])},
        {"model_state_dict": {"a": torch.zeros(1).expand(1 << 40)}, "attr_dict": {}, "var_names": np.array(["g0"])},
    ],
)
def test_what_no_model_is(value: Any, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(value))
    with pytest.raises(errors.IntegrityError, match=r"model\.pt") as refused:
        scvi_files.read(tmp_path)
    assert refused.value.file == "model.pt"


def test_what_is_unknown_becomes_none(tmp_path: Path) -> None:
    told = {"lengths_": range(1 << 60), "when_": pd.Timestamp("2021-02-03"), "frame_": pd.DataFrame({"a": [{1: 2}]})}
    value = {"model_state_dict": {"a": torch.ones(1)}, "attr_dict": told, "var_names": np.array(["g0"])}
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(value))
    found = scvi_files.read(tmp_path).attributes
    assert found["lengths_"] is None
    assert found["when_"] is None
    assert found["frame_"]["a"][0] == {1: 2}


# --- writing for scvi-tools ------------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("example", ["plain", ALL, "gene-batch, libraries", "embedded"])
def test_scvi_tools_loads_the_copy(example: str, tmp_path: Path) -> None:
    model = scvi_model(example)
    place = scvi_folders.saved(model, tmp_path / "saved", prefix="a_")
    with scvi_files.safe_copy(place, prefix="a_") as copy:
        again = scvi_folders.loaded(model, copy, prefix="a_")
    np.testing.assert_array_equal(scvi_folders.latent(again), scvi_folders.latent(model))


@slow
def test_the_copy_has_the_cells_and_goes(folder: Path) -> None:
    with scvi_files.safe_copy(folder) as copy:
        assert sorted(path.name for path in copy.iterdir()) == ["adata.h5ad", "model.pt"]
        with undisturbed():
            again = scvi_tools().model.SCVI.load(str(copy), accelerator="cpu")
        assert again.adata.n_obs == scvi_model(ALL).adata.n_obs
    assert not copy.exists()
    assert (folder / "adata.h5ad").stat().st_size > 0


@slow
def test_scvi_tools_reads_the_registry_and_prepares_a_query(folder: Path) -> None:
    scvi, model = scvi_tools(), scvi_model(ALL)
    query = model.adata[:40, ::-1].copy()
    with scvi_files.safe_copy(folder) as copy, undisturbed():
        assert scvi.model.SCVI.load_registry(str(copy))["setup_args"] == model.registry_["setup_args"]
        scvi.model.SCVI.prepare_query_anndata(query, str(copy))
        assert list(query.var_names) == list(model.adata.var_names)
        mapped = scvi.model.SCVI.load_query_data(query, str(copy), accelerator="cpu")
        mapped.is_trained_ = True
        found, expected = (one.get_latent_representation(query) for one in (mapped, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@slow
def test_a_folder_from_before_0_15_is_loaded_and_converted(old: Path, tmp_path: Path) -> None:
    model = scvi_model("plain")
    with scvi_files.safe_copy(old) as copy:
        assert sorted(path.name for path in copy.iterdir()) == sorted(["model.pt", *scvi_files.TRIPLE])
        again = scvi_folders.loaded(model, copy)
        with undisturbed():
            type(model).convert_legacy_save(str(copy), str(tmp_path / "converted"))
    np.testing.assert_array_equal(scvi_folders.latent(again), scvi_folders.latent(model))
    assert (tmp_path / "converted" / "model.pt").is_file()


@slow
def test_what_the_copy_names(folder: Path, old: Path) -> None:
    """Whatever a file names, the copy names nothing but containers, arrays, tensors and frames."""
    for place in (folder, old):
        with scvi_files.safe_copy(place) as copy:
            said, _ = scvi_files.pickled((copy / "model.pt").read_bytes(), file="model.pt")
        modules = {name.partition(":")[0].partition(".")[0] for name in said.names}
        assert modules <= {"torch", "collections", "numpy", "pandas", "_codecs", "__builtin__", "a persistent id"}


# --- strangers' files ------------------------------------------------------------------------------------------------


class Subclass(Tensor):
    """PyTorch pickles a subclass with the function that makes it."""


def in_the_attributes(marker: Path) -> Any:
    return told(registry_=Calls(os.system, shell(marker)))


def in_the_state(marker: Path) -> Any:
    return told() | {"model_state_dict": OrderedDict(a=torch.zeros(2), b=Calls(os.system, shell(marker)))}


def in_the_genes(marker: Path) -> Any:
    return told() | {"var_names": np.array([Calls(eval, python(marker))], dtype=object)}


def in_the_parameters_of_pyro(marker: Path) -> Any:
    return told() | {"model_state_dict": OrderedDict(pyro_param_store={"constraints": Calls(eval, python(marker))})}


def in_a_history(marker: Path) -> Any:
    return told(history_={"elbo": pd.DataFrame({"elbo": ["1", Calls(os.system, shell(marker))]})})


def in_a_subclass_of_tensors(marker: Path) -> Any:
    tensor = torch.zeros(2).as_subclass(Subclass)
    tensor.hook = Calls(os.system, shell(marker))  # type: ignore[attr-defined]
    return told(y_prior_=tensor)


def in_a_rebuilt_tensor(marker: Path) -> Any:
    arguments: tuple[Any, ...] = (Calls(os.system, shell(marker)), torch.Tensor, (), {})
    return told(y_prior_=Calls(torch._tensor._rebuild_from_type_v2, *arguments))


def told(**attributes: Any) -> dict[str, Any]:
    state = OrderedDict(a=torch.zeros(2))
    return {"model_state_dict": state, "var_names": np.array(["g0"]), "attr_dict": {"is_trained_": True, **attributes}}


def _among_values(made: Callable[[Path], Any]) -> Callable[[Path], bytes]:
    return lambda marker: scvi_folders.zipped(made(marker))


def _for_the_pickle(made: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda marker: scvi_folders.with_pickle(scvi_folders.zipped(told()), lambda _: made(marker))


PLACES = (
    in_the_attributes,
    in_the_state,
    in_the_genes,
    in_the_parameters_of_pyro,
    in_a_history,
    in_a_subclass_of_tensors,
    in_a_rebuilt_tensor,
)
HOSTILE = {made.__name__: _among_values(made) for made in PLACES}
HOSTILE |= {f"{name} in the archive": _for_the_pickle(made) for name, made in PICKLES.items() if name != "extension"}


def executed(content: bytes, marker: Path) -> bool:
    """Whether PyTorch runs what is in a file: only then does it show anything to refuse it."""
    file = marker.with_name("model.pt")
    file.write_bytes(content)
    with suppress(Exception), warnings.catch_warnings(action="ignore"):  # whatever the stranger's code raises
        torch.load(file, weights_only=False)
    return marker.exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_executed(name: str, tmp_path: Path) -> None:
    victim, ours = tmp_path / "victim", tmp_path / "ours"
    victim.mkdir()
    ours.mkdir()
    assert executed(HOSTILE[name](victim / "marker"), victim / "marker")
    (ours / "model.pt").write_bytes(HOSTILE[name](ours / "marker"))
    for attempt in (scvi_files.read, lambda folder: scvi_files.safe_copy(folder).__enter__()):
        with pytest.raises(errors.IntegrityError, match="asks for") as refused:
            attempt(ours)
        assert refused.value.file in ("model.pt", pickled_values.TENSOR)
    assert not (ours / "marker").exists()


def _larger(file: bytes) -> bytes:
    """A storage of two numbers that claims 200."""
    return scvi_folders.with_pickle(file, lambda part: part.replace(b"K\x02tq", b"K\xc8tq"))


def _wider(file: bytes) -> bytes:
    """A tensor of two numbers that claims 200 of them."""
    return scvi_folders.with_pickle(file, lambda part: part.replace(b"QK\x00K\x02\x85", b"QK\x00K\xc8\x85"))


def _elsewhere(file: bytes) -> bytes:
    """A storage that is another part of the archive."""
    return scvi_folders.with_pickle(file, lambda part: part.replace(b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00/../"))


def _lacking(file: bytes) -> bytes:
    return scvi_folders.archived(
        {name: part for name, part in scvi_folders.parts(file).items() if "/data/" not in name}
    )


def _compressed(file: bytes) -> bytes:
    return scvi_folders.archived(scvi_folders.parts(file), compression=zipfile.ZIP_DEFLATED)


def _twice(file: bytes) -> bytes:
    return scvi_folders.archived(scvi_folders.parts(file) | {"archive/archive/data.pkl": b"\x80\x02}."})


def _outside(file: bytes) -> bytes:
    return scvi_folders.archived(scvi_folders.parts(file) | {"archive/../../evil": b"\x00"})


def _absolute(file: bytes) -> bytes:
    return scvi_folders.archived(scvi_folders.parts(file) | {"/tmp/evil": b"\x00"})


def _same_name(file: bytes) -> bytes:
    more = scvi_folders.archived(scvi_folders.parts(file) | {"archive/data/1": b"\x00" * 8})
    return more.replace(b"archive/data/1", b"archive/data/0")


def _overlapping(file: bytes) -> bytes:
    """The last part's header points at the first part."""
    end = file.rindex(b"PK\x01\x02")
    return file[: end + 42] + b"\x00" * 4 + file[end + 46 :]


def _big_endian(file: bytes) -> bytes:
    return scvi_folders.archived(
        {name: b"big" if name.endswith("byteorder") else part for name, part in scvi_folders.parts(file).items()}
    )


@pytest.mark.parametrize(
    "change",
    [
        _larger,
        _wider,
        _elsewhere,
        _lacking,
        _compressed,
        _twice,
        _outside,
        _absolute,
        _same_name,
        _overlapping,
        _big_endian,
    ],
)
def test_archives_that_pytorch_did_not_write(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    whole = scvi_folders.zipped(told())
    changed = change(whole)
    assert changed != whole
    (tmp_path / "model.pt").write_bytes(whole)
    assert torch.equal(scvi_files.read(tmp_path).state["a"], torch.zeros(2))
    (tmp_path / "model.pt").write_bytes(changed)
    with pytest.raises(errors.IntegrityError, match=r"model\.pt"):
        scvi_files.read(tmp_path)


def test_every_beginning_is_refused(tmp_path: Path) -> None:
    whole = scvi_folders.zipped(told())
    for end in range(0, len(whole), 1 + len(whole) // 60):
        (tmp_path / "model.pt").write_bytes(whole[:end])
        with pytest.raises(errors.IntegrityError):
            scvi_files.read(tmp_path)


def test_one_storage_for_many_tensors_is_read_once(tmp_path: Path) -> None:
    """A few bytes for each tensor must not cost the whole storage."""
    numbers = torch.zeros(1 << 20)
    views = OrderedDict((f"t{position}", numbers[position:]) for position in range(2_000))
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(told() | {"model_state_dict": views}))
    with pytest.raises(errors.IntegrityError, match="share their numbers"):
        scvi_files.read(tmp_path)

"""Models written for scvi-tools: it loads them, and they are the same function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal

from hub_client import errors, from_scvi, import_legacy
from hub_client.interop.export_scvi import export_scvi
from hub_client.models.model import Model
from tests import scvi_folders
from tests.scvi_models import SCANVI, SCVI, TOTALVI, scanvi_model, scvi_model, totalvi_model
from tests.simulated import manifest

pytestmark = pytest.mark.slow
EXAMPLES = [
    *((scvi_model, example) for example in SCVI),
    *((scanvi_model, example) for example in SCANVI),
    *((totalvi_model, example) for example in TOTALVI),
]
every = pytest.mark.parametrize(
    ("make", "example"), EXAMPLES, ids=[f"{make.__name__}: {name}" for make, name in EXAMPLES]
)


@every
def test_scvi_tools_loads_what_is_exported(make: Callable[[str], Any], example: str, tmp_path: Path) -> None:
    theirs = make(example)
    back = scvi_folders.loaded(theirs, export_scvi(from_scvi(theirs, name="exported"), tmp_path / "out"))
    assert_array_equal(scvi_folders.mean(back), scvi_folders.mean(theirs))
    assert back.registry_["setup_args"].get("layer") == theirs.registry_["setup_args"].get("layer")


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    model = from_scvi(scvi_model("all keys, encoded"), name="exported")
    again = import_legacy(export_scvi(model, tmp_path / "out"), name="exported")
    ours, theirs = again.network.tensors(), model.network.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    left, right = (one.manifest.model_dump() for one in (again, model))
    assert {name for name in left if left[name] != right[name]} == {"imported_from", "training"}


def test_an_export_is_whole_or_not_at_all(tmp_path: Path) -> None:
    model = from_scvi(scvi_model("plain"), name="exported")
    place = tmp_path / "out"
    place.mkdir()
    (place / "mine").touch()
    with pytest.raises(errors.InvalidInput, match="exists already"):
        export_scvi(model, place)
    export_scvi(model, place, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in place.iterdir()] == ["model.pt"]


def test_other_architectures_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(errors.Unsupported, match="trvae is no model of scvi-tools"):
        export_scvi(Model.build(manifest("trvae")), tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""What ``archzoo map`` writes: tried before training, and saved elsewhere where it cannot be written after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import hub_client
from hub_client import errors
from hub_client.cli.map_outputs import Outputs
from hub_client.manifest import Plan
from hub_client.models.model import Model
from tests import simulated


@pytest.fixture(scope="module")
def mapping() -> Any:
    model = Model.build(simulated.manifest())
    reference = simulated.cells_for(model.manifest)
    hub_client.train(model, reference, plan=Plan(epochs=2, pretraining_epochs=1), progress=False, accelerator="cpu")
    query = simulated.counts(simulated.QUERY, cells=30)
    return hub_client.map_query(query, model, plan=Plan(epochs=1, pretraining_epochs=0), progress=False)


def outputs(folder: Path, *, name: str = "mapped.h5ad", model: Path | None = None) -> Outputs:
    return Outputs(folder / name, model, force=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mapped.h5ad", "mapped.zarr", "MAPPED.H5AD"])
def test_nullable_text_is_written(tmp_path: Path, mapping: Any, name: str) -> None:
    mapping.adata.obs["note"] = pd.array(["a", None] * 15, dtype="string")
    place = outputs(tmp_path, name=name)
    place.check()
    place.rehearse(mapping.adata)
    assert list(tmp_path.iterdir()) == []
    place.write(mapping)
    read = anndata.read_zarr if name.endswith("zarr") else anndata.read_h5ad
    assert read(tmp_path / name).obs["note"].isna().tolist() == [False, True] * 15
    assert place.receipt.exists()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("uns\\['thing'\\]", lambda query: query.uns.update(thing=object())),
        ("obs\\['mixed'\\]", lambda query: query.obs.insert(0, "mixed", pd.Series([1, "a", b"b"], query.obs_names))),
        ("uns\\['deep/thing'\\]", lambda query: query.uns.update(deep={"thing": object()})),
    ],
)
def test_what_the_format_cannot_hold_is_named_before_training(tmp_path: Path, part: str, change: Any) -> None:
    query = AnnData(np.ones((3, 2), np.float32))
    change(query)
    with pytest.raises(errors.InvalidInput, match=f"{part} cannot be written as .h5ad.*nothing was trained"):
        outputs(tmp_path).rehearse(query)
    assert list(tmp_path.iterdir()) == []


def test_the_model_and_the_labels_are_saved_beside_what_cannot_be_written(tmp_path: Path, mapping: Any) -> None:
    place = outputs(tmp_path)
    place.cells.mkdir()
    (place.cells / "in the way").touch()
    place.receipt.mkdir()
    with pytest.raises(errors.TransportError, match=r"Nothing is lost: labels.csv, latent.npy, model, receipt.json"):
        place.write(mapping)
    (saved,) = tmp_path.glob("mapped.rescued-*")
    labels = pd.read_csv(saved / "labels.csv", index_col=0)
    assert list(labels["cell_type_pred"]) == list(mapping.predictions.levels["cell_type"].labels)
    assert np.array_equal(np.load(saved / "latent.npy"), mapping.predictions.latent)
    assert Model.load(saved / "model").vocabulary.conditions == mapping.model.vocabulary.conditions


def test_they_are_saved_elsewhere_if_the_place_is_gone(tmp_path: Path, mapping: Any) -> None:
    place = outputs(tmp_path / "gone", model=tmp_path / "model")
    with pytest.raises(errors.TransportError, match=r"Nothing is lost.* and the model in .*model") as caught:
        place.write(mapping)
    saved = Path(str(caught.value).split("saved in ")[1].split(",")[0])
    assert (saved / "labels.csv").exists() and not (saved / "model").exists()
    assert (tmp_path / "model" / "manifest.json").exists()
    shutil.rmtree(saved)

"""Folders of scvi-tools become releases with the same function, whatever their version; what is lost is named."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from hub_client import align, embed, errors, from_scvi, import_legacy
from hub_client.interop.inspection import inspect
from hub_client.labels.predict import predict
from hub_client.manifest.configs import ScANVIConfig, TotalVIConfig
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.model import Model
from tests import scvi_folders
from tests.scvi_models import (
    SCANVI,
    SCVI,
    TOTALVI,
    cells,
    mudata_cells,
    scanvi_model,
    scvi_model,
    totalvi_model,
    totalvi_of_mudata,
    undisturbed,
)

pytestmark = pytest.mark.slow
EXAMPLES = [
    *((scvi_model, example) for example in SCVI),
    *((scanvi_model, example) for example in SCANVI),
    *((totalvi_model, example) for example in TOTALVI),
]
every = pytest.mark.parametrize(
    ("make", "example"), EXAMPLES, ids=[f"{make.__name__}: {name}" for make, name in EXAMPLES]
)
OLD = [
    (scvi_model, "plain"),
    (scvi_model, "no batch"),
    (scvi_model, "gene-batch, libraries"),
    (scanvi_model, "plain"),
    (scanvi_model, "logistic"),
    (totalvi_model, "plain"),
    (totalvi_model, "libraries"),
]
"""Models whose parameters scvi-tools had before 0.15."""
before_0_15 = pytest.mark.parametrize(("make", "example"), OLD, ids=[f"{make.__name__}: {name}" for make, name in OLD])


def assert_same_model(found: Model, expected: Model, *, but: set[str]) -> None:
    ours, theirs = found.network.tensors(), expected.network.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    left, right = (model.manifest.model_dump() for model in (found, expected))
    assert {name for name in left if left[name] != right[name]} == but


def changed(model: Any, **attributes: Any) -> bytes:
    """Return ``model.pt`` of a model with other attributes."""
    told = scvi_folders.content(model)
    return scvi_folders.zipped(told | {"attr_dict": told["attr_dict"] | attributes})


def of_version(model: Any, version: str, folder: Path, **more: Any) -> Path:
    """Write ``model.pt`` of a model as another version of scvi-tools would have."""
    folder.mkdir(exist_ok=True)
    registry = deepcopy(model.registry_) | {"scvi_version": version}
    (folder / "model.pt").write_bytes(changed(model, registry_=registry, **more))
    return folder


# --- there -----------------------------------------------------------------------------------------------------------


@every
def test_a_folder_is_the_model_that_was_saved(make: Callable[[str], Any], example: str, tmp_path: Path) -> None:
    theirs = make(example)
    found = import_legacy(scvi_folders.saved(theirs, tmp_path / "saved"))
    assert_same_model(found, from_scvi(theirs, name="saved"), but={"imported_from"})
    again = Model.load(found.save(tmp_path / "release"))
    assert_allclose(embed(again, align(cells(), again), device="cpu"), scvi_folders.mean(theirs), rtol=1e-4, atol=1e-5)


@before_0_15
def test_a_folder_from_before_0_15(make: Callable[[str], Any], example: str, tmp_path: Path) -> None:
    theirs = make(example)
    folder = scvi_folders.saved_old(theirs, tmp_path / "saved", history_=None)
    found = import_legacy(folder)
    aged = {"scanvi": {"architecture"}, "totalvi": {"architecture"}}.get(found.manifest.architecture.kind, set())
    assert_same_model(found, from_scvi(theirs, name="saved"), but={"imported_from", "training", *aged})
    assert found.manifest.training.versions == {"scvi-tools": scvi_folders.OLD_VERSION}
    assert found.manifest.training.epochs == 0
    assert_allclose(embed(found, align(cells(), found), device="cpu"), scvi_folders.mean(theirs), rtol=1e-4, atol=1e-5)


def test_parameters_as_the_first_versions_kept_them(tmp_path: Path) -> None:
    """In one level, with the keyword arguments as a dictionary, and whether there was a GPU."""
    theirs = scvi_model("gene-batch, libraries")
    kept = theirs.init_params_["non_kwargs"] | {"model_kwargs": {"encode_covariates": False}, "use_cuda": True}
    folder = scvi_folders.saved_old(theirs, tmp_path / "saved", init_params_=kept)
    found = import_legacy(folder)
    assert found.manifest.architecture == from_scvi(theirs, name="saved").manifest.architecture


def test_parameters_that_are_gone_say_nothing(tmp_path: Path) -> None:
    theirs = scanvi_model("plain")
    kept = deepcopy(theirs.init_params_)
    kept["non_kwargs"] |= {"unlabeled_category": "T", "pretrained_model": None, "use_gpu": True}
    del kept["non_kwargs"]["use_observed_lib_size"]
    found = import_legacy(of_version(theirs, "0.15.2", tmp_path / "saved", init_params_=kept))
    assert isinstance(found.manifest.architecture, ScANVIConfig)
    assert found.manifest.architecture.use_observed_library_size
    assert found.manifest.labels[0].unlabelled == "T"


@pytest.mark.parametrize(("version", "logits"), [("0.20.3", False), ("1.0.4", False), ("1.1.0", True), ("1.4.2", True)])
def test_what_a_scanvis_classifier_ends_in(version: str, logits: bool, tmp_path: Path) -> None:
    found = import_legacy(of_version(scanvi_model("plain"), version, tmp_path / "saved"))
    assert isinstance(found.manifest.architecture, ScANVIConfig)
    assert found.manifest.architecture.classifier_logits is logits


@pytest.mark.parametrize(("version", "activation"), [("0.20.3", "exp"), ("1.1.6", "exp"), ("1.2.0", "softplus")])
def test_what_makes_a_background_positive(version: str, activation: str, tmp_path: Path) -> None:
    found = import_legacy(of_version(totalvi_model("plain"), version, tmp_path / "saved"))
    assert isinstance(found.manifest.architecture, TotalVIConfig)
    assert found.manifest.architecture.background_activation == activation


def test_a_totalvi_from_before_efficiencies(tmp_path: Path) -> None:
    """They came with 1.2 and are factors' logarithms."""
    theirs = totalvi_model("plain")
    told = scvi_folders.content(theirs)
    del told["model_state_dict"]["log_per_batch_efficiency"]
    told["attr_dict"] = told["attr_dict"] | {"registry_": theirs.registry_ | {"scvi_version": "1.1.6"}}
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(told))
    found = import_legacy(tmp_path, name="older")
    assert_array_equal(found.network.tensors()["log_per_batch_efficiency"], 0)


def test_a_registry_that_does_not_name_genes(tmp_path: Path) -> None:
    theirs = scvi_model("plain")
    registry = deepcopy(theirs.registry_)
    del registry["field_registries"]["X"]["state_registry"]["column_names"]
    (tmp_path / "model.pt").write_bytes(changed(theirs, registry_=registry))
    assert import_legacy(tmp_path, name="older").manifest.genes.names == tuple(theirs.adata.var_names)


@pytest.mark.parametrize("flat", [False, True])
def test_a_totalvi_of_a_mudata(flat: bool, tmp_path: Path) -> None:
    """Before 1.1, the genes of all modalities were in one list."""
    theirs = totalvi_of_mudata()
    with undisturbed():
        theirs.save(str(tmp_path / "saved"), legacy_mudata_format=flat)
    found = import_legacy(tmp_path / "saved")
    expected = from_scvi(theirs, name="saved")
    assert_same_model(found, expected, but={"imported_from"})
    assert_allclose(
        embed(found, align(mudata_cells(), found), device="cpu"), scvi_folders.mean(theirs), rtol=1e-4, atol=1e-5
    )
    assert found.manifest.imported_from is not None
    assert ("the names of modalities: rna, prot" in found.manifest.imported_from.lost) is not flat


def test_what_is_told_of_the_origin(tmp_path: Path) -> None:
    folder = scvi_folders.saved(scvi_model("plain"), tmp_path / "A saved model", prefix="lung_", cells=True)
    found = import_legacy(folder, prefix="lung_", kind="scvi", organism="human").manifest
    origin = found.imported_from
    assert found.name == "a-saved-model"
    assert found.organism is not None
    assert origin is not None
    assert origin.format == "scvi-tools"
    assert [file.path for file in origin.files] == ["lung_model.pt", "lung_adata.h5ad"]
    assert "history_: the losses of each epoch" in origin.lost
    assert "lung_adata.h5ad: its cells" in origin.lost


# --- minified cells --------------------------------------------------------------------


@pytest.fixture(scope="module")
def minified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scvi_folders.repository(tmp_path_factory.mktemp("hub") / "lung")


def test_minified_cells_become_the_atlas(minified: Path, tmp_path: Path) -> None:
    model = Model.load(import_legacy(minified).save(tmp_path / "release"))
    assert model.atlas is not None
    assert model.atlas.n_obs == 240
    assert set(model.atlas.obs["cell_type"].dropna()) == {"B", "Mono", "NK"}
    latent = anndata.read_h5ad(minified / "adata.h5ad").obsm["scanvi_latent_qzm"]
    assert_allclose(np.sort(model.atlas.obsm["X_latent"], axis=0), np.sort(latent, axis=0), rtol=1e-5)
    assert_allclose(
        np.sort(embed(model, align(cells(), model), device="cpu"), axis=0),
        np.sort(latent, axis=0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert predict(model, align(cells(), model), device="cpu").levels["cell_type"].labels.shape == (240,)
    assert model.manifest.imported_from is not None
    assert "adata.h5ad: its cells, but for where they lie in the latent" in model.manifest.imported_from.lost


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda adata: adata.obsm.pop("scanvi_latent_qzm"), "has no scanvi_latent_qzm"),
        (lambda adata: adata.obs.pop("batch"), "has no batch"),
        (lambda adata: adata.obs.__setitem__("batch", "elsewhere"), "names elsewhere"),
        (lambda adata: adata.obsm["scanvi_latent_qzm"].fill(np.nan), "no finite latent"),
    ],
)
def test_cells_that_are_not_the_models(
    change: Callable[[anndata.AnnData], object], match: str, minified: Path, tmp_path: Path
) -> None:
    folder = scvi_folders.edited(minified, tmp_path / "lung")
    adata = anndata.read_h5ad(folder / "adata.h5ad")
    change(adata)
    adata.write(folder / "adata.h5ad")
    with pytest.raises(errors.IntegrityError, match=match) as refused:
        import_legacy(folder)
    assert refused.value.file == "adata.h5ad"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.7.1", "", "newest"])
def test_versions_that_compute_otherwise(version: str, tmp_path: Path) -> None:
    with pytest.raises(errors.Unsupported, match=r"those from 0\.8 on"):
        import_legacy(of_version(scvi_model("plain"), version, tmp_path / "saved"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("px_r"), r"px_r is None, not \(60,\)"),
        (lambda state: state.update(more=torch.ones(2)), "more is no tensor of it"),
        (lambda state: state.update(px_r=torch.ones(3)), r"px_r is \(3,\), not \(60,\)"),
        (lambda state: state.update(px_r=torch.full((60,), np.nan)), "px_r holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Callable[[Any], object], match: str, tmp_path: Path) -> None:
    told = scvi_folders.content(scvi_model("plain"))
    told["model_state_dict"] = dict(told["model_state_dict"])
    change(told["model_state_dict"])
    (tmp_path / "model.pt").write_bytes(scvi_folders.zipped(told))
    with pytest.raises(errors.IntegrityError, match=rf"from scvi-tools 1\.4.*{match}.*let scvi-tools 1\.4 load"):
        import_legacy(tmp_path)


@pytest.mark.parametrize("claimed", [{"n_hidden": 1 << 40}, {"n_layers": 1 << 40}, {"n_latent": 1 << 40}])
def test_a_claimed_size_costs_nothing(claimed: dict[str, int], tmp_path: Path) -> None:
    theirs = scvi_model("plain")
    kept = deepcopy(theirs.init_params_)
    kept["non_kwargs"] |= claimed
    with pytest.raises(errors.IntegrityError, match="claims more than it holds"):
        import_legacy(of_version(theirs, "1.4.2", tmp_path / "saved", init_params_=kept))


@pytest.mark.parametrize(
    "attributes",
    [
        {"init_params_": None},
        {"init_params_": {"non_kwargs": 3, "kwargs": {}}},
        {"registry_": {"model_name": "SCVI"}},
        {"registry_": {"model_name": "SCVI", "setup_args": 3, "field_registries": {}}},
        {"history_": {"elbo": 3}},
    ],
)
def test_attributes_that_say_nothing(attributes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(changed(scvi_model("plain"), **attributes))
    with pytest.raises(errors.HubClientError, match=r"model\.pt|0\.8"):
        import_legacy(tmp_path)


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    folder = scvi_folders.saved(scvi_model("plain"), tmp_path / "saved")
    with pytest.raises(errors.Unsupported, match="describes a model of scvi, not of scanvi"):
        import_legacy(folder, kind="scanvi")
    with pytest.raises(errors.InvalidInput, match="reference is for"):
        import_legacy(folder, reference=folder)


# --- looking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_what_is_inside(old: bool, tmp_path: Path) -> None:
    write = scvi_folders.saved_old if old else scvi_folders.saved
    found = inspect(write(scanvi_model("plain"), tmp_path / "saved"))
    assert found.kind == "scanvi"
    assert found.conditions == {"batch": ["b0", "b1", "b2"]}
    assert found.labels == {"cell_type": ["B", "Mono", "NK", "T"]}
    assert found.settings["n_hidden"] == 16
    assert found.settings["scvi-tools"] == (scvi_folders.OLD_VERSION if old else scvi_tools().__version__)
    assert len(found.contents.genes) == 60
    assert found.contents.shapes is not None
    assert found.contents.shapes["px_r"] == (60,)
    assert found.refused == ()


def test_what_is_inside_of_a_kind_that_is_not_imported(tmp_path: Path) -> None:
    theirs = scvi_model("plain")
    registry = theirs.registry_ | {"model_name": "PEAKVI"}
    (tmp_path / "model.pt").write_bytes(changed(theirs, registry_=registry))
    found = inspect(tmp_path)
    assert found.kind is None
    assert found.conditions == {"batch": ["b0", "b1", "b2"]}

"""Models of scvi-tools become ours and scvi-tools' again, and stay the same function."""

from __future__ import annotations

import inspect
from copy import deepcopy
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hub_client import align, embed, errors, from_scvi
from hub_client.interop.scvi_registry import manifest_of
from hub_client.labels.predict import predict
from hub_client.manifest.configs import ScVIConfig, TotalVIConfig
from hub_client.models.architectures.scvi.modules import check_version, scvi_tools
from hub_client.models.architectures.scvi.tables import KINDS
from hub_client.models.model import Model
from tests.scvi_models import (
    SCANVI,
    SCVI,
    TOTALVI,
    cells,
    fitted,
    mudata_cells,
    scanvi_model,
    scvi_model,
    totalvi_model,
    totalvi_of_mudata,
    undisturbed,
)
from tests.simulated import PROTEINS, manifest

pytestmark = pytest.mark.slow
every = pytest.mark.parametrize("example", SCVI)
every_totalvi = pytest.mark.parametrize("example", TOTALVI)
every_scanvi = pytest.mark.parametrize("example", SCANVI)


def seeded(function: Any, **options: Any) -> NDArray[Any]:
    """Return what a method of scvi-tools returns when its draws are seeded."""
    with undisturbed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        before = np.random.get_state()
        np.random.seed(3)
        found = function(**options)
        np.random.set_state(before)
    return np.asarray(found)


def seeded_frames(function: Any, **options: Any) -> list[NDArray[Any]]:
    """Return the one or two frames that a method of scvi-tools returns when its draws are seeded."""
    with undisturbed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = function(**options)
    return [np.asarray(frame) for frame in (found if isinstance(found, tuple) else (found,))]


def same_outputs(left: Any, right: Any) -> None:
    """Assert that two models of scvi-tools say the same of their own cells, to the bit.

    scvi-tools cannot draw twice where batches are embedded.
    """
    samples = 1 if left.module.batch_representation == "embedding" else 2
    assert_array_equal(seeded(left.get_latent_representation), seeded(right.get_latent_representation))
    for sized in (1, "latent"):
        expression = [
            seeded(m.get_normalized_expression, library_size=sized, n_samples=samples, return_numpy=True)
            for m in (left, right)
        ]
        assert_array_equal(*expression)
    assert_array_equal(*(seeded(m.get_reconstruction_error)[()]["reconstruction_loss"] for m in (left, right)))


@every
def test_there_and_back_is_the_same_function(example: str, tmp_path: Path) -> None:
    theirs = scvi_model(example)
    model = Model.load(from_scvi(theirs, name="simulated").save(tmp_path / "release"))
    labels = {level.key: level.key for level in model.manifest.labels}
    back = model.to_scvi(cells(), labels=labels)
    state = theirs.module.state_dict()
    assert state.keys() == back.module.state_dict().keys()
    for name, tensor in back.module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name
    same_outputs(theirs, back)


@every_scanvi
def test_a_scanvi_there_and_back_is_the_same_function(example: str, tmp_path: Path) -> None:
    theirs = scanvi_model(example)
    model = Model.load(from_scvi(theirs, name="simulated").save(tmp_path / "release"))
    assert (model.manifest.labels[0].categories, model.manifest.labels[0].unlabelled) == (("B", "Mono", "NK"), "T")
    back = model.to_scvi(cells(), labels={"cell_type": "cell_type"})
    state = theirs.module.state_dict()
    assert state.keys() == back.module.state_dict().keys()
    same_outputs(theirs, back)
    pd.testing.assert_frame_equal(theirs.predict(soft=True), back.predict(soft=True))
    assert_array_equal(theirs.predict(), back.predict())


@every_scanvi
def test_our_labels_are_theirs(example: str) -> None:
    theirs = scanvi_model(example)
    model = from_scvi(theirs, name="simulated")
    found = predict(model, align(cells(), model), device="cpu").levels["cell_type"]
    expected = theirs.predict(soft=True)
    assert_allclose(found.probabilities.to_numpy(), expected.to_numpy(), rtol=1e-4, atol=1e-5)
    assert_allclose(found.uncertainty, 1 - expected.to_numpy().max(axis=1), rtol=1e-3, atol=1e-5)
    assert (found.labels == theirs.predict()).mean() > 0.99


@every_totalvi
def test_a_totalvi_there_and_back_is_the_same_function(example: str, tmp_path: Path) -> None:
    theirs = totalvi_model(example)
    model = Model.load(from_scvi(theirs, name="simulated").save(tmp_path / "release"))
    back = model.to_scvi(cells())
    state = theirs.module.state_dict()
    assert state.keys() == back.module.state_dict().keys()
    assert_array_equal(seeded(theirs.get_latent_representation), seeded(back.get_latent_representation))
    for method in ("get_normalized_expression", "get_protein_foreground_probability"):
        ours, expected = (seeded_frames(getattr(m, method), n_samples=2) for m in (back, theirs))
        for left, right in zip(ours, expected, strict=True):
            assert_array_equal(left, right)
    masks = [m.module.protein_batch_mask for m in (theirs, back)]
    assert (masks[0] is None) == (masks[1] is None)
    assert masks[0] is None or all((masks[0][code] == masks[1][code]).all() for code in masks[0])


@every_totalvi
def test_a_totalvis_latent_and_loss_are_theirs(example: str) -> None:
    theirs = totalvi_model(example)
    model = from_scvi(theirs, name="simulated")
    with undisturbed():
        mean, _ = theirs.get_latent_representation(return_dist=True)
    query = align(cells(), model)
    assert_allclose(embed(model, query, device="cpu"), mean, rtol=1e-4, atol=1e-5)
    batch = model.network.batches(query).take(torch.arange(100))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = model.network(batch, kl_weight=1.0)["loss"]
        torch.manual_seed(0)
        expected = theirs.module(model.network.inputs(batch), loss_kwargs={"kl_weight": 1.0})[2].loss
    assert_allclose(ours.item(), expected.item(), rtol=1e-5)


def test_a_totalvi_of_a_mudata() -> None:
    theirs = totalvi_of_mudata()
    model = from_scvi(theirs, name="simulated")
    assert model.manifest.proteins is not None
    assert (model.manifest.proteins.panel, model.manifest.proteins.source) == (PROTEINS, "prot")
    assert model.manifest.proteins.measured == {"b2": tuple(model.manifest.proteins.panel[:11])}
    with undisturbed():
        mean, _ = theirs.get_latent_representation(return_dist=True)
    query = align(mudata_cells(), model)
    assert query.report.proteins is not None
    assert query.report.proteins.source == "prot"
    assert_allclose(embed(model, query, device="cpu"), mean, rtol=1e-4, atol=1e-5)


def test_a_totalvi_without_cells() -> None:
    theirs = totalvi_model("plain")
    back = from_scvi(theirs, name="simulated").to_scvi()
    given = cells()
    found = seeded(back.get_latent_representation, adata=given)
    assert_allclose(found, seeded(theirs.get_latent_representation), rtol=1e-4, atol=1e-5)


@every
def test_our_latent_is_theirs(example: str) -> None:
    theirs = scvi_model(example)
    model = from_scvi(theirs, name="simulated")
    with undisturbed():
        mean, _ = theirs.get_latent_representation(return_dist=True)
    assert_allclose(embed(model, align(cells(), model), device="cpu"), mean, rtol=1e-4, atol=1e-5)


@every
def test_our_loss_is_theirs(example: str) -> None:
    """The same minibatch under the same draws, to the single precision that scvi-tools computes with."""
    theirs = scvi_model(example)
    network = from_scvi(theirs, name="simulated").network
    model = from_scvi(theirs, name="simulated")
    labels = {level.key: level.key for level in model.manifest.labels}
    batch = network.batches(align(cells(), model, labels=labels)).take(torch.arange(100))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = network(batch, kl_weight=0.5)["loss"]
        torch.manual_seed(0)
        expected = theirs.module(network.inputs(batch), loss_kwargs={"kl_weight": 0.5})[2].loss
    assert_allclose(ours.item(), expected.item(), rtol=1e-5)


def test_the_registry_survives_without_cells() -> None:
    theirs = scvi_model("all keys, encoded")
    back = from_scvi(theirs, name="simulated").to_scvi()
    for key in ("batch", "labels"):
        ours, expected = (
            m.registry_["field_registries"][key]["state_registry"]["categorical_mapping"] for m in (back, theirs)
        )
        assert_array_equal(ours, expected)
    with undisturbed():
        given = cells()
        given.layers.clear()
        found = back.get_latent_representation(given)
    assert_allclose(found, theirs.get_latent_representation(), rtol=1e-4, atol=1e-5)


def test_what_the_manifest_says() -> None:
    found = from_scvi(scvi_model("all keys, encoded"), name="simulated").manifest
    assert [(c.key, c.categories) for c in found.conditions] == [("batch", ("b0", "b1", "b2"))]
    assert [c.key for c in found.covariates.categorical] == ["tech", "cell_class"]
    assert found.covariates.continuous == ("age",)
    assert (found.input.size_factor, found.input.layer) == ("depth", "counts")
    assert found.labels[0].categories == ("B", "Mono", "NK", "T")
    assert found.training.epochs == 2
    assert found.training.versions == {"scvi-tools": scvi_tools().__version__}


def test_the_callers_data_and_model_are_left_alone() -> None:
    theirs, adata = scvi_model("plain"), cells()
    before, obs = adata.copy(), adata.obs.copy()
    state = {name: tensor.clone() for name, tensor in theirs.module.state_dict().items()}
    model = from_scvi(theirs, name="simulated")
    model.to_scvi(adata)
    pd.testing.assert_frame_equal(adata.obs, obs)
    assert not adata.uns
    assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.module.state_dict().items())


def test_unknown_batches_are_named() -> None:
    model = from_scvi(scvi_model("plain"), name="simulated")
    with pytest.raises(errors.VocabularyError, match="q0"):
        model.to_scvi(cells(batches=("q0",)))


def test_a_model_that_came_back_goes_on_training() -> None:
    back = from_scvi(scvi_model("all keys, encoded"), name="simulated").to_scvi(
        cells(), labels={"cell_type": "cell_type"}
    )
    with undisturbed():
        assert np.isfinite(fitted(back).get_latent_representation()).all()


def test_minified_data_become_the_atlas() -> None:
    with undisturbed(), torch.random.fork_rng(devices=[]):
        adata = cells()
        scvi_tools().settings.seed = 0
        scvi_tools().model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
        theirs = fitted(scvi_tools().model.SCVI(adata, n_hidden=16, n_latent=6))
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = theirs.get_latent_representation(return_dist=True)
        theirs.minify_adata()
    model = from_scvi(theirs, name="simulated")
    assert model.atlas is not None
    assert model.atlas.n_obs == adata.n_obs
    found = predict(model, align(cells(), model), device="cpu").levels["cell_type"]
    assert (found.labels == cells().obs["cell_type"]).mean() > 0.5


@pytest.mark.parametrize("installed", ["1.3.3", "1.5.0", "2.0"])
def test_versions_that_are_not_known_are_refused_by_name(installed: str) -> None:
    with pytest.raises(errors.Unsupported, match=f"scvi-tools {installed}.*pip install"):
        check_version(installed)


def test_what_is_no_trained_model_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="takes a trained model"):
        from_scvi(cells(), name="simulated")
    with undisturbed():
        adata = cells()
        scvi_tools().model.SCVI.setup_anndata(adata)
        untrained = scvi_tools().model.SCVI(adata)
        scvi_tools().model.LinearSCVI.setup_anndata(adata)
        linear = scvi_tools().model.LinearSCVI(adata)
    with pytest.raises(errors.InvalidInput, match="not trained"):
        from_scvi(untrained, name="simulated")
    with pytest.raises(errors.Unsupported, match="LinearSCVI"):
        from_scvi(linear, name="simulated")


def test_parameters_that_a_manifest_cannot_say_are_refused_by_name() -> None:
    with undisturbed():
        adata = cells()
        scvi_tools().model.SCVI.setup_anndata(adata)
        model = scvi_tools().model.SCVI(adata, var_activation=torch.nn.functional.softplus)
    model.is_trained_ = True
    with pytest.raises(errors.Unsupported, match="var_activation"):
        from_scvi(model, name="simulated")


def test_missing_categories_are_refused_by_name() -> None:
    theirs = scvi_model("plain")
    registry = deepcopy(theirs.registry_)
    registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"][2] = float("nan")
    with pytest.raises(errors.VocabularyError, match="NaN"):
        manifest_of(registry, theirs.init_params_, kind="scvi", name="simulated")


def test_other_architectures_are_no_models_of_scvi_tools() -> None:
    with pytest.raises(errors.Unsupported, match="trvae is no model of scvi-tools"):
        Model.build(manifest("trvae")).to_scvi()


def test_defaults_are_those_of_scvi_tools() -> None:
    for config in (ScVIConfig(), TotalVIConfig()):
        kind = KINDS[config.kind]
        module = inspect.signature(getattr(scvi_tools().module, kind.module)).parameters
        for parameter, field in kind.parameters.items():
            assert module[parameter].default == getattr(config, field), parameter


def test_the_query_is_read_as_anndata() -> None:
    assert isinstance(from_scvi(scvi_model("plain"), name="simulated").to_scvi().adata, anndata.AnnData)

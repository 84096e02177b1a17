"""scArches' TRVAE class; its signatures are in test_compat_signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.compat import TRVAE, scPoli
from tests.golden.recorded import Recording, anndata_of

pytestmark = pytest.mark.slow
FAST: dict[str, Any] = {"n_epochs": 4, "monitor": False}


@pytest.fixture(scope="module")
def reference_cells() -> AnnData:
    return anndata_of("ref")


@pytest.fixture(scope="module")
def query_cells() -> AnnData:
    return anndata_of("query")


@pytest.fixture(scope="module")
def reference(reference_cells: AnnData) -> TRVAE:
    model = TRVAE(reference_cells, condition_key="batch", hidden_layer_sizes=[32, 16], latent_dim=6)
    model.train(n_epochs=10, lr=0.01, eps=1e-8, weight_decay=0.0, monitor=False)
    return model


def mean_of(model: TRVAE, x: Any = None, c: Any = None) -> NDArray[np.float32]:
    found = model.get_latent(x, c, mean=True)
    assert isinstance(found, np.ndarray)
    return found


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trvae_nb", "trvae_zinb_mmdy_bn"])
def test_the_latent_is_scarches(name: str, reference_cells: AnnData) -> None:
    """From an AnnData with its genes in another order, and from arrays in the model's."""
    recording = Recording(name)
    model = TRVAE._around(recording.model(), reference_cells)
    shuffled = reference_cells[:, ::-1].copy()
    x, c = reference_cells.X, reference_cells.obs["batch"].to_numpy()
    for given in ((), (shuffled,), (x, c), (x.toarray(), c)):
        assert_allclose(mean_of(model, *given), recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    mean, variance = model.get_latent(mean_var=True)
    assert_allclose(mean, recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    assert_allclose(variance, recording.outputs["latent_var"], rtol=0, atol=1e-5)


def test_the_latent_is_sampled_unless_the_mean_is_asked_for(reference: TRVAE) -> None:
    sample, (mean, variance) = reference.get_latent(), reference.get_latent(mean_var=True)
    assert_array_equal(sample, reference.get_latent())
    scaled = (sample - mean) / np.sqrt(variance)
    assert abs(float(scaled.mean())) < 0.1
    assert abs(float(scaled.std()) - 1) < 0.1
    assert_allclose(reference.get_latent(mean=True, mean_var=True), mean, atol=1e-6)


def test_y_is_the_decoders_first_layer(reference: TRVAE, reference_cells: AnnData) -> None:
    found = reference.get_y()
    assert found.shape == (reference_cells.n_obs, 16)
    assert (found >= 0).all()
    assert_array_equal(found, reference.get_y(reference_cells.X, reference_cells.obs["batch"]))
    elsewhere = np.full(reference_cells.n_obs, "b0")
    other = reference.get_y(c=elsewhere)
    mine = (reference_cells.obs["batch"] == "b0").to_numpy()
    assert_allclose(other[mine], found[mine], atol=1e-5)
    assert np.abs(other[~mine] - found[~mine]).max() > 1e-2


def test_training_fits(reference: TRVAE) -> None:
    assert reference.is_trained_
    assert reference.history is not None
    losses = reference.history.epochs["train_reconstruction"]
    assert losses.iloc[-1] < losses.iloc[0]
    plan = reference.model.manifest.training.plan
    assert plan is not None
    assert (plan.sampling, plan.keep_best, plan.validation_fraction) == ("stratified", True, pytest.approx(0.1))
    assert (plan.kl_weight, plan.kl_anneal_epochs, reference.model.manifest.training.seed) == (1.0, 0.0, 2020)


def test_every_argument_of_the_trainer(reference_cells: AnnData) -> None:
    model = TRVAE(reference_cells, condition_key="batch", hidden_layer_sizes=[8])
    model.train(
        n_epochs=2,
        batch_size=64,
        alpha_epoch_anneal=10,
        alpha_kl=0.5,
        alpha_iter_anneal=None,
        use_early_stopping=True,
        reload_best=False,
        early_stopping_kwargs={"early_stopping_metric": "val_unweighted_loss", "patience": 3, "reduce_lr": False},
        train_frac=0.8,
        use_stratified_sampling=False,
        weight_decay=0.01,
        clip_value=1.0,
        n_workers=4,
        seed=3,
        monitor=False,
        monitor_only_val=False,
    )
    plan = model.model.manifest.training.plan
    assert plan is not None
    assert (plan.kl_weight, plan.kl_anneal_epochs, plan.sampling, plan.keep_best) == (0.5, 10, "shuffle", False)
    assert (plan.gradient_clip, plan.weight_decay, model.model.manifest.training.seed) == (1.0, 0.01, 3)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "mse"])
@pytest.mark.parametrize("where", ["z", "y"])
def test_every_likelihood_trains(reference_cells: AnnData, likelihood: Any, where: Any) -> None:
    cells = reference_cells.copy()
    if likelihood == "mse":
        cells.X = csr_matrix(np.log1p(cells.X.toarray()), dtype=np.float32)
    model = TRVAE(
        cells,
        condition_key="batch",
        hidden_layer_sizes=[16],
        recon_loss=likelihood,
        mmd_on=where,
        mmd_boundary=1,
        beta=0.5,
        use_bn=True,
        use_ln=False,
    )
    model.train(n_epochs=6, lr=0.01, eps=1e-8, monitor=False)
    assert model.history is not None
    losses = model.history.epochs["train_reconstruction"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_no_condition_key(reference_cells: AnnData) -> None:
    model = TRVAE(reference_cells, hidden_layer_sizes=[8])
    model.train(**FAST)
    assert (model.condition_key_, model.conditions_) == (None, [])
    assert_array_equal(mean_of(model), mean_of(model, reference_cells.X))


def test_attributes(reference_cells: AnnData) -> None:
    model = TRVAE(reference_cells, "batch", ["b2", "b0", "b1"], (16, 8), mmd_boundary=2, beta=3, use_bn=True)
    said = {name: getattr(model, name) for name in Recording("trvae_nb").attributes}
    assert said == {
        "condition_key_": "batch",
        "conditions_": ["b2", "b0", "b1"],
        "hidden_layer_sizes_": [16, 8],
        "latent_dim_": 10,
        "dr_rate_": 0.05,
        "use_mmd_": True,
        "mmd_on_": "z",
        "mmd_boundary_": 2,
        "beta_": 3,
        "recon_loss_": "nb",
        "use_bn_": True,
        "use_ln_": False,
        "input_dim_": 200,
        "is_trained_": False,
    }


def test_an_obs_column_that_no_manifest_could_name(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.obs["batch no."] = cells.obs["batch"]
    model = TRVAE(cells, condition_key="batch no.", hidden_layer_sizes=[8])
    model.train(**FAST)
    assert model.condition_key_ == "batch no."
    assert [c.key for c in model.model.manifest.conditions] == ["batch_no_"]
    assert mean_of(model, cells).shape == (300, 10)


# --- saving ----------------------------------------------------------------------------------------------------------


def test_save_and_load(reference: TRVAE, reference_cells: AnnData, tmp_path: Path) -> None:
    reference.save(str(tmp_path / "model"), save_anndata=True)
    with pytest.raises(errors.InvalidInput):
        reference.save(str(tmp_path / "model"))
    reference.save(str(tmp_path / "model"), overwrite=True)
    again = TRVAE.load(str(tmp_path / "model"))
    assert again.is_trained_
    assert_array_equal(mean_of(again), mean_of(reference))


def test_a_model_trains_on_after_load(reference: TRVAE, reference_cells: AnnData, tmp_path: Path) -> None:
    reference.save(str(tmp_path / "model"))
    again = TRVAE.load(str(tmp_path / "model"))
    with pytest.raises(errors.InvalidInput, match="without its AnnData"):
        again.train(**FAST)
    again = TRVAE.load(str(tmp_path / "model"), adata=reference_cells, map_location="cpu")
    before = mean_of(again)
    again.train(**FAST)
    assert np.abs(mean_of(again) - before).max() > 1e-3


def test_another_kind_of_model_is_refused(reference_cells: AnnData, tmp_path: Path) -> None:
    scPoli(reference_cells, condition_keys="batch").save(str(tmp_path / "model"))
    with pytest.raises(errors.Unsupported, match="kind scpoli; TRVAE is for trvae"):
        TRVAE.load(str(tmp_path / "model"))


# --- surgery ---------------------------------------------------------------------------------------------------------


def test_a_query_leaves_the_reference_where_it_was(
    reference: TRVAE, reference_cells: AnnData, query_cells: AnnData, tmp_path: Path
) -> None:
    before = mean_of(reference, reference_cells)
    reference.save(str(tmp_path / "model"))
    for given in (reference, reference.model, str(tmp_path / "model")):
        model = TRVAE.load_query_data(query_cells, given)
        assert model.conditions_ == ["b0", "b1", "b2", "q0", "q1"]
        assert (model.dr_rate_, model.is_trained_) == (0.0, False)
        start = mean_of(model)
        model.train(**FAST, weight_decay=0.0)
        assert_array_equal(mean_of(model, reference_cells), before)
        assert np.abs(mean_of(model) - start).max() > 1e-4
    assert reference.conditions_ == ["b0", "b1", "b2"]


@pytest.mark.parametrize("options", [{"freeze": False}, {"freeze_expression": False}])
def test_thawing_moves_the_reference(
    reference: TRVAE, reference_cells: AnnData, query_cells: AnnData, options: dict[str, bool]
) -> None:
    model = TRVAE.load_query_data(query_cells, reference, **options)
    assert model.dr_rate_ == 0.0
    before, old = mean_of(model, reference_cells), model.model.tensors()
    model.train(**FAST)
    assert np.abs(mean_of(model, reference_cells) - before).max() > 1e-4
    last = "decoder.mean.weight"
    moved = not np.array_equal(model.model.tensors()[last], old[last])
    assert moved == ("freeze" in options)


def test_dropout_can_be_kept_or_changed(reference: TRVAE, query_cells: AnnData) -> None:
    losses = []
    for options in ({}, {"remove_dropout": False}, {"dr_rate": 0.3}):
        model = TRVAE.load_query_data(query_cells, reference, **options)
        losses.append(model.dr_rate_)
        model.train(**FAST)
        assert model.history is not None
        losses.append(model.history.epochs["train_reconstruction"].iloc[0])
    assert losses[::2] == [0.0, 0.05, 0.3]
    assert losses[1] < losses[3] < losses[5]


def test_the_discrepancy_can_be_changed(reference: TRVAE, query_cells: AnnData) -> None:
    model = TRVAE.load_query_data(query_cells, reference, use_mmd=True, mmd_on="y", mmd_boundary=3, beta=2)
    assert (model.use_mmd_, model.mmd_on_, model.mmd_boundary_, model.beta_) == (True, "y", 3, 2)
    assert (reference.mmd_on_, reference.beta_) == ("z", 1)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused_by_name(
    reference: TRVAE, reference_cells: AnnData, query_cells: AnnData
) -> None:
    with pytest.raises(errors.Unsupported, match="bernoulli"):
        TRVAE(reference_cells, recon_loss="bernoulli")  # type: ignore[arg-type]
    with pytest.raises(errors.ManifestError, match="mmd_on"):
        TRVAE(reference_cells, mmd_on="x")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="clustering, learning_rate"):
        reference.train(learning_rate=1, clustering="leiden")
    with pytest.raises(errors.Unsupported, match="cannot change latent_dim"):
        TRVAE.load_query_data(query_cells, reference, latent_dim=3)
    with pytest.raises(errors.VocabularyError, match="no column 'donor'"):
        TRVAE(reference_cells, condition_key="donor")
    with pytest.raises(errors.VocabularyError, match="q0, q1"):
        reference.get_latent(query_cells)


def test_arrays_that_do_not_fit_are_refused(reference: TRVAE, reference_cells: AnnData) -> None:
    x = reference_cells.X
    with pytest.raises(errors.InvalidInput, match="pass c, the batch of each of its 300 cells"):
        reference.get_latent(x)
    with pytest.raises(errors.InvalidInput, match="c has 3 conditions for 300 cells"):
        reference.get_latent(x, ["b0", "b1", "b2"])
    with pytest.raises(errors.InvalidInput, match=r"shape \(300, 50\)"):
        reference.get_latent(x[:, :50], reference_cells.obs["batch"])


def test_the_callers_anndata_is_not_written_to(reference_cells: AnnData, tmp_path: Path) -> None:
    cells = reference_cells.copy()
    cells.obs["donor"] = np.resize(["one", "two"], cells.n_obs)
    before = cells.copy()
    model = TRVAE(cells, condition_key="batch", hidden_layer_sizes=[8])
    model.train(**FAST)
    model.get_y(cells, c=np.full(cells.n_obs, "b0"))
    model.save(str(tmp_path / "model"), save_anndata=True, compression="gzip")
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert (cells.X != before.X).nnz == 0
    assert not cells.uns
    assert not cells.obsm

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.compat import scPoli
from hub_client.models.model import Model
from tests.golden.recorded import anndata_of

pytestmark = pytest.mark.slow
FAST = {"n_epochs": 6, "pretraining_epochs": 4, "monitor": False}


@pytest.fixture(scope="module")
def reference_cells() -> AnnData:
    return anndata_of("ref")


@pytest.fixture(scope="module")
def query_cells() -> AnnData:
    return anndata_of("query")


@pytest.fixture(scope="module")
def reference(reference_cells: AnnData) -> scPoli:
    model = scPoli(
        reference_cells,
        condition_keys=["batch", "tech"],
        cell_type_keys=["cell_type", "cell_class"],
        embedding_dims=[5, 3],
        hidden_layer_sizes=[24],
    )
    model.train(n_epochs=60, pretraining_epochs=45, eps=1e-8, weight_decay=0, lr=0.01, monitor=False)
    return model


def test_a_reference_learns_its_labels(reference: scPoli, reference_cells: AnnData) -> None:
    found = reference.classify(reference_cells)
    assert set(found) == {"cell_type", "cell_class"}
    assert (found["cell_type"]["preds"] == reference_cells.obs["cell_type"]).mean() > 0.5
    assert found["cell_type"]["weighted_distances"].shape == (reference_cells.n_obs, 4)
    np.testing.assert_array_equal(found["cell_type"]["uncert"], found["cell_type"]["weighted_distances"].min(axis=1))


def test_classify_as_probabilities(reference: scPoli, reference_cells: AnnData) -> None:
    found = reference.classify(reference_cells, get_prob=True)["cell_type"]
    np.testing.assert_allclose(found["weighted_distances"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["uncert"], found["weighted_distances"].max(axis=1))
    assert (found["preds"] == reference.classify(reference_cells)["cell_type"]["preds"]).all()


def test_classify_scales_uncertainties(reference: scPoli, reference_cells: AnnData) -> None:
    unsure = reference.classify(reference_cells, scale_uncertainties=True)["cell_type"]["uncert"]
    assert unsure.min() == 0
    assert unsure.max() == pytest.approx(1)


def test_classify_by_another_norm(reference: scPoli, reference_cells: AnnData) -> None:
    means = reference.prototypes_labeled_["mean"][:4]
    latent = reference.get_latent(reference_cells, mean=True)
    expected = np.abs(latent[:, None] - means[None]).sum(axis=2)
    found = reference.classify(reference_cells, p=1)["cell_type"]["weighted_distances"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_latent_is_sampled_unless_the_mean_is_asked_for(reference: scPoli, reference_cells: AnnData) -> None:
    mean = reference.get_latent(reference_cells, mean=True)
    sample = reference.get_latent(reference_cells)
    assert mean.shape == sample.shape == (reference_cells.n_obs, 10)
    assert np.abs(mean - sample).max() > 0.01
    np.testing.assert_array_equal(sample, reference.get_latent(reference_cells))


def test_conditional_embeddings(reference: scPoli, reference_cells: AnnData) -> None:
    found = reference.get_conditional_embeddings()
    assert isinstance(found, dict)
    assert found["batch"].obs_names.tolist() == ["b0", "b1", "b2"]
    assert {key: table.shape for key, table in found.items()} == {"batch": (3, 5), "tech": (2, 3)}
    assert np.linalg.norm(found["batch"].X, axis=1).max() <= 1 + 1e-6


def test_conditional_embeddings_bring_metadata(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.obs["site"] = cells.obs["batch"].map({"b0": "here", "b1": "there", "b2": "there"})
    found = scPoli(cells, condition_keys="batch").get_conditional_embeddings()
    assert isinstance(found, AnnData)
    assert found.obs["site"].tolist() == ["here", "there", "there"]
    assert "tech" not in found.obs
    bare = scPoli(cells, condition_keys="batch", share_metadata=False).get_conditional_embeddings()
    assert isinstance(bare, AnnData)
    assert bare.obs.empty


def test_prototypes_info(reference: scPoli) -> None:
    labelled = reference.get_prototypes_info()
    assert labelled.shape == (6, 10)
    assert labelled.obs["cell_type"].tolist() == ["B", "Mono", "NK", "T", "lymph", "myelo"]
    assert labelled.obs["cell_type_pred"].tolist()[:4] == ["B", "Mono", "NK", "T"]
    assert set(labelled.obs["batch"]) == {"prototype-Set Labeled"}
    unlabelled = reference.get_prototypes_info("unlabeled")
    assert unlabelled.shape == (len(reference.prototypes_unlabeled_["mean"]), 10)
    with pytest.raises(errors.InvalidInput, match="'labeled' or 'unlabeled'"):
        reference.get_prototypes_info("both")  # type: ignore[arg-type]


def test_recon_loss_is_higher_under_a_foreign_condition(reference: scPoli, reference_cells: AnnData) -> None:
    own = reference.get_recon_loss(reference_cells)
    assert own == pytest.approx(reference.get_recon_loss(reference_cells, batch_size=7), rel=1e-6)
    elsewhere = reference.get_recon_loss(
        reference_cells, condition_encoders={"batch": dict.fromkeys(["b0", "b1", "b2"], 0)}
    )
    assert elsewhere > own


def test_recon_loss_refuses_encoders_that_disagree(reference: scPoli, reference_cells: AnnData) -> None:
    encoder = dict.fromkeys(reference.conditions_combined_, 0)
    with pytest.raises(errors.InvalidInput, match="agree"):
        reference.get_recon_loss(reference_cells, conditions_combined_encoder=encoder)
    truth = {name: code for code, name in enumerate(reference.conditions_combined_)}
    assert reference.get_recon_loss(reference_cells, conditions_combined_encoder=truth) > 0


def test_save_and_load(reference: scPoli, reference_cells: AnnData, tmp_path: Path) -> None:
    reference.save(str(tmp_path / "model"), save_anndata=True)
    with pytest.raises(errors.InvalidInput):
        reference.save(str(tmp_path / "model"))
    again = scPoli.load(str(tmp_path / "model"))
    assert again.is_trained_
    assert again.adata is not None
    latent = again.get_latent(reference_cells, mean=True)
    np.testing.assert_array_equal(latent, reference.get_latent(reference_cells, mean=True))
    assert (again.classify(reference_cells)["cell_type"]["preds"].shape) == (reference_cells.n_obs,)


def test_a_model_trains_on_after_load(reference: scPoli, reference_cells: AnnData, tmp_path: Path) -> None:
    reference.save(str(tmp_path / "model"))
    again = scPoli.load(str(tmp_path / "model"))
    with pytest.raises(errors.InvalidInput, match="without its AnnData"):
        again.train(**FAST)
    again = scPoli.load(str(tmp_path / "model"), adata=reference_cells)
    before = again.get_latent(reference_cells, mean=True)
    again.train(**FAST)
    assert np.abs(again.get_latent(reference_cells, mean=True) - before).max() > 1e-3


def test_an_unlabelled_query_leaves_the_reference_where_it_was(
    reference: scPoli, reference_cells: AnnData, query_cells: AnnData
) -> None:
    model, new = scPoli.load_query_data(query_cells, reference, labeled_indices=[], return_new_conditions=True)
    assert new == {"batch": ["q0", "q1"], "tech": []}
    before = reference.get_latent(reference_cells, mean=True)
    query_before = model.get_latent(query_cells, mean=True)
    model.train(**FAST)
    np.testing.assert_array_equal(model.get_latent(reference_cells, mean=True), before)
    assert np.abs(model.get_latent(query_cells, mean=True) - query_before).max() > 1e-4
    np.testing.assert_array_equal(model.prototypes_labeled_["mean"], reference.prototypes_labeled_["mean"])


def test_a_labelled_query_brings_its_own_label(reference: scPoli, query_cells: AnnData) -> None:
    cells = query_cells.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).replace("NK", "NEWTYPE")
    model = scPoli.load_query_data(cells, reference, labeled_indices=list(range(0, cells.n_obs, 2)))
    assert "NEWTYPE" in model.cell_types_
    model.train(n_epochs=6, pretraining_epochs=2, monitor=False)
    found = model.classify(cells)["cell_type"]["preds"]
    assert (found[(cells.obs["cell_type"] == "NEWTYPE").to_numpy()] == "NEWTYPE").mean() > 0.5


def test_conditions_are_read_whatever_their_type_and_have_no_gaps(reference_cells: AnnData) -> None:
    adata = reference_cells.copy()
    adata.obs["batch"] = [str(name).encode() for name in adata.obs["batch"]]
    model = scPoli(adata, condition_keys=["batch", "tech"], cell_type_keys="cell_type", hidden_layer_sizes=[8])
    assert model.conditions_["batch"] == sorted(set(reference_cells.obs["batch"].astype(str)))
    model.train(n_epochs=1, pretraining_epochs=1, monitor=False)
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) < 3, "nan", reference_cells.obs["batch"].astype(str))
    with pytest.raises(errors.VocabularyError, match=r"no value \('nan'\) for 3 of"):
        scPoli(adata, condition_keys="batch", cell_type_keys="cell_type")


def test_unknown_cell_types_are_not_learned(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.obs["cell_type"] = np.where(np.arange(cells.n_obs) % 7 == 0, "Unknown", cells.obs["cell_type"])
    model = scPoli(cells, condition_keys="batch", cell_type_keys="cell_type", unknown_ct_names=["Unknown"])
    assert sorted(model.cell_types_) == ["B", "Mono", "NK", "T"]
    model.train(**FAST, unlabeled_weight=0.1, clustering="kmeans", n_clusters=5)
    assert model.prototypes_unlabeled_["mean"].shape == (5, 10)


@pytest.mark.parametrize("options", [{"freeze": False}, {"freeze_expression": False}])
def test_thawing_moves_the_reference(
    reference: scPoli, reference_cells: AnnData, query_cells: AnnData, options: dict[str, bool]
) -> None:
    model = scPoli.load_query_data(query_cells, reference, labeled_indices=[], **options)
    before = model.get_latent(reference_cells, mean=True)
    model.train(**FAST)
    assert np.abs(model.get_latent(reference_cells, mean=True) - before).max() > 1e-4


def test_dropout_can_be_kept(reference: scPoli, query_cells: AnnData) -> None:
    losses = []
    for remove in (True, False):
        model = scPoli.load_query_data(query_cells, reference, labeled_indices=[], remove_dropout=remove)
        model.train(**FAST)
        assert model.history is not None
        losses.append(model.history.epochs["train_reconstruction"].iloc[0])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("options", [{"freeze": False}, {"freeze_expression": False}])
def test_dropout_is_removed_from_what_is_thawed(
    reference: scPoli, query_cells: AnnData, options: dict[str, bool]
) -> None:
    model = scPoli.load_query_data(query_cells, reference, labeled_indices=[], **options)
    assert model.dr_rate_ == model.model.manifest.architecture.dropout == 0
    assert {layer.p for layer in model.model.network.modules() if isinstance(layer, torch.nn.Dropout)} == {0.0}
    kept = scPoli.load_query_data(query_cells, reference, labeled_indices=[], remove_dropout=False, **options)
    assert kept.dr_rate_ == reference.dr_rate_ == 0.05
    assert {layer.p for layer in kept.model.network.modules() if isinstance(layer, torch.nn.Dropout)} == {0.05}


def test_shot_surgery_copies_known_conditions(reference: scPoli, query_cells: AnnData) -> None:
    model = scPoli.shot_surgery(query_cells, reference, labeled_indices=[], subsample=0.5)
    assert model.model.manifest.lineage is not None
    copied = model.model.manifest.lineage.copied
    assert set(copied) == {"batch=q0", "batch=q1"}
    embeddings = model.get_conditional_embeddings()
    assert isinstance(embeddings, dict)
    rows = embeddings["batch"]
    np.testing.assert_array_equal(rows["q0"].X, rows[copied["batch=q0"]].X)
    scPoli.shot_surgery(query_cells, reference, labeled_indices=[], train_epochs=2, monitor=False)


def test_add_new_cell_type(reference: scPoli, query_cells: AnnData) -> None:
    model = scPoli.load_query_data(query_cells, reference, labeled_indices=[])
    unlabelled = model.get_prototypes_info("unlabeled").X
    model.add_new_cell_type("NOVEL", "cell_type", [0, 1])
    position = list(model.cell_types_).index("NOVEL")
    centre = unlabelled[:2].mean(axis=0)
    np.testing.assert_allclose(model.prototypes_labeled_["mean"][position], centre, rtol=1e-5)
    assert model.classify(centre[None], prototype=True)["cell_type"]["preds"].tolist() == ["NOVEL"]
    assert model.classify(query_cells)["cell_type"]["weighted_distances"].shape == (query_cells.n_obs, 5)
    with pytest.raises(errors.VocabularyError, match="cannot be added"):
        model.add_new_cell_type("NOVEL", "cell_type", [0])
    with pytest.raises(errors.VocabularyError, match="numbered from 0"):
        model.add_new_cell_type("OTHER", "cell_type", [999])


def test_a_new_cell_types_covariance_is_of_the_cells_that_are_given(reference: scPoli, query_cells: AnnData) -> None:
    """As scArches documents it: an array in the order of the genes, and conditions by key; or an AnnData."""
    half = query_cells[::2].copy()
    conditions = {key: half.obs[key].to_numpy() for key in ("batch", "tech")}
    table = half.obs[["batch", "tech"]].to_numpy()
    bare = AnnData(half.X, var=half.var)
    found = []
    for x, c in ((half, None), (half.X, conditions), (half.X.toarray(), table), (bare, conditions), (None, None)):
        model = scPoli.load_query_data(query_cells, reference, labeled_indices=[])
        farthest = int(model.get_prototypes_info("unlabeled").obs["cell_type_uncert"].to_numpy().argmax())
        model.add_new_cell_type("NOVEL", "cell_type", [farthest], x, c)
        found.append(model.prototypes_labeled_["cov"][model.model_cell_types.index("NOVEL")])
    for covariance in found[1:4]:
        np.testing.assert_array_equal(covariance, found[0])
    assert found[0].any() and (found[4] != found[0]).any()


def test_a_new_cell_types_cells_need_their_conditions(reference: scPoli, query_cells: AnnData) -> None:
    model = scPoli.load_query_data(query_cells, reference, labeled_indices=[])
    batch, tech = (query_cells.obs[key].to_numpy() for key in ("batch", "tech"))
    for c in ({"batch": batch}, {"batch": batch, "tech": tech[:9]}, batch):
        with pytest.raises(errors.InvalidInput, match=f"each of the {query_cells.n_obs} cells for each of batch, tech"):
            model.add_new_cell_type("NOVEL", "cell_type", [0], query_cells.X, c)
    with pytest.raises(errors.VocabularyError, match="elsewhere"):
        everywhere = {"batch": np.full(len(batch), "elsewhere"), "tech": tech}
        model.add_new_cell_type("NOVEL", "cell_type", [0], query_cells.X, everywhere)
    with pytest.raises(errors.InvalidInput, match=r"x has shape"):
        model.add_new_cell_type("NOVEL", "cell_type", [0], query_cells.X[:, :5], {"batch": batch, "tech": tech})


def test_what_scarches_keeps_as_attributes(reference: scPoli, reference_cells: AnnData, query_cells: AnnData) -> None:
    assert list(reference.labeled_indices_ or ()) == list(range(reference_cells.n_obs))
    assert scPoli.load_query_data(query_cells, reference, labeled_indices=[]).labeled_indices_ == []
    assert (reference.mmd_on_, reference.mmd_boundary_, reference.beta_) == ("z", None, 1)
    assert reference.model_cell_types == list(reference.cell_types_)
    given = scPoli(reference_cells, condition_keys="batch", mmd_on="y", mmd_boundary=2, beta=3)
    query = scPoli.load_query_data(query_cells, given)
    assert (query.mmd_on_, query.mmd_boundary_, query.beta_) == ("y", 2, 3)


def test_conditions_are_joined_in_the_models_cells(reference: scPoli, reference_cells: AnnData) -> None:
    assert reference.adata is not None and reference.adata.X is reference_cells.X
    joined = reference_cells.obs["batch"].astype(str) + "_" + reference_cells.obs["tech"].astype(str)
    assert reference.adata.obs["conditions_combined"].tolist() == joined.tolist()
    assert set(reference.conditions_combined_) == set(joined)
    assert "conditions_combined" not in reference_cells.obs


def test_metadata_has_a_row_for_each_condition(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.obs["site"] = cells.obs["batch"].map({"b0": "here", "b1": "there", "b2": "there"})
    one = scPoli(cells, condition_keys="batch")
    assert one.obs_metadata_["site"].to_dict() == {"b0": "here", "b1": "there", "b2": "there"}
    two = scPoli(cells, condition_keys=["batch", "tech"])
    assert len(two.obs_metadata_) == len(two.conditions_combined_)
    assert scPoli(cells, condition_keys="batch", share_metadata=False).obs_metadata_.empty
    one.obs_metadata_ = pd.DataFrame({"country": ["DE", "FR", "IT"]}, index=["b0", "b1", "b2"])
    found = one.get_conditional_embeddings()
    assert isinstance(found, AnnData) and found.obs["country"].tolist() == ["DE", "FR", "IT"]


def test_the_model_does_what_torchs_modules_do(reference: scPoli) -> None:
    model = reference.model
    assert model.eval() is model and not model.network.training
    assert model.to("cpu") is model.to(torch.device("cpu")) is model
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000
    state = model.state_dict()
    assert {"unlabelled"} < set(state) and all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    with pytest.raises(errors.InvalidInput, match="cannot run on 'nowhere'"):
        model.to("nowhere")


def test_cells_are_saved_where_scarches_saves_them(reference: scPoli, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    reference.save(str(folder), save_anndata=True)
    assert {path.name for path in folder.iterdir()} > {"adata.h5ad", "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(errors.IntegrityError, match=r"adata\.h5ad is not in the manifest"):
        Model.load(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(errors.IntegrityError, match=r"notes\.txt"):
        scPoli.load(str(folder))
    with pytest.raises(errors.InvalidInput, match="not a release folder"):
        reference.save(str(folder), overwrite=True)
    (folder / "notes.txt").unlink()
    reference.save(str(folder), overwrite=True)
    assert scPoli.load(str(folder)).adata is not None
    (folder / "adata.h5ad").rename(tmp_path / "model.h5ad")  # where earlier versions put it
    assert scPoli.load(str(folder)).adata is not None
    assert Model.load(folder).manifest.name == "scpoli"


def test_prototypes_can_be_given(reference: scPoli, reference_cells: AnnData) -> None:
    given = reference.prototypes_labeled_
    model = scPoli(
        reference_cells,
        condition_keys="batch",
        cell_type_keys=["cell_type", "cell_class"],
        prototypes_labeled={name: torch.from_numpy(values) for name, values in given.items()},
        prototypes_unlabeled={"mean": np.ones((3, 10))},
    )
    np.testing.assert_array_equal(model.prototypes_labeled_["mean"], given["mean"])
    assert model.prototypes_unlabeled_["mean"].shape == (3, 10)


def test_declared_orders_are_kept(reference_cells: AnnData) -> None:
    model = scPoli(
        reference_cells,
        condition_keys="batch",
        conditions={"batch": ["b2", "b0", "b1"]},
        cell_type_keys="cell_type",
        cell_types={name: ["cell_type"] for name in ("T", "NK", "B", "Mono")},
    )
    assert model.conditions_ == {"batch": ["b2", "b0", "b1"]}
    assert list(model.cell_types_) == ["T", "NK", "B", "Mono"]


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "mse"])
def test_every_likelihood_trains(reference_cells: AnnData, likelihood: Any) -> None:
    cells = reference_cells.copy()
    if likelihood == "mse":
        cells.X = csr_matrix(np.log1p(cells.X.toarray()), dtype=np.float32)
    model = scPoli(cells, condition_keys="batch", recon_loss=likelihood, use_bn=True, use_ln=False)
    model.train(
        n_epochs=15, lr=0.01, eps=1e-8, monitor=False, clip_value=5.0, alpha_epoch_anneal=None, alpha_iter_anneal=9
    )
    assert model.history is not None
    fit = model.history.epochs["train_reconstruction"]
    assert fit.iloc[-1] < fit.iloc[0]


def test_what_cannot_be_done_is_refused_by_name(reference_cells: AnnData, reference: scPoli) -> None:
    with pytest.raises(errors.Unsupported, match="use_mmd"):
        scPoli(reference_cells, use_mmd=True)
    with pytest.raises(errors.Unsupported, match="nb_dist"):
        scPoli(reference_cells, recon_loss="nb_dist")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="learning_rate"):
        reference.train(learning_rate=1)
    with pytest.raises(errors.InvalidInput, match="embedding_dims"):
        scPoli(reference_cells, condition_keys="batch", embedding_dims=[1, 2])
    with pytest.raises(errors.VocabularyError, match="no column 'donor'"):
        scPoli(reference_cells, condition_keys="donor")
    with pytest.raises(errors.VocabularyError, match="missing"):
        gaps = reference_cells.copy()
        gaps.obs["batch"] = gaps.obs["batch"].where(np.arange(gaps.n_obs) > 3)
        scPoli(gaps, condition_keys="batch")


def test_the_callers_anndata_is_not_written_to(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    before = cells.copy()
    model = scPoli(cells, condition_keys=["batch", "tech"], cell_type_keys="cell_type")
    model.train(**FAST)
    model.classify(cells)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert (cells.X != before.X).nnz == 0
    assert not cells.uns
    assert not cells.obsm

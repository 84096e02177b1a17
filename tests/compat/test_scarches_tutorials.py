"""The statements of scArches' surgery tutorials, on small data: what its scripts call must run, and mean the same.

Written for this suite from what the tutorials call; maps of cells, which scanpy draws of any latent, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from sklearn.metrics import classification_report

import hub_client.compat as sca
from tests import simulated, tutorials
from tests.scvi_models import undisturbed

pytestmark = pytest.mark.slow
CONDITION, LABEL = "study", "cell_type"
REFERENCE, QUERY = ("inDrop", "CelSeq"), ("CelSeq2", "SS2")
Tables = tuple[AnnData, AnnData, AnnData]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """Scripts write where they run."""
    with chdir(tmp_path), undisturbed():
        yield tmp_path


def studies(reference: tuple[str, ...] = REFERENCE, query: tuple[str, ...] = QUERY, **options: Any) -> Tables:
    """Return all cells with their study, those of the reference, and those of the query."""
    adata = simulated.counts((*reference, *query), cells=240, **options)
    adata.obs[CONDITION] = adata.obs.pop("batch")
    target = adata.obs[CONDITION].isin(query)
    return adata, adata[~target].copy(), adata[target].copy()


def described(latent: Any, cells: AnnData) -> AnnData:
    """Return what every tutorial makes of a latent."""
    found = AnnData(latent)
    found.obs["cell_type"] = cells.obs[LABEL].tolist()
    found.obs["batch"] = cells.obs[CONDITION].tolist()
    return found


# --- trVAE -----------------------------------------------------------------------------------------------------------


def test_trvae_surgery() -> None:
    early_stopping_kwargs = {
        "early_stopping_metric": "val_unweighted_loss",
        "threshold": 0,
        "patience": 20,
        "reduce_lr": True,
        "lr_patience": 13,
        "lr_factor": 0.1,
    }
    adata_all, _, _ = studies()
    adata_all.raw = adata_all
    adata = adata_all.raw.to_adata()
    adata = sca.dataset.remove_sparsity(adata)
    source_adata = adata[~adata.obs[CONDITION].isin(QUERY)]
    target_adata = adata[adata.obs[CONDITION].isin(QUERY)]
    trvae = sca.models.TRVAE(
        adata=source_adata,
        condition_key=CONDITION,
        conditions=source_adata.obs[CONDITION].unique().tolist(),
        hidden_layer_sizes=[16, 16],
    )
    trvae.train(n_epochs=3, alpha_epoch_anneal=200, early_stopping_kwargs=early_stopping_kwargs)
    assert described(trvae.get_latent(), source_adata).shape == (120, 10)
    ref_path = "reference_model/"
    trvae.save(ref_path, overwrite=True)
    new_trvae = sca.models.TRVAE.load_query_data(adata=target_adata, reference_model=ref_path)
    new_trvae.train(
        n_epochs=3, alpha_epoch_anneal=200, early_stopping_kwargs=early_stopping_kwargs, weight_decay=0
    )  # fmt: skip
    assert described(new_trvae.get_latent(), target_adata).shape == (120, 10)
    surg_path = "surgery_model"
    new_trvae.save(surg_path, overwrite=True)
    full_latent = described(new_trvae.get_latent(adata.X, adata.obs[CONDITION]), adata)
    assert full_latent.shape == (240, 10)
    x, c = source_adata.X, source_adata.obs[CONDITION]
    assert_array_equal(new_trvae.get_latent(x, c, mean=True), trvae.get_latent(mean=True))
    assert sca.models.TRVAE.load(surg_path, target_adata).conditions_ == [*trvae.conditions_, *QUERY]


# --- scVI, scANVI ----------------------------------------------------------------------------------------------------

ARCHITECTURE = {
    "n_layers": 2,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "n_hidden": 16,
}


def test_scvi_surgery() -> None:
    _, source_adata, target_adata = studies()
    sca.models.SCVI.setup_anndata(source_adata, batch_key=CONDITION)
    vae = sca.models.SCVI(source_adata, **ARCHITECTURE)
    vae.train(max_epochs=2)
    reference = vae.get_latent_representation()
    assert described(reference, source_adata).shape == (120, 10)
    ref_path = "ref_model/"
    vae.save(ref_path, overwrite=True)
    model = sca.models.SCVI.load_query_data(target_adata, ref_path, freeze_dropout=True)
    model.train(max_epochs=2, plan_kwargs={"weight_decay": 0.0})
    assert described(model.get_latent_representation(), target_adata).shape == (120, 10)
    model.save("surgery_model", overwrite=True)
    adata_full = anndata.concat([source_adata, target_adata])
    full_latent = described(model.get_latent_representation(adata=adata_full), adata_full)
    assert_array_equal(full_latent.X[:120], reference)


def test_scanvi_surgery() -> None:
    """The query has all of the reference's labels."""
    scanvi_surgery(*studies()[1:])


def test_scanvi_surgery_of_a_query_without_some_labels() -> None:
    """As in the tutorial: none of its cells is unlabelled, and not every label of the reference occurs."""
    _, source_adata, target_adata = studies()
    known = target_adata[target_adata.obs[LABEL] != "NK"].copy()
    scanvi_surgery(source_adata, known)


def scanvi_surgery(source_adata: AnnData, target_adata: AnnData) -> None:
    sca.models.SCVI.setup_anndata(source_adata, batch_key=CONDITION, labels_key=LABEL)
    vae = sca.models.SCVI(source_adata, **ARCHITECTURE)
    vae.train(max_epochs=2)
    scanvae = sca.models.SCANVI.from_scvi_model(vae, unlabeled_category="Unknown")
    assert (len(scanvae._labeled_indices), len(scanvae._unlabeled_indices)) == (source_adata.n_obs, 0)
    scanvae.train(max_epochs=2)
    reference = scanvae.get_latent_representation()
    latent = described(reference, source_adata)
    latent.obs["predictions"] = scanvae.predict()
    assert set(latent.obs["predictions"]) <= set(source_adata.obs[LABEL])
    ref_path = "ref_model/"
    scanvae.save(ref_path, overwrite=True)
    model = sca.models.SCANVI.load_query_data(target_adata, ref_path, freeze_dropout=True)
    model._unlabeled_indices = np.arange(target_adata.n_obs)
    model._labeled_indices = []
    model.train(max_epochs=2, plan_kwargs={"weight_decay": 0.0}, check_val_every_n_epoch=10)
    query_latent = described(model.get_latent_representation(), target_adata)
    model.save("surgery_model", overwrite=True)
    query_latent.obs["predictions"] = model.predict()
    table = query_latent.obs.groupby(["cell_type", "predictions"], observed=True).size().unstack(fill_value=0)
    assert set(table.columns) <= set(source_adata.obs[LABEL])
    adata_full = anndata.concat([source_adata, target_adata])
    full_latent = described(model.get_latent_representation(adata=adata_full), adata_full)
    assert_array_equal(full_latent.X[: source_adata.n_obs], reference)
    full_latent.obs["predictions"] = model.predict(adata=adata_full)
    assert_array_equal(full_latent.obs["predictions"][: source_adata.n_obs], latent.obs["predictions"])


# --- totalVI ---------------------------------------------------------------------------------------------------------


def test_totalvi_surgery() -> None:
    adata_ref = simulated.counts(("PBMC5k", "PBMC10k"), cells=200, proteins=True)
    adata_query = simulated.counts(("RNA only",), cells=100)
    proteins = adata_ref.obsm.pop("protein")
    adata_ref.obsm["protein_expression"] = proteins
    missing = pd.DataFrame(0.0, index=adata_query.obs_names, columns=proteins.columns)
    adata_query.obsm["protein_expression"] = missing
    sca.models.TOTALVI.setup_anndata(
        adata_ref, batch_key="batch", protein_expression_obsm_key="protein_expression"
    )  # fmt: skip
    vae_ref = sca.models.TOTALVI(adata_ref, use_layer_norm="both", use_batch_norm="none")
    vae_ref.train(max_epochs=2)
    adata_ref.obsm["X_totalVI"] = vae_ref.get_latent_representation()
    dir_path = "saved_model/"
    vae_ref.save(dir_path, overwrite=True)
    vae_q = sca.models.TOTALVI.load_query_data(adata_query, dir_path, freeze_expression=True)
    vae_q.train(2, plan_kwargs={"weight_decay": 0.0})
    adata_query.obsm["X_totalVI"] = vae_q.get_latent_representation()
    _, imputed = vae_q.get_normalized_expression(
        adata_query, n_samples=3, return_mean=True, transform_batch=["PBMC10k", "PBMC5k"]
    )
    assert list(imputed) == list(proteins)
    assert (imputed > 0).all(axis=None)
    adata_query.obs = pd.concat([adata_query.obs, imputed], axis=1)
    adata_full = anndata.concat([adata_query, adata_ref])
    latent = vae_q.get_latent_representation(adata_full)
    assert_array_equal(latent[100:], adata_ref.obsm["X_totalVI"])
    _, imputed_all = vae_q.get_normalized_expression(
        adata_full, n_samples=3, return_mean=True, transform_batch=["PBMC10k", "PBMC5k"]
    )
    assert imputed_all.shape == (300, len(proteins.columns))


# --- expiMap ---------------------------------------------------------------------------------------------------------

TERMS = ("INTERFERON_SIGNALING", "INTERFERON_ALPHA_BETA_SIGNALING", "SIGNALING_BY_THE_B_CELL_RECEPTOR", "TRANSLATION")
STOPPING = {
    "early_stopping_metric": "val_unweighted_loss",
    "threshold": 0,
    "patience": 50,
    "reduce_lr": True,
    "lr_patience": 13,
    "lr_factor": 0.1,
}


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[AnnData, AnnData]:
    """A reference with its gene sets, prepared as both tutorials do, and a query with its genes."""
    adata, kang = simulated.counts(("one", "two"), cells=160), simulated.counts(("Kang",), cells=80)
    generator = np.random.default_rng(0)
    lines = [
        "\t".join([f"REACTOME_{term}", "http://x", *generator.choice(adata.var_names, 20, replace=False)])
        for term in TERMS
    ]
    (tmp_path / "reactome.gmt").write_text("\n".join(lines))
    adata.obs[CONDITION] = adata.obs.pop("batch")
    sca.utils.add_annotations(adata, str(tmp_path / "reactome.gmt"), min_genes=12, clean=True)
    adata._inplace_subset_var(adata.varm["I"].sum(1) > 0)
    select_terms = adata.varm["I"].sum(0) > 12
    adata.uns["terms"] = np.array(adata.uns["terms"])[select_terms].tolist()
    adata.varm["I"] = adata.varm["I"][:, select_terms]
    kang = kang[:, adata.var_names].copy()
    kang.obs[CONDITION] = kang.obs.pop("batch")
    kang.obs["condition"] = np.resize(["stimulated", "control"], 80)
    return adata, kang


def joined(adata: AnnData, kang: AnnData) -> AnnData:
    both = anndata.concat([adata, kang], join="outer", label="batch_join", uns_merge="same")
    both.obs["condition_joint"] = both.obs["condition"].astype(object).where(both.obs["condition"].notna(), "control")
    return both


def test_expimap_surgery(annotated: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    adata, kang = annotated
    intr_cvae = sca.models.EXPIMAP(
        adata=adata, condition_key=CONDITION, hidden_layer_sizes=[16, 16, 16], recon_loss="nb"
    )  # fmt: skip
    intr_cvae.train(
        n_epochs=3,
        alpha_epoch_anneal=100,
        alpha=0.7,
        alpha_kl=0.5,
        weight_decay=0.0,
        early_stopping_kwargs=STOPPING,
        use_early_stopping=True,
        monitor_only_val=False,
        seed=2020,
    )
    adata.obsm["X_cvae"] = intr_cvae.get_latent(mean=False, only_active=True)
    kang.uns["terms"] = adata.uns["terms"]
    q_intr_cvae = sca.models.EXPIMAP.load_query_data(kang, intr_cvae)
    q_intr_cvae.train(
        n_epochs=3, alpha_epoch_anneal=100, weight_decay=0.0, alpha_kl=0.1, seed=2020, use_early_stopping=True
    )
    q_intr_cvae.save(str(tmp_path / "query_kang_tutorial"))
    kang_pbmc = joined(adata, kang)
    kang_pbmc.obsm["X_cvae"] = q_intr_cvae.get_latent(
        kang_pbmc.X, kang_pbmc.obs[CONDITION], mean=False, only_active=True
    )
    q_intr_cvae.latent_directions(adata=kang_pbmc)
    q_intr_cvae.latent_enrich(groups="condition_joint", comparison="control", use_directions=True, adata=kang_pbmc)
    assert set(kang_pbmc.uns["bf_scores"]) == {"stimulated"}
    figure = sca.plotting.plot_abs_bfs(kang_pbmc, yt_step=0.8, scale_y=2.5, fontsize=7)
    assert {text.get_text() for text in figure.axes[0].texts} == set(adata.uns["terms"])
    idx = [kang_pbmc.uns["terms"].index(term) for term in ("INTERFERON_SIGNALING", "SIGNALING_BY_THE_B_CELL_RECEPT")]
    scores = q_intr_cvae.get_latent(kang_pbmc.X, kang_pbmc.obs[CONDITION], mean=False)
    assert (scores * kang_pbmc.uns["directions"])[:, idx].shape == (240, 2)
    before = intr_cvae.get_latent(mean=True)
    assert_array_equal(q_intr_cvae.get_latent(adata.X, adata.obs[CONDITION], mean=True), before)


def test_expimap_surgery_with_new_terms(annotated: tuple[AnnData, AnnData]) -> None:
    """The advanced tutorial: a term and cells are left out of the reference, and found again in the query."""
    adata, kang = annotated
    removed = adata.uns["terms"].index("SIGNALING_BY_THE_B_CELL_RECEPT")
    query_mask = adata.varm["I"][:, removed][:, None].copy()
    adata.varm["I"] = np.delete(adata.varm["I"], [removed], axis=1)
    adata.uns["terms"] = [term for term in adata.uns["terms"] if term != "SIGNALING_BY_THE_B_CELL_RECEPT"]
    adata = adata[~adata.obs[LABEL].isin(["B"])].copy()
    intr_cvae = sca.models.EXPIMAP(
        adata=adata, condition_key=CONDITION, hidden_layer_sizes=[16, 16, 16], recon_loss="nb"
    )  # fmt: skip
    intr_cvae.train(n_epochs=3, alpha_epoch_anneal=100, alpha=0.7, alpha_kl=0.5, weight_decay=0.0, seed=2020)
    kang.uns["terms"] = adata.uns["terms"]
    q_intr_cvae = sca.models.EXPIMAP.load_query_data(
        kang,
        intr_cvae,
        unfreeze_ext=True,
        new_n_ext=3,
        new_n_ext_m=1,
        new_ext_mask=query_mask.T,
        new_soft_ext_mask=True,
        use_hsic=True,
        hsic_one_vs_all=True,
    )
    q_intr_cvae.train(
        n_epochs=3,
        alpha_epoch_anneal=120,
        alpha_kl=0.22,
        weight_decay=0.0,
        alpha_l1=0.96,
        gamma_ext=0.7,
        gamma_epoch_anneal=50,
        beta=3.0,
        seed=2020,
        use_early_stopping=False,
    )
    kang_pbmc = joined(adata, kang)
    q_intr_cvae.update_terms(adata=kang_pbmc)
    extensions = ["constrained_0", "unconstrained_0", "unconstrained_1", "unconstrained_2"]
    assert kang_pbmc.uns["terms"] == [*adata.uns["terms"], *extensions]
    q_intr_cvae.latent_directions(adata=kang_pbmc)
    q_intr_cvae.latent_enrich(groups="condition_joint", comparison="control", use_directions=True, adata=kang_pbmc)
    control = kang_pbmc[kang_pbmc.obs["condition_joint"] == "control"].copy()
    q_intr_cvae.latent_enrich(groups=LABEL, use_directions=True, adata=control, n_sample=1000)
    figure = sca.plotting.plot_abs_bfs(control, n_cols=3, scale_y=2.6, yt_step=0.6)
    figure.set_size_inches(16, 34)
    assert {axes.get_title() for axes in figure.axes[:4]} == set(control.obs[LABEL])
    genes = q_intr_cvae.term_genes("constrained_0", terms=kang_pbmc.uns["terms"])
    assert genes["in_mask"].sum() == query_mask.sum()
    assert len(q_intr_cvae.term_genes("unconstrained_2", terms=kang_pbmc.uns["terms"])) > 0


# --- scPoli ----------------------------------------------------------------------------------------------------------


def test_scpoli_surgery() -> None:
    early_stopping_kwargs = {
        "early_stopping_metric": "val_prototype_loss",
        "mode": "min",
        "threshold": 0,
        "patience": 20,
        "reduce_lr": True,
        "lr_patience": 13,
        "lr_factor": 0.1,
    }
    _, source_adata, target_adata = studies()
    source_adata = source_adata[~source_adata.obs[LABEL].str.contains("NK")].copy()
    scpoli_model = sca.models.scPoli(
        adata=source_adata, condition_keys=CONDITION, cell_type_keys=LABEL, embedding_dims=5, recon_loss="nb"
    )
    scpoli_model.train(
        n_epochs=8, pretraining_epochs=6, early_stopping_kwargs=early_stopping_kwargs, eta=5, lr=0.01, eps=1e-8
    )
    scpoli_query = sca.models.scPoli.load_query_data(
        adata=target_adata, reference_model=scpoli_model, labeled_indices=[]
    )  # fmt: skip
    scpoli_query.train(n_epochs=6, pretraining_epochs=4, eta=10)
    results_dict = scpoli_query.classify(target_adata, scale_uncertainties=True)
    report = classification_report(
        y_true=target_adata.obs[LABEL], y_pred=results_dict[LABEL]["preds"], output_dict=True, zero_division=0
    )
    assert report["accuracy"] > 0.3
    scpoli_query.model.eval()
    data_latent_source = scpoli_query.get_latent(source_adata, mean=True)
    assert_array_equal(data_latent_source, scpoli_model.get_latent(source_adata, mean=True))
    adata_latent = AnnData(scpoli_query.get_latent(target_adata, mean=True), obs=target_adata.obs.copy())
    adata_latent.obs["cell_type_pred"] = results_dict[LABEL]["preds"].tolist()
    adata_latent.obs["cell_type_uncert"] = results_dict[LABEL]["uncert"].tolist()
    labeled_prototypes = scpoli_query.get_prototypes_info()
    labeled_prototypes.obs[CONDITION] = "labeled prototype"
    unlabeled_prototypes = scpoli_query.get_prototypes_info(prototype_set="unlabeled")
    unlabeled_prototypes.obs[CONDITION] = "unlabeled prototype"
    parts = [AnnData(data_latent_source, obs=source_adata.obs), adata_latent, labeled_prototypes, unlabeled_prototypes]
    full = anndata.concat(parts, join="outer", label="query", index_unique="-")
    assert full.obs["query"].nunique() == 4
    scpoli_query.add_new_cell_type("NK", LABEL, [0, 1])
    assert "NK" in scpoli_query.cell_types_
    again = scpoli_query.classify(target_adata)
    assert again[LABEL]["weighted_distances"].shape == (target_adata.n_obs, 4)
    assert scpoli_query.get_conditional_embeddings().obs_names.tolist() == scpoli_query.conditions_[CONDITION]


def test_scpoli_of_atac_counts() -> None:
    adata = simulated.counts(cells=120)
    adata_fragments = sca.reads_to_fragments(adata, copy=True)
    scpoli_model = sca.scPoli(
        adata=adata_fragments,
        condition_keys="batch",
        cell_type_keys=LABEL,
        hidden_layer_sizes=[8],
        latent_dim=5,
        embedding_dims=5,
        recon_loss="poisson",
    )
    scpoli_model.train(
        n_epochs=4, pretraining_epochs=3, use_early_stopping=False, alpha_epoch_anneal=1000, eta=0.5
    )  # fmt: skip
    scpoli_model.model.eval()
    assert scpoli_model.get_latent(adata_fragments, mean=True).shape == (120, 5)
    adata_emb = scpoli_model.get_conditional_embeddings()
    adata_emb.obs = adata.obs.groupby("batch").first().reindex(adata_emb.obs.index)
    assert adata_emb.obs["tech"].notna().all()


# --- mapping to the lung atlas ---------------------------------------------------------------------------------------


def test_mapping_and_label_transfer_as_for_the_lung_atlas(tmp_path: Path) -> None:
    _, source_adata, target_adata = studies()
    ref_model_dir, surgery_model_dir = str(tmp_path / "HLCA_reference_model"), str(tmp_path / "surgery_model")
    sca.models.SCANVI.setup_anndata(
        source_adata, labels_key=LABEL, unlabeled_category="unlabeled", batch_key=CONDITION
    )  # fmt: skip
    reference = sca.models.SCANVI(source_adata, n_hidden=16)
    reference.train(max_epochs=2)
    reference.save(ref_model_dir, overwrite=True)
    adata_ref = AnnData(reference.get_latent_representation(), obs=source_adata.obs)
    unprepared = target_adata[:, ::-2].copy()
    adata_query = sca.models.SCANVI.prepare_query_anndata(
        adata=unprepared, reference_model=ref_model_dir, inplace=False
    )  # fmt: skip
    assert list(adata_query.var_names) == list(source_adata.var_names)
    adata_query.obs[CONDITION], adata_query.obs[LABEL] = "Delorey_batch_1", "unlabeled"
    surgery_model = sca.models.SCANVI.load_query_data(adata_query, ref_model_dir, freeze_dropout=True)
    assert surgery_model.registry_["setup_args"]["batch_key"] == CONDITION
    surgery_model.train(
        max_epochs=2,
        early_stopping_monitor="elbo_train",
        early_stopping_patience=10,
        early_stopping_min_delta=0.001,
        plan_kwargs={"weight_decay": 0.0},
    )
    surgery_model.save(surgery_model_dir, overwrite=True)
    surgery_model = sca.models.SCANVI.load(surgery_model_dir, adata_query)
    adata_query_latent = AnnData(surgery_model.get_latent_representation(adata_query), obs=adata_query.obs)
    knn_transformer = sca.utils.knn.weighted_knn_trainer(train_adata=adata_ref, train_adata_emb="X", n_neighbors=50)
    labels, uncert = sca.utils.knn.weighted_knn_transfer(
        query_adata=adata_query_latent,
        query_adata_emb="X",
        label_keys=LABEL,
        knn_model=knn_transformer,
        ref_adata_obs=adata_ref.obs,
    )
    labels.rename(columns={LABEL: "transferred_unfiltered"}, inplace=True)
    uncert.rename(columns={LABEL: "transfer_uncert"}, inplace=True)
    found = adata_query_latent.obs.join(labels).join(uncert)
    found["transferred"] = found["transferred_unfiltered"].mask(found["transfer_uncert"] > 0.2, "Unknown")
    assert set(labels["transferred_unfiltered"]) <= set(adata_ref.obs[LABEL])


# --- the page that lists old and new calls ---------------------------------------------------------------------------


def test_the_page_on_moving_runs_as_it_is_written(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "moving-from-scarches.md").read_text()
    _, source, target = studies()
    source.write_h5ad(tmp_path / "reference.h5ad")
    target.write_h5ad(tmp_path / "query.h5ad")
    (tmp_path / "reactome.gmt").write_text("".join(f"REACTOME_{i}\tx\t{i}\tg{i}\tg{i + 20}\n" for i in range(20)))
    printed = tutorials.run(page, tmp_path)
    assert len(printed) >= 5
    for found, shown in zip(printed, tutorials.shown(page), strict=True):
        assert found == shown

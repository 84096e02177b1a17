"""scArches' modules and helpers by their names in scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix

import hub_client.compat as sca
from hub_client import errors
from hub_client.compat.abs_bayes_factors import plot_abs_bfs
from hub_client.compat.annotations import add_annotations
from hub_client.compat.matrices import reads_to_fragments, remove_sparsity
from hub_client.compat.weighted_knn import weighted_knn_trainer, weighted_knn_transfer

# --- names -----------------------------------------------------------------------------------------------------------


def test_scarches_paths_lead_to_ours() -> None:
    assert sca.models.TRVAE is sca.TRVAE
    assert sca.models.EXPIMAP is sca.EXPIMAP
    assert sca.models.scPoli is sca.models.scpoli.scPoli is sca.scPoli
    assert sca.utils.add_annotations is sca.add_annotations is add_annotations
    assert sca.utils.knn.weighted_knn_trainer is sca.utils.weighted_knn_trainer is weighted_knn_trainer
    assert sca.utils.knn.weighted_knn_transfer is sca.weighted_knn_transfer is weighted_knn_transfer
    assert sca.plotting.plot_abs_bfs is plot_abs_bfs
    assert sca.dataset.remove_sparsity is sca.dataset.trvae.data_handling.remove_sparsity is remove_sparsity
    assert sca.models.scpoli._utils.reads_to_fragments is reads_to_fragments


@pytest.mark.slow
def test_scvi_tools_classes_are_among_the_models() -> None:
    assert (sca.models.SCVI, sca.models.SCANVI, sca.models.TOTALVI) == (sca.SCVI, sca.SCANVI, sca.TOTALVI)


def test_what_is_there_is_listed() -> None:
    assert {"models", "utils", "plotting", "dataset", "SCVI", "add_annotations"} <= set(dir(sca))
    assert dir(sca.utils) == ["add_annotations", "knn", "weighted_knn_trainer", "weighted_knn_transfer"]


@pytest.mark.parametrize(("name", "instead"), [("zenodo", "hub_client.push"), ("metrics", "scib-metrics")])
def test_what_is_not_offered_is_named_with_what_to_do(name: str, instead: str) -> None:
    assert not hasattr(sca, name)
    with pytest.raises(AttributeError, match=f"'{name}'.*{instead}"):
        getattr(sca, name)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match=r"has no 'scgen'; it has EXPIMAP"):
        sca.models.scgen  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'TRVAEE'"):
        sca.TRVAEE  # noqa: B018


# --- annotations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def genes() -> AnnData:
    return AnnData(
        np.zeros((2, 5), dtype=np.float32), var=pd.DataFrame(index=["STAT1", "Irf7", "CD19", "GNLY", "NKG7"])
    )


@pytest.fixture
def gmt(tmp_path: Path) -> Path:
    path = tmp_path / "reactome.gmt"
    path.write_text(
        "REACTOME_INTERFERON_ALPHA_BETA_SIGNALING\thttp://stat1\tSTAT1\tIRF7\tMX1\n"
        "REACTOME_B_CELL\thttp://x\tCD19\n"
        "NKG7 NKG7 GNLY\n"
        "\n"
    )
    return path


def test_annotations_are_written(genes: AnnData, gmt: Path) -> None:
    add_annotations(genes, str(gmt))
    assert genes.uns["terms"] == ["INTERFERON_ALPHA_BETA_SIGNALIN", "B_CELL", "NKG7"]
    assert genes.varm["I"].T.tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert genes.varm["I"].dtype == np.int32


def test_annotations_by_size_name_and_case(genes: AnnData, gmt: Path) -> None:
    add_annotations(genes, [gmt], min_genes=1)
    assert genes.uns["terms"] == ["INTERFERON_ALPHA_BETA_SIGNALIN", "NKG7"]
    add_annotations(genes, [gmt], max_genes=2, varm_key="J", uns_key="few", clean=False)
    assert (genes.uns["few"], genes.varm["J"].shape) == (["REACTOME_B_CELL"], (5, 1))
    add_annotations(genes, [gmt, gmt], genes_use_upper=False)
    assert genes.varm["I"][:, 0].tolist() == [1, 0, 0, 0, 0]
    assert genes.varm["I"].shape == (5, 6)


def test_annotations_that_match_nothing_are_refused(genes: AnnData, gmt: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"more than 9 genes of adata, whose genes are STAT1"):
        add_annotations(genes, gmt, min_genes=9)
    with pytest.raises(errors.NotFound, match=r"no file of gene sets at .*none\.gmt"):
        add_annotations(genes, tmp_path / "none.gmt")
    (tmp_path / "image.gmt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(errors.InvalidInput, match="no text file"):
        add_annotations(genes, tmp_path / "image.gmt")
    assert "I" not in genes.varm


# --- weighted nearest neighbours -------------------------------------------------------------------------------------


def by_the_formula(distances: Any, indices: Any, labels: Any) -> tuple[list[str], list[float]]:
    """The loop of Sikkema 2023, cell by cell."""
    found, unsure = [], []
    for near, rows in zip(distances, indices, strict=True):
        weights = np.exp(-near / (2 / near.std()) ** 2)
        votes = pd.Series(weights / weights.sum()).groupby(np.asarray(labels)[rows]).sum()
        found.append(str(votes.idxmax()))
        unsure.append(1 - votes.max())
    return found, unsure


@pytest.fixture
def atlas() -> AnnData:
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    obs = pd.DataFrame({"level_1": np.resize(["a", "b", "c"], 60), "level_2": np.resize(["x", "y"], 60), "batch": "b"})
    return AnnData(points, obs=obs.set_index(obs.index.astype(str)), obsm={"X_latent": points[:, :2]})


def test_labels_are_transferred_by_the_formula(atlas: AnnData) -> None:
    query = AnnData(np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32))
    trained = weighted_knn_trainer(train_adata=atlas, train_adata_emb="X", n_neighbors=15)
    labels, unsure = weighted_knn_transfer(
        query_adata=query, query_adata_emb="X", label_keys="level_", knn_model=trained, ref_adata_obs=atlas.obs
    )
    assert list(labels) == list(unsure) == ["level_1", "level_2"]
    assert list(labels.index) == list(unsure.index) == list(query.obs_names)
    for column in labels:
        names, values = by_the_formula(*trained.kneighbors(query.X), atlas.obs[column])
        assert labels[column].tolist() == names
        assert_allclose(unsure[column], values, atol=1e-6)
    halved = weighted_knn_transfer(query, "X", atlas.obs, "level_1", trained, threshold=0.5, pred_unknown=True)[0]
    assert ((halved["level_1"] == "Unknown") == (unsure["level_1"] > 0.5)).all()
    assert 0 < (halved["level_1"] == "Unknown").sum() < 20


def test_neighbours_without_a_label_vote_for_none(atlas: AnnData) -> None:
    atlas.obs["level_1"] = pd.Categorical(atlas.obs["level_1"].where(atlas.obs["level_1"] != "c"))
    trained = weighted_knn_trainer(atlas, "X_latent")
    labels, unsure = weighted_knn_transfer(atlas, "X_latent", atlas.obs, "level_1", trained)
    assert set(labels["level_1"]) == {"a", "b"}
    assert (unsure["level_1"] > 0.2).all()
    atlas.obs["level_1"] = np.nan
    labels, unsure = weighted_knn_transfer(atlas, "X_latent", atlas.obs, "level_1", trained)
    assert labels["level_1"].isna().all() and (unsure["level_1"] == 1).all()


def test_a_cell_at_equal_distance_to_all_is_labelled_by_the_most() -> None:
    points = AnnData(
        np.zeros((3, 2), dtype=np.float32), obs=pd.DataFrame({"label": ["a", "b", "b"]}, index=list("xyz"))
    )
    labels, unsure = weighted_knn_transfer(points, "X", points.obs, "label", weighted_knn_trainer(points, "X", 50))
    assert set(labels["label"]) == {"b"}
    assert_allclose(unsure["label"], 1 / 3)


def test_what_does_not_fit_is_refused(atlas: AnnData) -> None:
    trained = weighted_knn_trainer(atlas, "X")
    with pytest.raises(errors.InvalidInput, match=r"train_adata_emb is 'X_umap'.*X_latent"):
        weighted_knn_trainer(atlas, "X_umap")
    with pytest.raises(errors.InvalidInput, match="can be 'package' only"):
        weighted_knn_transfer(atlas, "X", atlas.obs, "level_", trained, mode="paper")
    with pytest.raises(errors.VocabularyError, match="begins with 'cell_type'"):
        weighted_knn_transfer(atlas, "X", atlas.obs, "cell_type", trained)
    with pytest.raises(errors.InvalidInput, match="has 9 rows, and knn_model 60 cells"):
        weighted_knn_transfer(atlas, "X", atlas.obs[:9], "level_", trained)


# --- pictures and matrices -------------------------------------------------------------------------------------------


def test_bayes_factors_are_drawn() -> None:
    cells = AnnData(np.zeros((1, 1), dtype=np.float32))
    factors = {"stimulated": {"bf": np.array([-5.0, 1.0, 3.0])}, "resting": {"bf": np.zeros(3)}}
    cells.uns = {"bf_scores": factors, "terms": ["one", "two", "three"]}
    figure = plot_abs_bfs(cells, yt_step=0.8, scale_y=2.5, fontsize=7, n_points=2)
    first = figure.axes[0]
    assert [axes.get_title() for axes in figure.axes] == ["stimulated", "resting"]
    assert [(text.get_text(), text.get_position()) for text in first.texts] == [("one", (1, 5.0)), ("three", (2, 3.0))]
    assert first.get_ylim() == (0, 12.5)
    axes = Figure().subplots()
    assert plot_abs_bfs(cells, keys="stimulated", ax=axes, title="named") is axes.get_figure()
    assert axes.get_title() == "named"
    assert len(plot_abs_bfs(cells, keys=["stimulated", "resting"], n_cols=1).axes) == 2


def test_bayes_factors_without_names_or_groups_are_refused() -> None:
    cells = AnnData(np.zeros((1, 1), dtype=np.float32))
    with pytest.raises(errors.VocabularyError, match=r"no 'bf_scores'.*latent_enrich"):
        plot_abs_bfs(cells)
    cells.uns = {"bf_scores": {"a": {"bf": np.ones(3)}}, "terms": ["one", "two"]}
    with pytest.raises(errors.InvalidInput, match=r"2 names for the 3 programs.*update_terms"):
        plot_abs_bfs(cells)
    with pytest.raises(errors.VocabularyError, match="no scores of c; there are those of a"):
        plot_abs_bfs(cells, keys=["c"])


def test_sparsity_is_removed_from_a_copy() -> None:
    cells = AnnData(
        csr_matrix(np.eye(3, dtype=np.float32)), obs=pd.DataFrame({"batch": list("abc")}, index=list("xyz"))
    )
    dense = remove_sparsity(cells)
    assert isinstance(dense.X, np.ndarray) and isinstance(cells.X, csr_matrix)
    assert dense.obs.equals(cells.obs) and dense.obs is not cells.obs
    assert remove_sparsity(dense) is dense


@pytest.mark.parametrize("matrix", [np.asarray, csr_matrix])
def test_reads_become_fragments(matrix: Any) -> None:
    reads = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.float32)
    cells = AnnData(matrix(reads), layers={"reads": matrix(reads)})
    made = reads_to_fragments(cells, copy=True)
    assert made is not None and np.asarray(made.X.sum()) == 0 + 1 + 1 + 2 + 2 + 3
    assert np.asarray(cells.X.sum()) == 15
    assert reads_to_fragments(cells, layer="reads", key_added="fragments") is None
    assert (cells.layers["fragments"].sum(), cells.layers["reads"].sum()) == (9, 15)

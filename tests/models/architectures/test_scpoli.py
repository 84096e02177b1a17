"""scPoli's own rules; what it shares with the others is in tests/contract, its numbers in test_golden_scpoli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import sparse

from hub_client import errors
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.labels.predict import predict
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from hub_client.nn.training import History
from tests.simulated import CLASSES, QUERY, cells_for, counts, manifest

SHORT = Plan(epochs=3, pretraining_epochs=1, batch_size=64, kl_anneal_epochs=0)


def network_of(model: Model) -> ScPoli:
    assert isinstance(model.network, ScPoli)
    return model.network


def trained(described: Manifest, cells: Cells | None = None, **plan: Any) -> tuple[ScPoli, History]:
    model = Model.build(described)
    found = cells_for(described) if cells is None else cells
    history = train(model, found, plan=SHORT.model_copy(update=plan), progress=False, accelerator="cpu")
    return network_of(model), history


def labels_hidden(cells: Cells, *names: str) -> Cells:
    labels = {key: np.where(np.isin(values, names), "", values) for key, values in cells.labels.items()}
    return cells.relabelled(labels)


# --- the objective ---------------------------------------------------------------------------------------------------


def test_kl_weight_rises_and_prototypes_join() -> None:
    network = ScPoli.build(manifest())
    plan = Plan(epochs=40, kl_weight=0.5, kl_anneal_epochs=20, prototype_weight=3.0, unlabelled_weight=0.1)
    found = [network.objective(plan, epoch) for epoch in (0, 10, 20, 30, 36)]
    assert [weights["kl_weight"] for weights in found] == [0.0, 0.25, 0.5, 0.5, 0.5]
    assert [weights["prototype_weight"] for weights in found] == [0.0, 0.0, 0.0, 0.0, 3.0]
    assert [weights["unlabelled_weight"] for weights in found] == [0.0, 0.0, 0.0, 0.0, 0.1]


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    network, _ = trained(manifest())
    batch = network.batches(cells_for(manifest())).take(torch.arange(32))
    terms = network(batch, kl_weight=0.3, prototype_weight=2.0, sample=False)
    assert float(terms["prototype"].detach()) > 0
    weighted = terms["reconstruction"] + 0.3 * terms["kl"] + 2.0 * terms["prototype"]
    assert torch.allclose(terms["loss"], weighted)
    assert torch.allclose(terms["unweighted"], terms["reconstruction"] + terms["kl"] + terms["prototype"])


def test_the_sampled_latent_is_drawn_from_torchs_generator() -> None:
    network, _ = trained(manifest())
    batch = network.batches(cells_for(manifest())).take(torch.arange(8))
    with torch.random.fork_rng(devices=[]):
        losses = [float(network(batch)["loss"].detach()) for seed in (1, 1, 2) if torch.manual_seed(seed)]
    assert losses[0] == losses[1] != losses[2]


def test_prototypes_are_judged_only_once_they_are_in_the_loss() -> None:
    assert trained(manifest(), pretraining_epochs=2)[1].best_epoch == 2
    unlabelled = cells_for(manifest(), labelled=False)
    assert trained(manifest(), unlabelled, pretraining_epochs=2)[1].best_epoch is not None


def test_prototype_weight_pulls_cells_together() -> None:
    spread = {}
    for weight in (0.0, 50.0):
        network, _ = trained(manifest(), epochs=25, pretraining_epochs=5, prototype_weight=weight, learning_rate=5e-3)
        within = network._prototype_tables()[0].covariances.diagonal(dim1=1, dim2=2)
        spread[weight] = float(within.sum(1).mean())
    assert spread[50.0] < 0.5 * spread[0.0]


def test_embeddings_have_no_weight_decay() -> None:
    network = ScPoli.build(manifest())
    groups = network.parameter_groups(Plan(weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1]
    assert [len(group["params"]) for group in groups] == [1, len(list(network.parameters())) - 3]


def test_embedding_rows_are_no_longer_than_allowed() -> None:
    network, _ = trained(manifest(), learning_rate=0.1)
    assert (torch.linalg.vector_norm(network.embedding_rows()["batch"], dim=1) <= 1.0 + 1e-6).all()


# --- prototypes ------------------------------------------------------------------------------------------------------


def test_prototypes_are_the_means_of_the_training_cells() -> None:
    network, _ = trained(manifest(), validation_fraction=0.0)
    cells = cells_for(manifest())
    latent = torch.from_numpy(network.embed(cells))
    (table,) = network._prototype_tables()
    for code, name in enumerate(network.vocabulary.labels["cell_type"].names):
        members = latent[torch.from_numpy(cells.labels["cell_type"] == name)]
        assert_allclose(table.means[code], members.mean(0), atol=1e-5)
        assert_allclose(table.covariances[code], members.T.cov(), atol=1e-5)
        assert table.cells[code] == len(members)


def test_a_label_without_cells_is_never_predicted() -> None:
    cells = labels_hidden(cells_for(manifest()), "NK")
    network, _ = trained(manifest(), cells)
    scores = network.score(network.embed(cells))["cell_type"]
    assert np.isinf(scores.values[:, scores.labels.index("NK")]).all()
    assert np.isfinite(np.delete(scores.values, scores.labels.index("NK"), axis=1)).all()


def test_a_level_without_labels_gives_no_scores() -> None:
    described = manifest(levels=("cell_type", "cell_class"))
    cells = cells_for(described)
    only = cells.relabelled({"cell_type": cells.labels["cell_type"]})
    model = Model.build(described)
    train(model, only, plan=SHORT, progress=False, accelerator="cpu")
    assert list(predict(model, only, device="cpu").levels) == ["cell_type"]


@pytest.mark.parametrize("cells", [40, 130])
def test_few_cells_with_prototypes(cells: int) -> None:
    network, history = trained(manifest(), cells_for(manifest(), cells=cells), batch_size=128)
    assert history.stopped == "finished"
    assert (network._prototype_tables()[0].cells > 0).all()


@pytest.mark.parametrize(("method", "count"), [("leiden", None), ("kmeans", 7)])
def test_unlabelled_prototypes(method: str, count: int | None) -> None:
    cells = labels_hidden(cells_for(manifest()), "T", "B")
    network, history = trained(
        manifest(), cells, unlabelled_weight=0.5, unlabelled_clustering=method, unlabelled_clusters=count
    )
    assert len(network.unlabelled) == count if count else len(network.unlabelled) > 2
    assert network.facts()["prototypes"].unlabelled == len(network.unlabelled)  # type: ignore[attr-defined]
    assert np.isfinite(history.epochs["train_loss"]).all()


def test_unlabelled_prototypes_move_down_their_loss() -> None:
    cells = labels_hidden(cells_for(manifest()), *CLASSES)
    ends = [
        trained(manifest(), cells, unlabelled_weight=0.5, epochs=epochs, learning_rate=1e-3)[0].unlabelled
        for epochs in (2, 3)
    ]
    assert ends[0].shape == ends[1].shape
    assert 0 < float((ends[0] - ends[1]).abs().max()) < 1.0


def test_unlabelled_prototypes_only_where_somebody_asks() -> None:
    network, _ = trained(manifest(), labels_hidden(cells_for(manifest()), "T"))
    assert len(network.unlabelled) == 0
    network.cluster_unlabelled(cells_for(manifest()), Plan(unlabelled_clustering="kmeans", unlabelled_clusters=3))
    assert len(network.unlabelled) == 3


def test_kmeans_needs_a_number() -> None:
    network, _ = trained(manifest())
    with pytest.raises(errors.InvalidInput, match="unlabelled_clusters"):
        network.cluster_unlabelled(cells_for(manifest()), Plan(unlabelled_clustering="kmeans"))


def test_unlabelled_prototypes_in_a_query() -> None:
    model = Model.build(manifest())
    train(model, cells_for(manifest()), plan=SHORT, progress=False, accelerator="cpu")
    query = cells_for(manifest(), QUERY, cells=90, labelled=False)
    grown = surgery(model, query)
    plan = SHORT.model_copy(update={"unlabelled_weight": 0.5})
    train(grown, query, plan=plan, progress=False, accelerator="cpu")
    assert len(network_of(grown).unlabelled) == grown.manifest.prototypes.unlabelled > 0


# --- what else there is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["batch", "layer", "none"])
def test_a_leftover_cell(normalization: str) -> None:
    """129 cells in minibatches of 128: the last one has no variance for batch normalisation."""
    described = manifest(normalization=normalization)
    network, history = trained(described, cells_for(described, cells=129), batch_size=128, validation_fraction=0.0)
    assert np.isfinite(history.epochs["train_loss"]).all()
    assert np.isfinite(network.embed(cells_for(described))).all()


def test_batch_norm_of_a_frozen_network_keeps_its_statistics() -> None:
    model = Model.build(manifest(normalization="batch"))
    train(model, cells_for(model.manifest), plan=SHORT, progress=False, accelerator="cpu")
    query = cells_for(model.manifest, QUERY, cells=90, labelled=False)
    grown = surgery(model, query)
    train(grown, query, plan=SHORT, progress=False, accelerator="cpu")
    old, new = (network_of(m).state_dict() for m in (model, grown))
    tracked = [name for name in old if "running" in name]
    assert len(tracked) == 4
    assert all(torch.equal(old[name], new[name]) for name in tracked)


def test_counts_in_float64() -> None:
    adata = counts()
    adata.X = adata.X.astype(np.float64)
    found = align(adata, manifest(), labels={"cell_type": "cell_type"})
    network, _ = trained(manifest(), found)
    assert network.embed(found).dtype == np.float32
    assert_allclose(network.embed(found), trained(manifest())[0].embed(cells_for(manifest())))


def test_no_conditions() -> None:
    described = manifest(conditions=())
    network, history = trained(described)
    assert history.epochs["train_reconstruction"].iloc[-1] < history.epochs["train_reconstruction"].iloc[0]
    assert network.log_theta.shape == (1, 60)
    assert network.embed(cells_for(described)).shape == (240, 6)


def test_no_labels() -> None:
    model = Model.build(manifest(levels=()))
    cells = cells_for(model.manifest)
    history = train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    assert (history.epochs["train_prototype"] == 0).all()
    assert predict(model, cells, device="cpu").levels == {}


def test_one_condition_and_one_label() -> None:
    described = manifest()
    cells = cells_for(described)
    one = cells.rows(np.flatnonzero((cells.conditions["batch"] == "b0") & (cells.labels["cell_type"] == "T")))
    network, _ = trained(described, one)
    assert (network._prototype_tables()[0].cells > 0).sum() == 1


def test_dense_and_sparse_counts_embed_alike() -> None:
    model = Model.build(manifest())
    adata = counts()
    dense = adata.copy()
    dense.X = adata.X.toarray()
    columns = adata.copy()
    columns.X = sparse.csc_matrix(adata.X)
    first, *rest = (embed(model, align(a, model), device="cpu") for a in (adata, dense, columns))
    for other in rest:
        assert_allclose(other, first, atol=1e-6)


def test_posterior() -> None:
    network, _ = trained(manifest())
    cells = cells_for(manifest())
    mean, variance = network.posterior(cells)
    assert_allclose(mean, network.embed(cells), atol=1e-6)
    assert (variance > 1e-4).all()


def test_refusals() -> None:
    mse = ScPoli.build(manifest(likelihood="mse"))
    with pytest.raises(errors.Unsupported, match="'mse' has no dispersion"):
        _ = mse.log_theta
    with pytest.raises(errors.Unsupported, match="only zinb"):
        mse.decoder.dropout_logits(torch.zeros(1, 16))

"""trVAE's own rules; what it shares with the others is in tests/contract, its numbers in test_golden_trvae."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.predict import predict, predictable
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures.trvae import TrVAE
from hub_client.models.model import Model
from hub_client.models.surgery import add_label, retraining, surgery
from hub_client.models.train import train
from hub_client.nn import losses
from hub_client.nn.training import History
from tests.simulated import QUERY, cells_for, manifest

SHORT = Plan(epochs=3, batch_size=64, kl_anneal_epochs=0)


def network_of(model: Model) -> TrVAE:
    assert isinstance(model.network, TrVAE)
    return model.network


def trained(described: Manifest, cells: Cells | None = None, **plan: Any) -> tuple[Model, History]:
    model = Model.build(described)
    found = cells_for(described) if cells is None else cells
    return model, train(model, found, plan=SHORT.model_copy(update=plan), progress=False, accelerator="cpu")


def query_of(model: Model, **options: Any) -> Cells:
    return cells_for(model.manifest, QUERY, cells=90, labelled=False, **options)


def between(network: TrVAE, cells: Cells) -> float:
    """How far apart the conditions of some cells are, where the network measures it."""
    codes = torch.from_numpy(network.vocabulary.condition_codes(cells.conditions)[:, 0])
    latent = network.embed(cells)
    points = latent if network.config.mmd_on == "z" else network.decoder_layer(cells, latent)
    return float(losses.mmd(torch.from_numpy(points), codes, conditions=3))


# --- the objective ---------------------------------------------------------------------------------------------------


def test_kl_weight_rises() -> None:
    network = TrVAE.build(manifest("trvae"))
    plan = Plan(kl_weight=0.5, kl_anneal_epochs=20)
    assert [network.objective(plan, epoch) for epoch in (0, 10, 30)] == [{"kl_weight": w} for w in (0.0, 0.25, 0.5)]


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    network = TrVAE.build(manifest("trvae", mmd_weight=3.0))
    batch = network.batches(cells_for(network.manifest)).take(torch.arange(32))
    terms = network(batch, kl_weight=0.3, sample=False)
    assert float(terms["mmd"].detach()) > 0
    assert torch.allclose(terms["loss"], terms["reconstruction"] + 0.3 * terms["kl"] + terms["mmd"])
    assert torch.allclose(terms["unweighted"], terms["reconstruction"] + terms["kl"] + terms["mmd"])


@pytest.mark.parametrize("where", ["z", "y"])
def test_the_discrepancy_is_weighted(where: str) -> None:
    found = []
    for weight in (1.0, 2.5):
        network = TrVAE.build(manifest("trvae", mmd_on=where, mmd_weight=weight))
        batch = network.batches(cells_for(network.manifest)).take(torch.arange(32))
        found.append(float(network(batch, sample=False)["mmd"].detach()))
    assert found[1] == pytest.approx(2.5 * found[0])


@pytest.mark.parametrize("off", [{"mmd": False}, {"mmd_weight": 0.0}, {"mmd_boundary": 3}])
def test_no_discrepancy(off: dict[str, Any]) -> None:
    """Switched off, weightless, or with a boundary that no condition is beyond."""
    network = TrVAE.build(manifest("trvae", **off))
    batch = network.batches(cells_for(network.manifest)).take(torch.arange(32))
    assert float(network(batch)["mmd"].detach()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["z", "y"])
def test_the_discrepancy_brings_conditions_together(where: str) -> None:
    apart = {}
    for weight in (0.0, 10.0):
        described = manifest("trvae", mmd_on=where, mmd_weight=weight, dropout=0.0)
        model, _ = trained(described, epochs=30, learning_rate=5e-3, kl_weight=0.01, keep_best=False)
        apart[weight] = between(network_of(model), cells_for(described))
    assert apart[10.0] < 0.6 * apart[0.0]


def test_the_discrepancy_acts_in_query_training() -> None:
    """It moves the query's rows: towards the reference's conditions only where those are in the minibatch."""
    histories = {}
    for weight in (0.0, 100.0):
        reference, _ = trained(manifest("trvae", mmd_weight=weight))
        query = query_of(reference)
        model = surgery(reference, query, start="random")
        plan = SHORT.model_copy(update={"epochs": 10, "learning_rate": 1e-2, "keep_best": False})
        histories[weight] = train(model, query, plan=plan, progress=False, accelerator="cpu").epochs["train_mmd"]
    assert (histories[0.0] == 0).all()
    assert histories[100.0].iloc[-1] < 0.9 * histories[100.0].iloc[0]


def test_stratified_sampling() -> None:
    described = manifest("trvae")
    cells = cells_for(described)
    rare = cells.rows(np.flatnonzero((cells.conditions["batch"] == "b0") | (np.arange(240) % 8 == 0)))
    shuffled, stratified = (trained(described, rare, sampling=s)[0].tensors() for s in ("shuffle", "stratified"))
    assert not all(torch.equal(shuffled[name], stratified[name]) for name in shuffled)


# --- conditions ------------------------------------------------------------------------------------------------------


def test_several_condition_keys_are_refused_by_name() -> None:
    with pytest.raises(errors.ManifestError, match="2: batch, tech"):
        Model.build(manifest("trvae", conditions=("batch", "tech")))


def test_another_kind_is_refused() -> None:
    with pytest.raises(errors.ManifestError, match="scpoli; this network's is trvae"):
        TrVAE.build(manifest())


def test_no_conditions() -> None:
    described = manifest("trvae", conditions=())
    model, history = trained(described)
    network = network_of(model)
    assert network.log_theta.shape == (1, 60)
    assert [spec.name for spec in network.specs() if "condition" in spec.name] == []
    assert (history.epochs["train_mmd"] == 0).all()
    assert network.embed(cells_for(described)).shape == (240, 6)


def test_a_row_for_each_condition() -> None:
    """A linear map of one-hot vectors is a look-up of rows."""
    network = TrVAE.build(manifest("trvae"))
    first = network.encoder.hidden.first
    batch = network.batches(cells_for(network.manifest)).take(torch.arange(8))
    codes = network.condition_inputs(batch)
    assert codes is not None
    hot = torch.nn.functional.one_hot(codes, 3).float()
    product = network.expression_product(batch)
    rows = network.tensors()["encoder.hidden.first.condition.rows"]
    assert_allclose(first.join(product, codes).detach(), (product + hot @ rows).detach(), rtol=1e-6)


# --- surgery ---------------------------------------------------------------------------------------------------------


def test_a_model_may_train_its_first_layers_again() -> None:
    reference, _ = trained(manifest("trvae", normalization="batch", hidden=(16, 8)))
    query = query_of(reference)
    free = retraining(surgery(reference, query), parts="expression")
    before = free.network.tensors()
    train(free, query, plan=SHORT, progress=False, accelerator="cpu")
    after = free.network.tensors()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    firsts = ("hidden.first.expression", "hidden.activations.0", "condition.rows", "theta.rows", "running")
    assert {name for name in moved if not any(part in name for part in firsts)} == set()
    for name in ("encoder.hidden.first.expression.weight", "decoder.hidden.first.expression.weight"):
        assert name in moved


def test_best_rows_start_from_one_condition_everywhere() -> None:
    reference, _ = trained(manifest("trvae"), epochs=20)
    model = surgery(reference, query_of(reference), start="best")
    assert model.manifest.lineage is not None
    copied = model.manifest.lineage.copied
    assert set(copied) == {"batch=q0", "batch=q1"}
    old = reference.vocabulary.conditions["batch"].names
    for table in network_of(model).tables():
        for row, name in enumerate(QUERY):
            assert torch.equal(table.query[row], table.reference[old.index(copied[f"batch={name}"])])


def test_no_label_can_be_added() -> None:
    model, _ = trained(manifest("trvae"))
    with pytest.raises(errors.Unsupported, match="trvae has no prototypes"):
        add_label(model, "cell_type", label="novel", clusters=[0], cells=cells_for(model.manifest))


# --- inference -------------------------------------------------------------------------------------------------------


def test_posterior() -> None:
    model, _ = trained(manifest("trvae"))
    cells = cells_for(model.manifest)
    mean, variance = network_of(model).posterior(cells)
    assert_allclose(mean, network_of(model).embed(cells), atol=1e-6)
    assert (variance > 1e-4).all()


def test_decoder_layer() -> None:
    model, _ = trained(manifest("trvae", hidden=(16, 8)))
    cells = cells_for(model.manifest)
    network = network_of(model)
    latent = network.embed(cells)
    whole = network.decoder_layer(cells, latent)
    assert whole.shape == (240, 8)
    assert (whole >= 0).all()
    assert_allclose(network.decoder_layer(cells, latent, batch_size=7), whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(network.decoder_layer(cells, latent + 1), whole)


def test_labels_come_from_the_atlas() -> None:
    model, _ = trained(manifest("trvae"), epochs=20, learning_rate=5e-3)
    cells = cells_for(model.manifest)
    assert predictable(model) == ()
    assert predict(model, cells, device="cpu").levels == {}
    labelled = with_atlas(model, cells)
    assert predictable(labelled) == ("cell_type",)
    found = predict(labelled, cells_for(model.manifest, cells=120, seed=5), device="cpu").levels["cell_type"]
    truth = cells_for(model.manifest, cells=120, seed=5).labels["cell_type"]
    assert (found.labels == truth).mean() > 0.9
    assert found.distances is None


def test_the_atlas_goes_along_with_surgery(tmp_path: Any) -> None:
    model, _ = trained(manifest("trvae"), epochs=20, learning_rate=5e-3)
    model = with_atlas(model, cells_for(model.manifest))
    query = cells_for(model.manifest, QUERY, cells=90)
    grown = surgery(model, query)
    train(grown, query, plan=SHORT, progress=False, accelerator="cpu")
    found = predict(Model.load(grown.save(tmp_path / "release")), query, device="cpu").levels["cell_type"]
    assert (found.labels == query.labels["cell_type"]).mean() > 0.8


def test_refusals() -> None:
    mse = TrVAE.build(manifest("trvae", likelihood="mse"))
    with pytest.raises(errors.Unsupported, match="'mse' has no dispersion"):
        _ = mse.log_theta
    with pytest.raises(errors.Unsupported, match="only zinb") as caught:
        mse.decoder.dropout_logits(torch.zeros(1, 16))
    assert caught.value.kind == "trvae"

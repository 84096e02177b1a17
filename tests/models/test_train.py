from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hub_client
from hub_client import errors
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import DatasetRecord, Training
from hub_client.manifest.recommended import QUERY_PLAN, recommended
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import default_plan, query_plan, train
from tests.simulated import QUERY, cells_for, manifest

SHORT = Plan(epochs=3, pretraining_epochs=1, batch_size=64)


def test_training_is_recorded() -> None:
    model = Model.build(manifest())
    history = train(model, cells_for(model.manifest), plan=SHORT, seed=7, progress=False, accelerator="cpu")
    found = model.manifest.training
    assert (found.plan, found.seed, found.epochs, found.device) == (SHORT, 7, 3, "cpu")
    assert found.losses == history.losses
    assert found.losses["validation_unweighted"] == history.epochs["validation_unweighted"][history.best_epoch]
    assert {"python", "archzoo", "torch", "lightning", "numpy"} <= set(found.versions)
    assert found.versions["archzoo"] == hub_client.__version__
    assert found.versions["torch"] == torch.__version__.split("+")[0] or found.versions["torch"] == torch.__version__
    assert found.seconds == pytest.approx(history.seconds, abs=1e-3)


def test_data_sets_stay_on_record() -> None:
    record = DatasetRecord(name="simulated", cells=240, fingerprint="a" * 64)
    model = Model.build(manifest().changed(training=Training(datasets=(record,))))
    train(model, cells_for(model.manifest), plan=SHORT, progress=False, accelerator="cpu")
    assert model.manifest.training.datasets == (record,)


def test_the_manifest_names_the_tensors_after_training() -> None:
    model = Model.build(manifest())
    assert model.manifest.tensors == ()
    train(model, cells_for(model.manifest), plan=SHORT, progress=False, accelerator="cpu")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors().items()}
    assert model.manifest.shapes() == shapes


def test_queries_train_as_their_reference_recommends() -> None:
    wanted = Plan(epochs=2, pretraining_epochs=1, learning_rate=0.01)
    model = Model.build(manifest().changed(query_plan=wanted))
    train(model, cells_for(model.manifest), plan=SHORT, progress=False, accelerator="cpu")
    query = cells_for(model.manifest, QUERY, cells=80, labelled=False)
    grown = surgery(model, query)
    assert query_plan(grown) == wanted
    history = train(grown, query, progress=False, accelerator="cpu")
    assert len(history.epochs) == 2
    assert grown.manifest.training.plan == wanted


def test_what_only_another_kind_reads_is_refused_before_anything_moves() -> None:
    model = Model.build(manifest("trvae"))
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    plan = Plan(epochs=1, prototype_weight=50, group_lasso=9, adversarial=True)
    with pytest.raises(errors.InvalidInput, match=r"prototype_weight.*adversarial.*group_lasso.*trvae") as caught:
        train(model, cells_for(model.manifest), plan=plan, progress=False, accelerator="cpu")
    assert caught.value.facts == {"prototype_weight": 50, "group_lasso": 9, "adversarial": True}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tensors().items())
    assert model.manifest.training.plan is None


def test_a_recommendation_of_old_that_its_network_does_not_read_is_left_out() -> None:
    recommended = Plan(epochs=2, prototype_weight=50)
    model = Model.build(manifest("trvae").changed(query_plan=recommended))
    query = cells_for(model.manifest, QUERY, cells=80, labelled=False)
    assert query_plan(surgery(model, query)) == Plan(epochs=2)


def test_a_query_without_a_recommendation_trains_by_default() -> None:
    model = Model.build(manifest())
    query = cells_for(model.manifest, QUERY, cells=80)
    assert default_plan(surgery(model, query), query) == QUERY_PLAN


def test_a_reference_trains_as_is_recommended_for_its_kind() -> None:
    model = Model.build(manifest())
    cells = cells_for(model.manifest)
    assert default_plan(model, cells) == recommended("scpoli", cells=len(cells)).plan
    assert default_plan(model, cells).scpoli.contrast_weight > 0


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_a_loss_that_is_no_number_leaves_the_model_as_it_was(normalization: str) -> None:
    model = Model.build(manifest(normalization=normalization))
    cells = cells_for(model.manifest)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    before, record = model.tensors(), model.manifest
    cells.x.data[3] = np.nan
    with pytest.raises(errors.InvalidInput, match=r"the loss became nan in epoch 0.*lower learning_rate"):
        train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.tensors().items())
    assert model.manifest == record


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model.build(manifest())
    train(model, cells_for(model.manifest), plan=SHORT, accelerator="cpu")
    shown = capsys.readouterr()
    assert "3/3" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precision(precision: str) -> None:
    model = Model.build(manifest())
    plan = SHORT.model_copy(update={"unlabelled_weight": 0.5})
    cells = cells_for(model.manifest)
    half = np.where(np.arange(len(cells)) % 2, cells.labels["cell_type"], "")
    history = train(
        model,
        cells.relabelled({"cell_type": half}),
        plan=plan,
        precision=precision,
        progress=False,
        accelerator="cpu",
    )
    assert np.isfinite(history.epochs["train_loss"]).all()
    assert all(tensor.dtype == torch.float32 for tensor in model.tensors().values())


def test_mixed_precision_reads_the_counts_as_they_are() -> None:
    """The loss of an untrained model is that of float32 but for rounding, which thousands in bfloat16 would move."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        model = Model.build(manifest(likelihood="poisson", levels=()))
        cells = cells_for(model.manifest)
        cells.x.data[:] = 2.0**11 + 7
        plan = SHORT.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
        history = train(model, cells, plan=plan, precision=precision, progress=False, accelerator="cpu")
        losses.append(history.epochs["train_reconstruction"][0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"precision": "64-true"}, "precision is '64-true'.*32-true, 16-mixed, bf16-mixed"),
        ({"accelerator": "abacus"}, "accelerator='abacus'"),
        ({"accelerator": "cpu", "devices": 0}, "devices=0"),
    ],
)
def test_where_training_cannot_run(where: dict[str, Any], said: str) -> None:
    model = Model.build(manifest())
    with pytest.raises(errors.InvalidInput, match=said):
        train(model, cells_for(model.manifest), plan=SHORT, progress=False, **where)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_training_on_a_gpu(precision: str) -> None:
    model = Model.build(manifest())
    history = train(
        model, cells_for(model.manifest), plan=SHORT, precision=precision, progress=False, accelerator="cuda"
    )
    assert history.device.startswith("cuda")
    assert np.isfinite(history.epochs["train_loss"]).all()
    assert all(tensor.device.type == "cpu" for tensor in model.tensors().values())

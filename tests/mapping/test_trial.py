"""Whether a query is trained: what decides, what insists, and that a trial leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anndata
import numpy as np
import pytest
import torch

import hub_client
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.manifest.plan import Plan
from hub_client.mapping.map_query import Mapping
from hub_client.mapping.trial import LEAST_CELLS, UNNEEDED, Decision, _one_of_each, _reaches_latent, _short, decide
from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from hub_client.nn.training import Runtime
from hub_client.release.atlas_file import LATENT
from tests import simulated
from tests.contract.examples import trained
from tests.simulated import QUERY, cells_for

CPU = Runtime(accelerator="cpu", progress=False)
PLAN = Plan(epochs=3, batch_size=64, kl_anneal_epochs=0)
FAR, NEAR = PLAN.changed(epochs=20, learning_rate=0.5), PLAN.changed(learning_rate=1e-6)
"""Plans that move cells by much and by nothing."""


def query_of(model: Model, **options: Any) -> Cells:
    return cells_for(model.manifest, QUERY, **({"cells": 90, "labelled": False} | options))


def grown(kind: str, cells: Cells | None = None) -> tuple[Model, Cells]:
    model = trained(kind)
    cells = query_of(model) if cells is None else cells
    return surgery(model, cells, device="cpu"), cells


def decided(model: Model, cells: Cells, plan: Plan = PLAN, seed: int = 0) -> Decision:
    return decide(model, cells, plan=plan, seed=seed, runtime=CPU)


def mapped(kind: str, **options: Any) -> Mapping:
    given: dict[str, Any] = {"conditions": {"batch": "batch"}, "progress": False, "accelerator": "cpu"}
    return hub_client.map_query(simulated.counts(QUERY, cells=60), trained(kind), **given | options)


# --- what a trial finds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scvi", "scanvi"])
def test_an_encoder_that_reads_no_conditions_is_not_trained(kind: str) -> None:
    model, cells = grown(kind)
    found = decided(model, cells, FAR)
    assert (found.train, found.moved) == (False, 0.0)
    assert found.reason == f"{UNNEEDED}: the encoder does not read conditions, so no cell would move"


def test_cells_that_hardly_move_are_not_trained() -> None:
    model, cells = grown("scpoli")
    found = decided(model, cells, NEAR)
    assert not found.train and found.moved is not None and 0 < found.moved < 1e-3
    assert found.reason == f"{UNNEEDED}: it would move cells by 0.0% of their spread in the latent"


def test_cells_that_move_far_are_trained() -> None:
    model, cells = grown("scpoli")
    assert model.atlas is None
    found = decided(model, cells, FAR)
    assert found.train and found.moved is not None and found.moved > 0.1
    assert found.reason == f"it moves cells by {found.moved:.0%} of their spread in the latent"


@pytest.mark.parametrize("towards", [True, False])
def test_where_a_model_has_an_atlas_cells_have_to_come_closer_to_it(towards: bool) -> None:
    """The atlas's cells are where the query's are after training, or where they are before it."""
    model, cells = grown("trvae")
    assert model.atlas is not None
    other = surgery(trained("trvae"), cells, device="cpu")
    if towards:
        train(other, cells, plan=FAR.changed(early_stopping=None), progress=False, accelerator="cpu")
    points = embed(other, cells, device="cpu")
    atlas = anndata.AnnData(obs=model.atlas.obs.iloc[: len(points)].copy(), obsm={LATENT: points})
    found = decided(replace(model, atlas=atlas), cells, FAR)
    assert found.moved is not None and found.moved > 0.1
    assert found.train == towards
    shown = "closer to the reference's" if towards else f"{UNNEEDED}: it would bring cells no closer to the reference's"
    assert shown in found.reason


def test_few_cells_are_not_trained() -> None:
    model, cells = grown("scpoli")
    for count in (1, LEAST_CELLS - 1):
        found = decided(model, cells.rows(np.arange(count)), FAR)
        assert not found.train and found.reason == f"too few cells to try it on: {count} of {LEAST_CELLS}"
    assert decided(model, cells.rows(np.arange(LEAST_CELLS)), FAR).train


def test_a_plan_for_queries_without_epochs_is_kept_to() -> None:
    model, cells = grown("scpoli")
    assert decided(model, cells, Plan(epochs=0)) == Decision(False, "the plan for queries has no epochs")


def test_labels_and_clusters_of_its_own_are_learned() -> None:
    cells = query_of(trained("scpoli"), labelled=True)
    model, _ = grown("scpoli", cells)
    for given, plan in ((cells, NEAR), (query_of(model), NEAR.changed(unlabelled_weight=0.1))):
        found = decided(model, given, plan)
        assert found.train and "labels or clusters of its own" in found.reason


@pytest.mark.parametrize("kind", ["scvi", "scanvi"])
def test_labels_that_nothing_learns_are_no_reason(kind: str) -> None:
    """scVI has none, and nothing of scANVI would move for labels that it knows already; new ones it has to learn."""
    model, cells = grown(kind, query_of(trained(kind), labelled=True))
    assert UNNEEDED in decided(model, cells).reason
    if kind == "scanvi":
        names = np.where(np.arange(90) % 2, "a new one", cells.labels["cell_type"].astype(str))
        model, cells = grown(kind, replace(cells, labels={"cell_type": names}))
        assert decided(model, cells).train


def test_the_same_seed_decides_the_same() -> None:
    model, cells = grown("scpoli")
    one, two, other = (decided(model, cells, seed=seed) for seed in (0, 0, 1))
    assert one == two and one.moved != other.moved


def test_every_new_category_of_every_condition_is_looked_at() -> None:
    """Here all batches are known, and a single cell, the last, has a technology that is not."""
    model = trained("scpoli-two-conditions")
    cells = cells_for(model.manifest, cells=60, labelled=False)
    tech = np.full(60, "v2", dtype=object)
    tech[-1] = "v9"
    cells = replace(cells, conditions=cells.conditions | {"tech": tech})
    assert _one_of_each(cells).tolist() == [0, 1, 2, 59]
    assert _reaches_latent(surgery(model, cells, device="cpu").network, cells)


def test_a_query_of_many_batches_is_decided_as_one() -> None:
    model = trained("scpoli")
    names = np.array([f"new {number % 80}" for number in range(240)], dtype=object)
    cells = replace(query_of(model, cells=240), conditions={"batch": names})
    found = decided(surgery(model, cells, device="cpu"), cells, FAR)
    assert found.train and found.moved is not None and np.isfinite(found.moved)


@pytest.mark.parametrize(
    ("plan", "cells", "share"),
    [
        (Plan(epochs=20), 5_000, 40 / 800),
        (Plan(epochs=3), 100, 1.0),
        (Plan(steps=400), 100, 0.1),
    ],
)
def test_a_trial_is_a_share_of_the_whole_training(plan: Plan, cells: int, share: float) -> None:
    short = _short(plan, cells)
    assert short.share == pytest.approx(share)
    assert short.plan.over(384).epochs <= 40 and short.plan.validation_fraction == 0


# --- a trial leaves no trace -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*ARCHITECTURES, "scvi-covariates-encoded", "scpoli-zinb-batch-norm"])
def test_a_trial_leaves_the_model_as_it_was(kind: str) -> None:
    model, cells = grown(kind)
    before, moving = model.tensors(), [name for name, p in model.network.named_parameters() if p.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in model.network.named_buffers()}
    drawn = torch.random.get_rng_state()
    decided(model, cells, FAR)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert [name for name, p in model.network.named_parameters() if p.requires_grad] == moving
    for name, tensor in (before | buffers).items():
        assert torch.equal((model.tensors() | dict(model.network.named_buffers()))[name], tensor), name
    untried, _ = grown(kind)
    for each in (model, untried):
        train(each, cells, plan=PLAN, progress=False, accelerator="cpu")
    for name, tensor in untried.tensors().items():
        assert torch.equal(model.tensors()[name], tensor), name


# --- what insists ----------------------------------------------------------------------------------------------------


def test_who_insists_is_obeyed() -> None:
    asked = mapped("scvi", train=True)
    assert asked.history is not None and asked.decision == Decision(True, "as asked")
    assert asked.receipt.asked.plan is not None and asked.model.manifest.training.epochs
    planned = mapped("scvi", plan=PLAN)
    assert planned.history is not None and planned.decision == Decision(True, "by the plan that was given")
    refused = mapped("scvi", plan=PLAN, train=False)
    assert refused.history is None and refused.decision == Decision(False, "as asked")
    assert refused.receipt.asked.plan is None


def test_nobody_insists() -> None:
    found = mapped("scvi")
    assert found.history is None and found.receipt.asked.plan is None
    assert found.decision is not None and UNNEEDED in found.decision.reason
    np.testing.assert_array_equal(found.predictions.latent, mapped("scvi", train=False).predictions.latent)
    assert "plan" not in found.adata.uns["archzoo"]


def test_labels_that_a_query_brings_are_learned_unless_it_is_refused() -> None:
    found = mapped("scpoli", labels={"cell_type": "cell_type"})
    assert found.history is not None and found.decision is not None and "labels" in found.decision.reason
    assert mapped("scpoli", labels={"cell_type": "cell_type"}, train=False).history is None


def test_one_cell_is_mapped() -> None:
    one = hub_client.map_query(simulated.counts(QUERY, cells=1), trained("scpoli"), progress=False, accelerator="cpu")
    assert one.history is None and one.decision is not None and "too few cells" in one.decision.reason
    assert one.predictions.latent.shape == (1, 6)


def test_known_conditions_need_no_decision() -> None:
    model = with_atlas(trained("trvae"), cells_for(trained("trvae").manifest))
    found = hub_client.map_query(simulated.counts(cells=60), model, conditions={"batch": "batch"}, progress=False)
    assert (found.decision, found.history) == (None, None)

"""A model that knows its data passes its criticism, and one whose decoder is spoilt fails it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from hub_client.build.criticism import (
    WORST,
    Source,
    criticise,
    reproduction_figures,
    reproduction_metrics,
    worst_genes,
)
from hub_client.manifest.calibration import Metric
from hub_client.manifest.measures import REPRODUCED
from hub_client.manifest.plan import Plan
from hub_client.manifest.recipe import CriticismRule
from hub_client.models.model import Model
from hub_client.models.posterior_predictive import Replicate, Summary, posterior_predictive
from hub_client.models.train import train
from tests.contract.examples import trained
from tests.simulated import cells_for, manifest

SOURCE = Source("simulated", 0)
GENES = tuple(f"g{number}" for number in range(200))


def summary(seed: int, *, factor: float = 1.0, shuffled: bool = False) -> Summary:
    """Return a summary of 1,000 cells of one distribution, or of one that is off."""
    means = np.random.default_rng(0).gamma(0.5, 3.0, 200) * factor
    means = np.random.default_rng(1).permutation(means) if shuffled else means
    generator = np.random.default_rng(seed)
    x = generator.poisson(generator.gamma(2.0, means / 2.0, (1000, 200)) * generator.lognormal(0, 0.3, (1000, 1)))
    there = x > 0
    return Summary(
        x.mean(0), x.var(0), 1 - there.mean(0), there.sum(0), x.sum(1).astype(float), there.sum(1).astype(float)
    )


def failed(replicate: Replicate) -> set[str]:
    return {name for name, value in reproduction_figures(replicate).items() if REPRODUCED[name].fails(value)}


def test_draws_of_the_very_distribution_pass_gene_by_gene() -> None:
    replicate = Replicate(summary(1), summary(2), 1000, counts=True)
    figures = reproduction_figures(replicate)
    assert figures["mean_correlation"] > 0.99 and figures["mean_log_ratio"] < 0.1
    assert figures["zeros_difference"] < 0.02
    genes = {"mean_correlation", "mean_log_ratio", "variance_correlation", "variance_log_ratio", "zeros_difference"}
    assert not failed(replicate) & genes


def test_genes_that_were_exchanged_fail() -> None:
    replicate = Replicate(summary(1), summary(2, shuffled=True), 1000, counts=True)
    assert {"mean_correlation", "mean_log_ratio", "zeros_difference"} <= failed(replicate)


def test_twice_the_counts_fail() -> None:
    assert {"mean_log_ratio", "total_log_ratio"} <= failed(Replicate(summary(1), summary(1, factor=2), 1000, True))


def test_the_worst_gene_is_named_with_its_factor() -> None:
    observed, drawn = summary(1), summary(1)
    place = int(observed.mean.argmax())
    drawn.mean[place] *= 10
    worst = worst_genes(Replicate(observed, drawn, 1000, True), GENES)
    assert worst[0] == f"g{place} (x 10)" and len(worst) == WORST


def test_of_values_without_a_spread_only_mean_and_correlation_are_asked() -> None:
    figures = reproduction_figures(Replicate(summary(1), summary(2), 1000, counts=False))
    assert set(figures) == {"mean_correlation", "mean_log_ratio", "variance_correlation"}


def test_where_no_gene_is_expressed_nothing_is_said() -> None:
    few = summary(1)
    few.expressing[:] = 0
    assert reproduction_figures(Replicate(few, summary(2), 1000, True)) == {}


@cache
def well_trained(kind: str) -> Model:
    model = Model.build(manifest(kind, likelihood="nb"))
    plan = Plan(epochs=60, batch_size=32, learning_rate=0.01, kl_anneal_epochs=0, early_stopping=None, keep_best=False)
    train(model, cells_for(model.manifest), plan=plan, progress=False, accelerator="cpu")
    return model


def without_its_decoder(model: Model) -> Model:
    """Return the model with the weights that give genes their means in another order of genes."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(model.manifest.genes.names)))
    tensors = model.network.tensors()
    for name, spec in ((spec.name, spec) for spec in model.network.specs()):
        if name.startswith("decoder.mean") and spec.shape[0] == "genes":
            tensors[name] = tensors[name][order]
    spoilt = Model.build(model.manifest)
    spoilt.network.load(tensors)
    return spoilt


@pytest.mark.slow
def test_a_spoilt_decoder_is_beyond_several_bounds_and_the_trained_one_beyond_none() -> None:
    model = well_trained("scpoli")
    cells = cells_for(model.manifest)
    assert failed(posterior_predictive(model, cells)) == set()
    spoilt = failed(posterior_predictive(without_its_decoder(model), cells))
    assert {"mean_correlation", "mean_log_ratio"} <= spoilt


@pytest.mark.slow
def test_metrics_state_where_they_are_from() -> None:
    model = trained("scpoli")
    found = reproduction_metrics(model, cells_for(model.manifest), source=SOURCE)
    assert {metric.name for metric in found} == {f"reproduction.{name}" for name in REPRODUCED}
    assert {(metric.dataset, metric.n, metric.seed) for metric in found} == {("simulated", 240, 0)}
    assert all(metric.dataset_fingerprint for metric in found)
    assert "; fit worst: g" in next(one for one in found if one.name.endswith("mean_log_ratio")).definition


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "subjects"),
    [
        (CriticismRule(), {"reproduction", "integration"}),
        (CriticismRule(integration=False), {"reproduction"}),
        (CriticismRule(reproduction=False, integration=False), set()),
    ],
)
def test_a_recipe_says_what_is_asked(rule: CriticismRule, subjects: set[str]) -> None:
    model = trained("scpoli")
    cells = cells_for(model.manifest)
    half = np.arange(len(cells)) % 2 == 0
    found: tuple[Metric, ...] = criticise(
        model, cells.rows(half), cells.rows(~half), source=SOURCE, rule=rule, progress=False
    )
    assert {metric.name.partition(".")[0] for metric in found} == subjects

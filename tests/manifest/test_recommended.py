"""Settings for a new reference: what is recommended, and how what a recipe gives takes its place."""

from __future__ import annotations

import pytest

from hub_client import errors, recommended
from hub_client.manifest.configs import CONFIGS, ScPoliConfig
from hub_client.manifest.plan import OWNERS, EarlyStopping, Plan
from hub_client.manifest.recommended import plan_with_given, with_given


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("cells", [1, 374, 5000, 1_000_000])
def test_every_kind_reads_what_is_recommended_for_it(kind: str, cells: int) -> None:
    found = recommended(kind, cells=cells)
    assert found.architecture.kind == kind
    assert found.plan.checked_for(kind) == found.plan
    assert found.query_plan.checked_for(kind) == found.query_plan
    assert f"{cells:,} cells" in found.reason


def test_small_references_have_what_they_need() -> None:
    small, large = (recommended("scpoli", cells=cells) for cells in (999, 1000))
    assert (small.plan.gene_dropout, large.plan.gene_dropout) == (0.0, 0.5)
    assert "999 cells: gene_dropout 0.0, for fewer than 1,000; 2,000 steps" in small.reason
    assert large.reason == "recommended for scpoli of 1,000 cells: 2,000 steps at most"
    assert "fewer" not in recommended("trvae", cells=10).reason


@pytest.mark.parametrize("kind", CONFIGS)
def test_large_references_are_seen_and_annealed(kind: str) -> None:
    """Every cell four times at most, and what has to rise or join during training does."""
    found = recommended(kind, cells=1_000_000)
    assert found.plan.steps == 4 * 7813 and "31,252 steps at most, to see all of them 4 times" in found.reason
    plan = found.plan.over(1_000_000)
    assert plan.epochs == 20 and plan.kl_anneal_epochs == 20
    assert kind != "scpoli" or plan.scpoli.pretraining_epochs == 4


def test_training_is_as_long_for_few_cells_as_for_many() -> None:
    for cells in (300, 3_000, 30_000, 60_000):
        plan = recommended("scpoli", cells=cells).plan
        steps = plan.over(cells).epochs * -(-plan.cells_an_epoch(cells) // plan.batch_size)
        assert steps == pytest.approx(2000, rel=0.02)


def test_strangers_are_refused() -> None:
    with pytest.raises(errors.InvalidInput, match=r"'scpolly' is no kind of model; it is one of .*scpoli"):
        recommended("scpolly", cells=10)
    with pytest.raises(errors.InvalidInput, match="cells is 0"):
        recommended("scpoli", cells=0)


def test_given_hyperparameters_stand_and_the_rest_are_recommended() -> None:
    found = with_given(ScPoliConfig(latent=5), cells=5000)
    best = recommended("scpoli", cells=5000).architecture
    assert found == best.model_copy(update={"latent": 5})
    assert with_given(ScPoliConfig(encoder_input="log1p"), cells=5000).encoder_input == "log1p"


def test_a_given_default_is_given() -> None:
    found = plan_with_given(Plan(gene_dropout=0.0, contrast_weight=0.0), kind="scpoli", cells=5000)
    best = recommended("scpoli", cells=5000).plan
    assert found == best.changed(gene_dropout=0.0, contrast_weight=0.0)


def test_given_epochs_are_counted_instead_of_steps() -> None:
    best = recommended("scpoli", cells=5000).plan
    found = plan_with_given(Plan(epochs=10), kind="scpoli", cells=5000)
    assert (found.steps, found.epochs) == (None, 10)
    assert found.scpoli.pretraining_epochs == round(10 * best.scpoli.pretraining_epochs / best.epochs)
    assert plan_with_given(Plan(steps=7), kind="scpoli", cells=5000) == best.changed(steps=7)


def test_of_early_stopping_what_is_not_given_is_recommended() -> None:
    given = Plan.model_validate({"early_stopping": {"patience": 30}})
    found = plan_with_given(given, kind="scpoli", cells=5000)
    best = recommended("scpoli", cells=5000).plan.early_stopping
    assert best and found.early_stopping == best.model_copy(update={"patience": 30}) and best.watches == "labels"
    assert plan_with_given(Plan(early_stopping=None), kind="scpoli", cells=5000).early_stopping is None


def test_plans_for_queries_inherit_too() -> None:
    found = plan_with_given(Plan(epochs=30), kind="scpoli", cells=5000, query=True)
    assert found == recommended("scpoli", cells=5000).query_plan.changed(epochs=30)
    given = Plan.model_validate({"early_stopping": {"patience": 3}})
    assert plan_with_given(given, kind="scpoli", cells=5000, query=True).early_stopping == EarlyStopping(patience=3)


def test_the_options_of_a_kind_can_all_be_given() -> None:
    given = {name for name, owner in OWNERS.items() if owner == "scpoli"}
    found = plan_with_given(Plan(**{name: getattr(Plan().scpoli, name) for name in given}), kind="scpoli", cells=10)
    assert found.scpoli == Plan().scpoli

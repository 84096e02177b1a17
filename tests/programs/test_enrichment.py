"""Bayes factors: formulas whose answers are known, and what the table says of simulated programs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy.stats import norm

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.models.model import Model
from hub_client.programs.enrichment import (
    bayes_factors,
    enrichment,
    sampled_bayes_factors,
    term_scores,
    write_scores,
    written_scores,
)
from tests.contract.examples import EXAMPLES, trained
from tests.simulated import cells_for

EXPIMAP = next(name for name in EXAMPLES if name.startswith("expimap"))


def test_the_probability_is_that_of_a_normal_difference() -> None:
    found = bayes_factors(*(np.array([[value]]) for value in (1.0, 0.5, 0.2, 0.7)))
    expected = norm.cdf((1.0 - 0.2) / np.sqrt(1.2))
    np.testing.assert_allclose([found.p_h0[0], found.p_h1[0]], [expected, 1 - expected])
    np.testing.assert_allclose(found.bf, np.log(expected / (1 - expected)))


def test_drawn_points_converge_to_it() -> None:
    generator = np.random.default_rng(0)
    group, other = generator.normal(1.0, 0.7, (200_000, 1)), generator.normal(0.2, 0.8, (200_000, 1))
    exact = bayes_factors(*(np.array([[value]]) for value in (1.0, 0.49, 0.2, 0.64)))
    np.testing.assert_allclose(sampled_bayes_factors(group, other).bf, exact.bf, atol=0.02)


def test_a_program_that_is_always_zero_has_no_factor() -> None:
    mean, variance = np.zeros((4, 2)), np.ones((4, 2))
    other = np.tile([3.0, 0.0], (4, 1))
    np.testing.assert_array_equal(bayes_factors(mean, variance, other, variance), np.zeros((3, 2)))
    np.testing.assert_array_equal(sampled_bayes_factors(mean, other), np.zeros((3, 2)))


def test_certainty_is_finite() -> None:
    far, variance = np.full((3, 1), 1e6), np.ones((3, 1))
    assert np.isfinite(bayes_factors(far, variance, -far, variance).bf).all()


@cache
def example() -> tuple[Model, Cells]:
    model = trained(EXPIMAP)
    return model, cells_for(model.manifest)


def groups() -> pd.Series:
    _, cells = example()
    return pd.Series(np.where(np.arange(len(cells)) % 3 == 0, "one", "two"), index=cells.obs_names)


def test_scores_are_the_latent_in_the_terms_names() -> None:
    model, cells = example()
    scores = term_scores(model, cells, only_active=False)
    directions = [term.direction for term in model.manifest.terms]
    np.testing.assert_array_equal(scores.to_numpy(), model.network.embed(cells) * np.array(directions, np.float32))
    assert list(scores.columns) == [term.name for term in model.manifest.terms]
    assert list(scores.index) == list(cells.obs_names)


def test_the_table_is_sorted_and_seeded() -> None:
    model, cells = example()
    table = enrichment(model, cells, groups=groups(), pairs=500)
    assert list(dict.fromkeys(table["group"])) == ["one", "two"]
    for _, rows in table.groupby("group"):
        assert (rows["bayes_factor"].abs().diff().dropna() <= 0).all()
    np.testing.assert_allclose(table["p_h0"] + table["p_h1"], 1)
    pd.testing.assert_frame_equal(table, enrichment(model, cells, groups=groups(), pairs=500))
    assert not table.equals(enrichment(model, cells, groups=groups(), pairs=500, seed=1))


def test_two_groups_mirror_each_other() -> None:
    model, cells = example()
    table = enrichment(model, cells, groups=groups(), pairs=20_000).set_index(["group", "term"])["bayes_factor"]
    np.testing.assert_allclose(table["one"], -table["two"][table["one"].index], atol=0.15)


def test_groups_by_name_order_and_cells() -> None:
    model, cells = example()
    named = groups()
    expected = enrichment(model, cells, groups=named, comparison="two", pairs=200)
    shuffled = named.sample(frac=1, random_state=0)
    listed = {name: list(named.index[named == name]) for name in ("two", "one")}
    for same in (shuffled, named.to_numpy(), listed):
        pd.testing.assert_frame_equal(enrichment(model, cells, groups=same, comparison="two", pairs=200), expected)


def test_a_group_may_be_called_rest() -> None:
    model, cells = example()
    table = enrichment(model, cells, groups=groups().replace("two", "rest"), comparison="rest", pairs=100)
    assert set(table["group"]) == {"one"}


def test_the_table_says_what_a_group_was_compared_with() -> None:
    model, cells = example()
    three = pd.Series(np.array(["a", "b", "c"])[np.arange(len(cells)) % 3], index=cells.obs_names)
    for comparison, expected in (
        ("rest", {"a": "rest", "b": "rest", "c": "rest"}),
        ("b", {"a": "b", "c": "b"}),
        (["b", "c"], {"a": "b, c"}),
    ):
        table = enrichment(model, cells, groups=three, comparison=comparison, pairs=10)
        assert dict(zip(table["group"], table["comparison"], strict=True)) == expected


def test_pairs_must_be_drawn() -> None:
    model, cells = example()
    with pytest.raises(errors.InvalidInput, match="at least one pair"):
        enrichment(model, cells, groups=groups(), pairs=0)


def test_only_active_programs_are_compared() -> None:
    model, cells = example()
    first = model.manifest.terms[0]
    terms = (first.model_copy(update={"active": False, "direction": 0}), *model.manifest.terms[1:])
    less = replace(model, manifest=model.manifest.model_copy(update={"terms": terms}))
    assert first.name not in set(enrichment(less, cells, groups=groups(), pairs=10)["term"])
    assert first.name not in term_scores(less, cells)
    every = enrichment(less, cells, groups=groups(), pairs=10, only_active=False)
    assert set(every.loc[every["term"] == first.name, "bayes_factor"]) == {0.0}


def test_written_scores_survive_a_file(tmp_path: Path) -> None:
    model, cells = example()
    terms = tuple(t.model_copy(update={"name": f"a/b {t.name}"}) for t in model.manifest.terms)
    scores = term_scores(replace(model, manifest=model.manifest.model_copy(update={"terms": terms})), cells)
    adata = AnnData(obs=pd.DataFrame(index=pd.Index(cells.obs_names)))
    with pytest.raises(errors.InvalidInput, match="no scores"):
        written_scores(adata)
    write_scores(adata, scores)
    adata.write_h5ad(tmp_path / "scores.h5ad")
    pd.testing.assert_frame_equal(written_scores(read_h5ad(tmp_path / "scores.h5ad")), scores)


@pytest.mark.parametrize(
    ("comparison", "message"), [("three", "names groups three"), (["one", "two"], "nothing to compare")]
)
def test_a_comparison_that_cannot_be_made(comparison: str | list[str], message: str) -> None:
    model, cells = example()
    with pytest.raises(errors.VocabularyError, match=message):
        enrichment(model, cells, groups=groups(), comparison=comparison)


def test_groups_of_another_length() -> None:
    model, cells = example()
    with pytest.raises(errors.VocabularyError, match="give one for each"):
        enrichment(model, cells, groups=["one", "two"])


def test_a_model_without_programs() -> None:
    model = trained("scpoli")
    with pytest.raises(errors.Unsupported, match="no gene programs"):
        term_scores(model, cells_for(model.manifest))

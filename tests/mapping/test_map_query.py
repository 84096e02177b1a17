"""map_query(): what it returns, what it leaves alone, and what it refuses."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest

import hub_client
from hub_client import errors
from hub_client.manifest import Plan
from hub_client.manifest.receipts import MappingSettings
from hub_client.models.impute import impute_proteins
from hub_client.models.model import Model
from hub_client.programs.enrichment import written_scores
from tests import simulated

PLAN = Plan(epochs=3)


@pytest.fixture(scope="module")
def reference() -> Model:
    model = Model.build(simulated.manifest())
    hub_client.train(model, simulated.cells_for(model.manifest), plan=PLAN, progress=False)
    return model


@pytest.fixture
def query() -> anndata.AnnData:
    return simulated.counts(simulated.QUERY, cells=60)


def mapped(query: Any, reference: Model, **options: Any) -> Any:
    return hub_client.map_query(query, reference, plan=PLAN, progress=False, **options)


def test_its_arguments_are_the_settings_that_a_receipt_records() -> None:
    arguments = inspect.signature(hub_client.map_query).parameters.values()
    rest = ("adata", "model_or_name", "train", "progress")  # a receipt's plan says whether there was training
    given = {a.name: a.default for a in arguments if a.name not in rest}
    recorded = {name: field.default for name, field in MappingSettings.model_fields.items()}
    assert recorded["unknown_above"] is None  # in receipts from when every cell was named
    assert given == recorded | {"unknown_above": "shipped"}


def test_results_are_in_a_copy(reference: Model, query: anndata.AnnData) -> None:
    query.layers["kept"] = query.X.copy()
    query.uns["note"] = "kept"
    before = query.copy()
    mapping = mapped(query, reference, conditions={"batch": "batch"})
    assert mapping.adata.obsm["X_latent"].shape == (60, 6)
    assert set(mapping.adata.obs["cell_type_pred"]) <= set(simulated.CLASSES)
    assert mapping.adata.obs["cell_type_uncertainty"].between(0, 1).all()
    assert mapping.adata.uns["note"] == "kept"
    assert (mapping.adata.layers["kept"] != before.X).nnz == 0
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert (list(query.obsm), list(query.uns)) == ([], ["note"])
    assert (query.X != before.X).nnz == 0


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_a_file(reference: Model, query: anndata.AnnData, tmp_path: Path, suffix: str) -> None:
    query.var_names = [f"HLA/{name}é" if number > 55 else name for number, name in enumerate(query.var_names)]
    out = mapped(query, reference, conditions={"batch": "batch"}).adata
    path = tmp_path / f"mapped.{suffix}"
    getattr(out, f"write_{suffix}")(path)
    again = getattr(anndata, f"read_{suffix}")(path)
    np.testing.assert_array_equal(again.obsm["X_latent"], out.obsm["X_latent"])
    assert again.obs["cell_type_pred"].tolist() == out.obs["cell_type_pred"].tolist()
    said = again.uns["archzoo"]
    assert json.loads(said["alignment"])["coverage"] == pytest.approx(56 / 60)
    assert said["reference"]["name"] == "simulated"
    assert Plan.model_validate_json(said["plan"]) == PLAN
    assert {"torch", "archzoo"} <= set(said["versions"])


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_programs_are_scored_under_their_whole_names(query: anndata.AnnData, tmp_path: Path, suffix: str) -> None:
    manifest = simulated.manifest("expimap")
    names = [f"alpha/beta {term.name}, a name of some length" for term in manifest.terms]
    terms = [term.model_copy(update={"name": name}) for term, name in zip(manifest.terms, names, strict=True)]
    programs = Model.build(manifest.model_copy(update={"terms": tuple(terms)}))
    hub_client.train(programs, simulated.cells_for(programs.manifest), plan=PLAN, progress=False)
    mapping = mapped(query, programs, conditions={"batch": "batch"})
    cells = hub_client.align(query, mapping.model, conditions={"batch": "batch"})
    pd.testing.assert_frame_equal(mapping.scores, hub_client.term_scores(mapping.model, cells))
    assert list(mapping.scores) == names
    getattr(mapping.adata, f"write_{suffix}")(tmp_path / f"mapped.{suffix}")
    again = getattr(anndata, f"read_{suffix}")(tmp_path / f"mapped.{suffix}")
    pd.testing.assert_frame_equal(written_scores(again), mapping.scores)


@pytest.fixture(scope="module")
def measuring() -> Model:
    """A totalVI whose batch b2 did not measure the last protein."""
    model = Model.build(simulated.manifest("totalvi"))
    hub_client.train(model, simulated.cells_for(model.manifest), plan=PLAN, progress=False)
    return model


@pytest.mark.slow
def test_proteins_are_imputed_whether_the_query_has_them_or_not(measuring: Model, tmp_path: Path) -> None:
    query = simulated.counts(simulated.QUERY, cells=60, proteins=True)
    query.obsm["adt"] = query.obsm.pop("protein").drop(columns="CD3").add_suffix("_TotalSeqB")
    mapping = mapped(query, measuring, conditions={"batch": "batch"}, proteins="adt")
    assert list(mapping.proteins) == list(simulated.PROTEINS)
    assert (mapping.proteins > 0).all(axis=None)
    assert mapping.alignment.proteins.missing == ("CD3",)
    cells = hub_client.align(query, mapping.model, conditions={"batch": "batch"}, proteins="adt")
    pd.testing.assert_frame_equal(impute_proteins(mapping.model, cells, under=("b0", "b1")), mapping.proteins)
    mapping.adata.write_h5ad(tmp_path / "mapped.h5ad")
    again = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    np.testing.assert_array_equal(again.obsm["X_proteins_imputed"], mapping.proteins)
    assert list(again.uns["X_proteins_imputed"]) == list(simulated.PROTEINS)
    del query.obsm["adt"]
    without = mapped(query, measuring, conditions={"batch": "batch"})
    assert without.adata.obsm["X_proteins_imputed"].shape == (60, 12)
    assert without.alignment.proteins.source is None
    assert (without.receipt.query.proteins, without.receipt.asked.proteins) == (None, None)
    assert mapping.receipt.query.proteins and mapping.receipt.asked.proteins == "adt"


def test_a_model_without_proteins_imputes_none(reference: Model, query: anndata.AnnData) -> None:
    mapping = mapped(query, reference, conditions={"batch": "batch"})
    assert mapping.proteins is None
    assert "X_proteins_imputed" not in {*mapping.adata.obsm, *mapping.adata.uns}


def test_a_model_without_programs_scores_none(reference: Model, query: anndata.AnnData) -> None:
    mapping = mapped(query, reference, conditions={"batch": "batch"})
    assert mapping.scores is None
    assert "X_terms" not in {*mapping.adata.obsm, *mapping.adata.uns}


def test_a_pulled_reference_is_named_by_its_place(reference: Model, query: anndata.AnnData, tmp_path: Path) -> None:
    ref = hub_client.push(reference, "lab/simulated", hub=tmp_path / "hub")
    pulled = hub_client.pull("lab/simulated", hub=tmp_path / "hub")
    said = mapped(query, pulled).adata.uns["archzoo"]["reference"]
    places = {"name": "lab/simulated", "commit": ref.commit, "hub": str(tmp_path / "hub")}
    assert said == places | {"version": "1.0.0", "digest": ref.digest}


def test_a_reference_that_was_changed_since_is_not_called_what_it_was(
    reference: Model, query: anndata.AnnData, tmp_path: Path
) -> None:
    """The model of one mapping as the reference of the next has no commit of its own: what it grew from has."""
    ref = hub_client.push(reference, "lab/simulated", hub=tmp_path / "hub")
    grown = mapped(query, hub_client.pull("lab/simulated", hub=tmp_path / "hub")).model
    more = simulated.counts(simulated.SECOND_QUERY, cells=60)
    said = mapped(more, grown).adata.uns["archzoo"]["reference"]
    assert said["version"] == "1.1.0"
    assert said["grown_from"] == str(ref)
    assert said["digest"] == grown.manifest.digest != ref.digest
    assert "commit" not in said


def test_a_query_with_one_batch_gets_one_new_category(
    reference: Model, query: anndata.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    del query.obs["batch"]
    with caplog.at_level(logging.WARNING, logger="hub_client.mapping.map_query"):
        mapping = mapped(query, reference)
    assert mapping.model.vocabulary.conditions["batch"].new == ("query",)
    assert "query" in caplog.text


def test_known_conditions_need_no_training(reference: Model) -> None:
    mapping = mapped(simulated.counts(cells=60), reference, conditions={"batch": "batch"})
    assert mapping.history is None
    assert mapping.model is reference
    assert not {"plan", "start"} & set(mapping.adata.uns["archzoo"])


def test_a_labelled_query_brings_its_labels(reference: Model, query: anndata.AnnData) -> None:
    query.obs["mine"] = query.obs["cell_type"].replace("NK", "NEW")
    mapping = mapped(query, reference, conditions={"batch": "batch"}, labels={"cell_type": "mine"})
    assert "NEW" in mapping.model.vocabulary.labels["cell_type"]
    assert "NEW" in set(mapping.adata.obs["cell_type_pred"])


def test_paths_backed_files_and_mudata_give_the_same(reference: Model, query: anndata.AnnData, tmp_path: Path) -> None:
    query.write_h5ad(tmp_path / "query.h5ad")
    expected = mapped(query, reference).predictions.latent
    backed = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r")
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": query.copy()})
    for other in (tmp_path / "query.h5ad", backed, both):
        np.testing.assert_array_equal(mapped(other, reference).predictions.latent, expected)


def test_cells_above_a_threshold_are_unknown(reference: Model, query: anndata.AnnData) -> None:
    out = mapped(query, reference, unknown_above=0.2).adata
    found = out.obs
    assert out.uns["archzoo"]["unknown_above"] == 0.2
    assert ((found["cell_type_pred"] == "unknown") == (found["cell_type_uncertainty"] > 0.2)).all()


def test_the_same_seed_gives_the_same_results(reference: Model, query: anndata.AnnData) -> None:
    one, two, other = (mapped(query, reference, seed=seed).predictions.latent for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_things_of_another_kind_are_named(reference: Model, query: anndata.AnnData) -> None:
    """The mistakes of somebody who has the order of the verbs wrong."""
    cells = hub_client.align(query, reference)
    wrong: dict[str, Callable[[], object]] = {
        "not as align.. returns": lambda: hub_client.surgery(reference, query),
        "given as AnnData": lambda: hub_client.embed(reference, query),
        "call map_query": lambda: hub_client.train(reference, query),
        "given as str": lambda: hub_client.predict(reference, "query.h5ad"),
        "pass hub_client.pull..pbmc-scpoli": lambda: hub_client.align(query, "pbmc-scpoli"),
        "not by a int": lambda: hub_client.map_query(query, 3),
        "Plan.epochs=20": lambda: hub_client.train(reference, cells, plan={"epochs": 2}),
        "group_lasso .of expimap., which scpoli": lambda: hub_client.map_query(
            query, reference, plan=PLAN.changed(group_lasso=1)
        ),
        "conditions= is a str; write": lambda: hub_client.map_query(query, reference, conditions="batch"),
        "labels= is a list; write": lambda: hub_client.map_query(query, reference, labels=["cell_type"]),
        "batch_size is 0": lambda: hub_client.embed(reference, cells, batch_size=0),
    }
    for message, call in wrong.items():
        with pytest.raises(errors.InvalidInput, match=message):
            call()


def with_x(change: Callable[[Any], Any]) -> Callable[[anndata.AnnData], anndata.AnnData]:
    """Return a function that gives a query other values."""

    def changed(query: anndata.AnnData) -> anndata.AnnData:
        query.X = np.asarray(change(query.X.toarray()), dtype=np.float32)
        return query

    return changed


def with_names(axis: str, name: Callable[[int], str]) -> Callable[[anndata.AnnData], anndata.AnnData]:
    """Return a function that gives a query's cells or genes other names."""

    def changed(query: anndata.AnnData) -> anndata.AnnData:
        setattr(query, axis, [name(number) for number in range(len(getattr(query, axis)))])
        return query

    return changed


def with_gaps(query: anndata.AnnData) -> anndata.AnnData:
    query.obs["batch"] = query.obs["batch"].where(np.arange(query.n_obs) > 2)
    return query


BAD: dict[str, tuple[Callable[[anndata.AnnData], anndata.AnnData], str, type[Exception], str]] = {
    "no shared genes": (with_names("var_names", "x{}".format), "batch", errors.AlignmentError, "shares no gene"),
    "no genes": (lambda query: query[:, []].copy(), "batch", errors.AlignmentError, "has no genes"),
    "log-normalised": (
        with_x(lambda x: np.log1p(x / x.sum(1, keepdims=True) * 1e4)),
        "batch",
        errors.AlignmentError,
        "X holds log-normalised counts",
    ),
    "NaN": (with_x(lambda x: np.where(x == x.max(), np.nan, x)), "batch", errors.AlignmentError, "X holds NaN"),
    "negative": (with_x(lambda x: x - 1), "batch", errors.AlignmentError, "X holds negative values"),
    "no cells": (lambda query: query[[]].copy(), "batch", errors.AlignmentError, "has no cells"),
    "repeated names": (with_names("obs_names", lambda n: f"cell{n // 2}"), "batch", errors.AlignmentError, "than once"),
    "unknown column": (lambda query: query, "donor", errors.VocabularyError, "no column 'donor'"),
    "gaps": (with_gaps, "batch", errors.VocabularyError, "no value .NaN. for 3 of 60 cells"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_has_its_own_error(reference: Model, query: anndata.AnnData, what: str) -> None:
    change, column, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        mapped(change(query), reference, conditions={"batch": column})


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_cells_have_one_name_everywhere(reference: Model, query: anndata.AnnData) -> None:
    query.obs.index = pd.date_range("2020", periods=60)
    query.obsm["frame"] = pd.DataFrame({"a": np.ones(60)}, index=query.obs.index)
    mapping = mapped(query, reference, conditions={"batch": "batch"})
    names = [str(day.date()) for day in pd.date_range("2020", periods=60)]
    assert list(mapping.adata.obs_names) == list(mapping.predictions.obs_names) == names
    assert list(mapping.adata.obsm["frame"].index) == names
    truth = {"cell_type": query.obs["cell_type"]}
    assert hub_client.evaluate(mapping.predictions, truth).levels[0].cells == 60


def test_what_cannot_be_read_after_training_costs_no_result(
    reference: Model, query: anndata.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    query.layers["other"] = query.X.copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    with h5py.File(tmp_path / "query.h5ad", "a") as file:
        file["layers/other/indptr"][-1] = 10**9
        del file["layers/other/indices"]
    mapping = mapped(tmp_path / "query.h5ad", reference, conditions={"batch": "batch"})
    assert "layers['other'] cannot be read or copied" in caplog.text
    assert (mapping.adata.X != query.X).nnz == 0 and "cell_type_pred" in mapping.adata.obs

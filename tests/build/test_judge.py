"""judge(): calibrations over batches that are left out, or over held-out cells, and what is reported of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from hub_client import errors
from hub_client.build.judge import HALVES, Training, judge
from hub_client.data.cells import Cells
from hub_client.labels.calibrate import calibrate
from hub_client.labels.evaluate import evaluate
from hub_client.labels.predict import predict
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration
from hub_client.manifest.measures import METHODS, TRANSFERRED, criticises, left_out_name, left_out_split
from hub_client.manifest.plan import Plan
from hub_client.manifest.recipe import Recipe
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.train import train
from hub_client.nn.training import split
from tests.simulated import CLASSES, REFERENCE, cells_for, manifest

LEVELS = {"cell_type": sorted(CLASSES), "cell_class": sorted(set(CLASSES.values()))}


def recipe(*levels: str, version: int = 2, **changes: Any) -> Recipe:
    """Return a recipe of simulated cells, whose levels are these."""
    return Recipe.model_validate(
        {
            "recipe_version": version,
            "name": "tiny",
            "version": "0.1.0",
            "title": "Tiny",
            "summary": "Cells that never lived.",
            "authors": [{"name": "Somebody"}],
            "license": "CC0-1.0",
            "data_license": "CC0-1.0",
            "intended_use": "Tests.",
            "limitations": "All of them.",
            "ontologies": {"NCBITaxon": "2026-05-13"},
            "organism": {"id": "NCBITaxon:9606", "label": "Homo sapiens"},
            "datasets": [
                {
                    "name": "simulated",
                    "file": "simulated.h5ad",
                    "source": "made here",
                    "fingerprint": "0" * 64,
                    "conditions": {"batch": "batch"},
                    "labels": {level: level for level in levels},
                }
            ],
            "panel": {"size": 60},
            "conditions": [{"key": "batch", "encoding": {"kind": "embedding", "dim": 4}}],
            "labels": [{"key": level, "ontology": {}, "without_id": LEVELS[level]} for level in levels],
            "architecture": {"kind": "scpoli", "hidden": [16], "latent": 6},
            "plan": {"epochs": 4},
            "trust": {"transfer": "prototypes"},
            "holdout": {"fraction": 0.25},
            "test_cells": 5,
        }
        | changes
    )


def fitted(model: Model, cells: Cells) -> Model:
    train(model, cells, plan=Plan(epochs=20, learning_rate=5e-3, kl_anneal_epochs=0), progress=False, accelerator="cpu")
    return model


@dataclass
class Judged:
    """A model that was judged, and what it was judged by."""

    model: Model
    training: Cells
    held_out: Cells
    trainings: list[tuple[str, ...]]
    """The batches of each model that was trained to judge it by."""

    @property
    def metrics(self) -> dict[str, float]:
        return {metric.name: metric.value for metric in self.model.manifest.metrics}


def judged(rules: Recipe, *, batches: tuple[str, ...] = REFERENCE, blank: tuple[str, str] | None = None) -> Judged:
    """Train and judge a model; ``blank`` names a batch, and a level of which its cells have no labels."""
    described = manifest(levels=[rule.key for rule in rules.labels])
    known = described.conditions[0].model_copy(update={"categories": batches})
    described = described.changed(conditions=(known,))
    cells = cells_for(described, batches)
    if blank is not None:
        labels = np.where(cells.conditions["batch"] == blank[0], "", cells.labels[blank[1]])
        cells = replace(cells, labels=cells.labels | {blank[1]: labels})
    model = Model.build(described, seed=0)
    rows, kept = (part.numpy() for part in split(cells, model.vocabulary, fraction=0.25, seed=0))
    training, held_out = cells.rows(rows), cells.rows(kept)
    found = Judged(fitted(model, training), training, held_out, [])

    def watched(fresh: Model, rest: Cells) -> Model:
        found.trainings.append(fresh.manifest.conditions[0].categories)
        return fitted(fresh, rest)

    studies = np.full(len(training), "simulated")
    judge(found.model, Training(training, studies, watched, progress=False, device="cpu"), held_out, rules)
    return found


def by_held_out(found: Judged, level: str) -> Calibration:
    """Return the calibration that the held-out cells give."""
    evidences = evidence(found.model, embed(found.model, found.held_out), cells=found.held_out)
    decided = Calibration(level=level, temperature=1.0)
    return calibrate(evidences[level], found.held_out.labels[level], calibration=decided)


@pytest.fixture(scope="module")
def second() -> Judged:
    """A model that was judged by batches left out."""
    return judged(recipe("cell_type"))


@pytest.mark.slow
def test_calibrations_come_from_batches_that_are_left_out(second: Judged) -> None:
    trust = second.model.manifest.trust
    (calibration,) = trust.calibrations
    assert second.trainings == [("b1", "b2"), ("b0", "b2"), ("b0", "b1")]
    cells = f"{len(second.training):,} cells of b0, b1, b2"
    assert calibration.fitted_on == f"{cells}, each as a model of the others sees it"
    assert trust.validated_on == calibration.fitted_on
    assert calibration.set_above is not None and calibration.distance_scale is not None
    assert calibration.temperature != pytest.approx(by_held_out(second, "cell_type").temperature, rel=1e-3)


@pytest.mark.slow
def test_what_is_reported_are_held_out_cells_under_that_calibration(second: Judged) -> None:
    found = predict(second.model, second.held_out, unknown_above=None, device="cpu")
    report = evaluate(found, {"cell_type": second.held_out.labels["cell_type"]})["cell_type"]
    assert second.metrics["cell_type.accuracy"] == pytest.approx(report.accuracy)
    assert second.metrics["cell_type.calibration_error"] == pytest.approx(report.calibration_error)
    assert second.metrics["cell_type.set_coverage"] == pytest.approx(report.set_coverage)
    assert second.metrics["cell_type.set_size"] == pytest.approx(report.set_size)
    assert not any(HALVES in metric.definition for metric in second.model.manifest.metrics)


@pytest.mark.slow
def test_every_batch_has_figures_of_the_model_and_its_opponents(second: Judged) -> None:
    told = {(metric.split, metric.name): metric for metric in second.model.manifest.metrics if criticises(metric.name)}
    names = [left_out_name("cell_type", method, figure) for method in METHODS for figure in TRANSFERRED]
    assert told.keys() == {(left_out_split(batch), name) for batch in REFERENCE for name in names}
    sizes = {batch: int((second.training.conditions["batch"] == batch).sum()) for batch in REFERENCE}
    assert {batch: told[left_out_split(batch), names[0]].n for batch in REFERENCE} == sizes
    assert all(told[left_out_split(batch), names[0]].value > 0.5 for batch in REFERENCE)  # four labels


@pytest.mark.slow
def test_a_level_that_one_batch_alone_has_is_calibrated_on_held_out_cells() -> None:
    found = judged(recipe("cell_type", "cell_class"), batches=("b0", "b1"), blank=("b1", "cell_class"))
    by_level = {c.level: c for c in found.model.manifest.trust.calibrations}
    assert (by_level["cell_type"].fitted_on or "").endswith("cells of b0, b1, each as a model of the others sees it")
    alone = by_level["cell_class"]
    assert alone.fitted_on is None and alone.set_above is not None
    assert alone.temperature == pytest.approx(by_held_out(found, "cell_class").temperature)
    assert not any(name.startswith("cell_class.left_out") for name in found.metrics)
    assert any(name.startswith("cell_type.left_out") for name in found.metrics)


def test_recipes_of_version_1_give_what_they_gave_before() -> None:
    found = judged(recipe("cell_type", version=1))
    trust = found.model.manifest.trust
    assert found.trainings == []
    assert trust.calibrations == (by_held_out(found, "cell_type"),)
    assert trust.validated_on == (
        f"{len(found.held_out):,} cells of the reference's own data sets that were not trained on"
    )
    figures = ("accuracy", "latent_accuracy", "macro_f1", "latent_macro_f1", "calibration_error")
    assert set(found.metrics) == {f"cell_type.{figure}" for figure in figures}
    (error,) = (metric for metric in found.model.manifest.metrics if metric.name == "cell_type.calibration_error")
    assert error.definition == "expected calibration error of the uncertainty over ten bins" + HALVES
    written = found.model.manifest.canonical()
    assert not any(field in written for field in (b"set_above", b"set_coverage", b"fitted_on"))


@pytest.mark.parametrize(
    ("batches", "trust"), [(("b0",), {}), (REFERENCE, {"left_out": False})], ids=["one batch", "as asked"]
)
def test_without_parts_to_leave_out_held_out_cells_calibrate_sets_too(
    batches: tuple[str, ...], trust: dict[str, Any]
) -> None:
    found = judged(recipe("cell_type", trust={"transfer": "prototypes"} | trust), batches=batches)
    assert found.trainings == []
    (calibration,) = found.model.manifest.trust.calibrations
    expected = by_held_out(found, "cell_type")
    assert calibration.model_copy(update={"set_above": None}) == expected
    assert calibration.set_above is not None
    assert {"cell_type.set_coverage", "cell_type.set_size"} <= found.metrics.keys()
    definitions = {metric.name: metric.definition for metric in found.model.manifest.metrics}
    assert definitions["cell_type.set_coverage"].endswith(HALVES)
    assert not any(criticises(name) for name in found.metrics)


@pytest.mark.parametrize("version", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_gates_are_asked_of_held_out_cells(version: int) -> None:
    gate = {"level": "cell_type", "metric": "accuracy", "at_least": 1.0}
    with pytest.raises(errors.InvalidInput, match=r"cell_type.accuracy is 0\.\d+, wanted at least 1"):
        judged(recipe("cell_type", version=version, gates=[gate]))

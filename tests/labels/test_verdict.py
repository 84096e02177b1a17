"""The verdict on a mapping: its colours, its words, and each of its measures on cells made to pass and to fail it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from hub_client.data.cells import Cells
from hub_client.data.depth import depth_of
from hub_client.labels import verdict_measures as measures
from hub_client.labels.atlas import with_atlas
from hub_client.labels.predict import LabelPrediction, Predictions, predict
from hub_client.labels.verdict import MEASURES, Limits, Measure, Verdict, verdict
from hub_client.labels.verdict_measures import Mapped, NotChecked, sampled
from hub_client.manifest.axes import Markers
from hub_client.manifest.calibration import Depth
from hub_client.models.model import Model
from tests.contract.examples import trained
from tests.simulated import GENES, cells_for

GENERATOR = np.random.default_rng(0)


def model_with_atlas(kind: str = "scpoli") -> Model:
    return with_atlas(trained(kind), cells_for(trained(kind).manifest))


def mapped(model: Model, cells: Cells | None = None, **changes: Any) -> Mapped:
    cells = cells_for(model.manifest, cells=200, seed=4) if cells is None else cells
    found = predict(model, cells, device="cpu")
    return Mapped(**{"model": model, "cells": cells, "predictions": found, "sample": np.arange(len(cells))} | changes)


def at(model: Model, latent: Any) -> Mapped:
    """Return a mapping whose cells lie elsewhere."""
    before = mapped(model)
    return replace(before, predictions=replace(before.predictions, latent=np.asarray(latent, np.float32)))


def labelled(before: Mapped, label: str, uncertainty: float) -> Mapped:
    """Return a mapping in which all cells have one label, with one uncertainty."""
    (key,) = before.predictions.levels
    names = before.model.vocabulary.labels[key].names
    shares = pd.DataFrame(0.0, index=before.cells.obs_names, columns=list(names)).assign(**{label: 1.0})
    cells = len(before.cells)
    level = LabelPrediction(np.array([label] * cells, object), np.full(cells, uncertainty), shares, None)
    return replace(before, predictions=replace(before.predictions, levels={key: level}))


def number(found: float | NotChecked) -> float:
    assert isinstance(found, float), found
    return found


def reason(found: float | NotChecked) -> str:
    assert isinstance(found, NotChecked), found
    return found.reason


# --- colours and words -------------------------------------------------------------------------------------------


def row(value: float | NotChecked, **more: Any) -> Measure:
    return Measure("x", lambda _: value, "x is {value}", "Do y.", **{"limits": Limits(0.2, 0.5)} | more)


@pytest.mark.parametrize(
    ("value", "worse", "limits", "colour"),
    [
        (0.2, "above", Limits(0.2, 0.5), "green"),
        (0.21, "above", Limits(0.2, 0.5), "amber"),
        (0.51, "above", Limits(0.2, 0.5), "red"),
        (0.51, "above", Limits(0.2), "amber"),
        (0.51, "above", Limits(), "green"),
        (0.51, "below", Limits(0.5, 0.2), "green"),
        (0.49, "below", Limits(0.5, 0.2), "amber"),
        (0.19, "below", Limits(0.5, 0.2), "red"),
    ],
)
def test_a_check_is_a_number_against_its_thresholds(value: float, worse: Any, limits: Limits, colour: str) -> None:
    model = trained("scpoli")
    check = row(value, worse=worse, limits=limits).check(mapped(model))
    assert (check.colour, check.value, check.amber, check.red) == (colour, value, limits.amber, limits.red)
    assert check.advice == ("" if colour == "green" else "Do y.")


def test_it_says_the_number_and_the_thresholds_or_why_there_is_none() -> None:
    cells = mapped(trained("scpoli"))
    assert row(0.3).check(cells).what == "x is 30.0% (amber above 20.0%, red above 50.0%)."
    check = row(NotChecked("there are no y")).check(cells)
    assert (check.colour, check.value, check.advice) == ("not checked", None, "")
    assert check.what == "There are no y."


def test_the_worst_check_decides_and_is_named_first() -> None:
    cells = mapped(trained("scpoli"))
    checks = tuple(replace(row(value).check(cells), name=name) for name, value in (("a", 0.1), ("b", 0.3), ("c", 0.9)))
    found = Verdict("red", checks)
    assert found.stated == "red: c (red), b (amber)"
    assert str(found).splitlines()[1].startswith("  red: x is 90.0%") and "Do y." in str(found)
    assert Verdict("green", checks[:1]).stated == "green: nothing against it in 1 checks"


def test_every_row_has_a_name_of_its_own_a_number_and_advice() -> None:
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    for measure in MEASURES:
        assert "{value}" in measure.said and measure.advice.endswith(".")


@pytest.mark.parametrize("kind", ["scpoli", "trvae", "expimap", "scvi", "scanvi"])
def test_models_of_every_kind_are_judged_twice_alike(kind: str) -> None:
    model = trained(kind)
    cells = cells_for(model.manifest, cells=90, seed=5)
    one, two = (verdict(model, cells, predictions=predict(model, cells, device="cpu"), seed=3) for _ in range(2))
    assert one == two and [check.name for check in one.checks] == [measure.name for measure in MEASURES]
    assert json.loads(json.dumps(one.as_json()))["colour"] == one.colour


def test_some_cells_are_drawn_under_the_seed() -> None:
    assert sampled(50, seed=0).tolist() == list(range(50))
    one, two = sampled(9_000, seed=0), sampled(9_000, seed=1)
    assert len(one) == measures.SAMPLE and (np.diff(one) > 0).all() and one.max() < 9_000
    assert (one == sampled(9_000, seed=0)).all() and (one != two).any()


# --- what went in ------------------------------------------------------------------------------------------------


def test_doubts_of_alignment_are_counted() -> None:
    before = mapped(trained("scpoli"))
    assert measures.doubts(before) == 0
    report = replace(before.cells.report, doubts=("the values are odd.",))
    assert measures.doubts(replace(before, cells=replace(before.cells, report=report))) == 1


def skewed(x: Any) -> float | NotChecked:
    before = mapped(trained("scpoli"))
    return measures.skew(replace(before, cells=replace(before.cells, x=csr_matrix(x)), sample=np.arange(len(x))))


def test_counts_are_told_from_logarithms_that_were_rounded() -> None:
    counts = GENERATOR.negative_binomial(0.4, 0.4 / (0.4 + np.geomspace(0.2, 200, 300)), (40, 300)).astype(np.float32)
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).round().astype(np.float32)
    (threshold,) = [m.limits.red for m in MEASURES if m.name == "counts" and isinstance(m.limits, Limits)]
    assert threshold is not None and number(skewed(logs)) < threshold < number(skewed(counts))
    assert "100 of the model's genes" in reason(skewed(counts[:, :50]))


def with_depth(model: Model, depth: Depth) -> Model:
    trust = model.manifest.trust.model_copy(update={"depth": depth})
    return replace(model, manifest=model.manifest.changed(trust=trust))


def test_depth_is_compared_with_the_references() -> None:
    model = trained("scpoli")
    assert "does not state" in reason(measures.depth(mapped(model)))
    cells = cells_for(model.manifest, cells=200, seed=4)
    alike = mapped(with_depth(model, depth_of(cells)), cells)
    assert number(measures.depth(alike)) == pytest.approx(0.1, abs=0.01)
    shallow = replace(cells, x=cells.x.multiply(0.05).tocsr())
    assert number(measures.depth(replace(alike, cells=shallow))) > 0.9
    few = replace(cells, report=replace(cells.report, coverage=0.2, missing=GENES[:48]))
    assert "too few" in reason(measures.depth(replace(alike, cells=few)))


# --- where cells lie ---------------------------------------------------------------------------------------------


def test_strangers_lie_beyond_the_atlas() -> None:
    model = model_with_atlas()
    assert number(measures.beyond_atlas(mapped(model, cells_for(model.manifest)))) < 0.15
    assert measures.beyond_atlas(at(model, mapped(model).predictions.latent + 50)) == 1
    assert "no atlas" in reason(measures.beyond_atlas(mapped(trained("scpoli"))))


def test_neighbourhoods_are_kept_or_lost() -> None:
    model = trained("scpoli")
    before = mapped(model)
    components = measures._components(before)
    assert components is not None
    assert number(measures.neighborhoods_kept(at(model, components))) > 0.95
    noise = GENERATOR.normal(size=(200, 6))
    assert abs(number(measures.neighborhoods_kept(at(model, noise)))) < 0.1
    few = replace(before, sample=np.arange(40))
    assert "60 cells" in reason(measures.neighborhoods_kept(few))


def test_mixing_is_one_by_chance_and_zero_apart() -> None:
    one, two = (GENERATOR.normal(size=(size, 5)).astype(np.float32) for size in (400, 150))
    assert measures.mixing([one, two]) == pytest.approx(1, abs=0.1)
    assert measures.mixing([one, two + 100]) == 0
    assert measures.mixing([one, two[:10]]) is None


def test_batches_and_reference_are_compared_within_labels() -> None:
    model = model_with_atlas()
    before = labelled(mapped(model), "T", 0.1)
    batches = before.batches
    apart = before.predictions.latent + 100 * batches[:, None].astype(np.float32)
    split = replace(before, predictions=replace(before.predictions, latent=apart))
    assert number(measures.batches_mixed(before)) > 0.3 and measures.batches_mixed(split) == 0
    far = replace(before, predictions=replace(before.predictions, latent=before.predictions.latent + 100))
    assert measures.reference_mixed(far) == 0 < number(measures.reference_mixed(mapped(model)))
    one = replace(before, sample=np.flatnonzero(batches == 0))
    assert "one batch" in reason(measures.batches_mixed(one))
    assert "no atlas" in reason(measures.reference_mixed(mapped(trained("scpoli"))))


# --- labels ------------------------------------------------------------------------------------------------------


def test_uncertainty_and_the_share_beyond_the_releases_threshold() -> None:
    sure, unsure = (labelled(mapped(trained("scpoli")), "T", doubt) for doubt in (0.2, 0.7))
    assert measures.mean_uncertainty(sure) == pytest.approx(0.2)
    assert (measures.unknown(sure), measures.unknown(unsure)) == (0, 1)


def marked(markers: Markers) -> Mapped:
    model = trained("scpoli")
    (level,) = model.manifest.labels
    levels = (level.model_copy(update={"markers": {"T": markers}}),)
    return labelled(mapped(replace(model, manifest=model.manifest.changed(labels=levels))), "T", 0.1)


def test_markers_contradict_labels() -> None:
    counts = mapped(trained("scpoli")).cells.x.toarray()
    wrong = number(measures.contradicted(marked(Markers(absent=("g3",)))))
    assert wrong == pytest.approx((counts[:, 3] > 0).mean())
    deep = counts.sum(axis=1) >= measures.DEEP
    lacking = number(measures.contradicted(marked(Markers(present=("g3", "g4")))))
    assert lacking == pytest.approx(((counts[:, 3] + counts[:, 4] == 0) & deep).mean())
    unsure = labelled(marked(Markers(absent=("g3",))), "T", 0.9)
    assert "0 confidently labelled" in reason(measures.contradicted(unsure))
    assert "names no markers" in reason(measures.contradicted(mapped(trained("scpoli"))))
    assert "0 confidently labelled" in reason(measures.contradicted(marked(Markers(present=("g3", "elsewhere")))))


# --- training ----------------------------------------------------------------------------------------------------


def moved(before: Mapped, *, by: float) -> Predictions:
    latent = before.predictions.latent
    spread = np.linalg.norm(latent - latent.mean(axis=0), axis=1).mean()
    step = np.zeros_like(latent)
    step[:, 0] = by * spread
    return replace(before.predictions, latent=latent + step)


def test_what_training_changed() -> None:
    before = mapped(trained("scpoli"))
    assert "nothing was trained" in reason(measures.shift(before))
    assert "nothing was trained" in reason(measures.labels_changed(before))
    after = replace(before, untrained=moved(before, by=0.5))
    assert number(measures.shift(after)) == pytest.approx(0.5, rel=1e-4)
    assert measures.labels_changed(after) == 0
    other = labelled(before, "T", 0.1)
    share = (measures.likeliest(before.predictions.levels["cell_type"]) != "T").mean()
    assert measures.labels_changed(replace(other, untrained=before.predictions)) == pytest.approx(share)

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.predict import UNKNOWN, joined, predict, predictable, threshold
from hub_client.manifest.calibration import Calibration, Trust
from hub_client.manifest.plan import Plan
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.train import train
from tests.simulated import CLASSES, cells_for, manifest

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
DESCRIBED = manifest(levels=("cell_type", "cell_class"))


@cache
def reference() -> Model:
    model = Model.build(DESCRIBED)
    plan = Plan(epochs=25, learning_rate=5e-3, kl_anneal_epochs=0)
    train(model, cells_for(DESCRIBED), plan=plan, progress=False, accelerator="cpu")
    return model


def held_out() -> Cells:
    return cells_for(DESCRIBED, seed=9)


def calibrated(**calibration: Any) -> Model:
    trust = Trust(calibrations=(Calibration(level="cell_type", **calibration),))
    return Model(reference().manifest.model_copy(update={"trust": trust}), reference().network)


def test_labels_are_those_of_the_nearest_prototype() -> None:
    found = predict(reference(), held_out(), device="cpu")
    for level in found.levels.values():
        assert level.distances is not None
        nearest = level.distances.to_numpy().argmin(axis=1)
        assert_array_equal(level.labels, level.distances.columns[nearest])
        assert_array_equal(level.labels, level.probabilities.columns[level.probabilities.to_numpy().argmax(axis=1)])


@pytest.mark.parametrize("device", ["abacus", pytest.param("cuda", marks=NO_GPU)])
def test_a_device_there_is_none_of(device: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"cannot run on '{device}'.*'cpu'"):
        embed(reference(), held_out(), device=device)


def test_labels_are_mostly_right() -> None:
    cells = held_out()
    found = predict(reference(), cells, device="cpu")
    for key, level in found.levels.items():
        assert (level.labels == cells.labels[key]).mean() > 0.8


def test_the_latent_is_embeds() -> None:
    assert_array_equal(
        predict(reference(), held_out(), device="cpu").latent, embed(reference(), held_out(), device="cpu")
    )


def test_frames_are_by_cell_and_label() -> None:
    cells = held_out()
    found = predict(reference(), cells, device="cpu")
    for key, names in (("cell_type", ["B", "Mono", "NK", "T"]), ("cell_class", ["lymphoid", "myeloid"])):
        level = found.levels[key]
        assert level.distances is not None
        for frame in (level.probabilities, level.distances):
            assert list(frame.columns) == names
            assert_array_equal(frame.index, cells.obs_names)


def test_to_frame() -> None:
    cells = held_out()
    found = predict(reference(), cells, device="cpu")
    frame = found.to_frame()
    columns = ["cell_type_pred", "cell_type_uncertainty", "cell_class_pred", "cell_class_uncertainty"]
    assert list(frame.columns) == columns
    assert_array_equal(frame.index, cells.obs_names)
    assert isinstance(frame["cell_type_pred"].dtype, pd.CategoricalDtype)
    assert_array_equal(frame["cell_type_pred"].astype(str), found.levels["cell_type"].labels.astype(str))


def test_uncertainty_without_calibration_is_at_temperature_one() -> None:
    level = predict(reference(), held_out(), device="cpu").levels["cell_type"]
    assert level.distances is not None
    expected = softmax(-level.distances.to_numpy(np.float64), axis=1)
    assert_allclose(level.probabilities, expected)
    assert_allclose(level.uncertainty, 1 - expected.max(axis=1), atol=1e-12)


def test_a_lower_temperature_is_surer_of_the_same_labels() -> None:
    cold, hot = (
        predict(calibrated(temperature=t), held_out(), unknown_above=None, device="cpu").levels["cell_type"]
        for t in (0.1, 10.0)
    )
    assert_array_equal(cold.labels, hot.labels)
    assert (cold.uncertainty <= hot.uncertainty).all()
    assert hot.uncertainty.mean() - cold.uncertainty.mean() > 0.3


def test_cells_far_from_every_prototype_are_less_sure() -> None:
    plain, ruled = (
        predict(calibrated(temperature=0.3, distance_scale=s), held_out(), unknown_above=None, device="cpu").levels[
            "cell_type"
        ]
        for s in (None, 0.5)
    )
    assert plain.distances is not None
    nearest = plain.distances.to_numpy().min(axis=1)
    assert_allclose(ruled.uncertainty, 1 - (1 - plain.uncertainty) * np.minimum(1, 0.5 / nearest), rtol=1e-5)
    assert_array_equal(ruled.labels, plain.labels)


def test_unsure_cells_are_called_unknown() -> None:
    everything = predict(reference(), held_out(), device="cpu").levels["cell_type"]
    median = float(np.median(everything.uncertainty))
    found = predict(reference(), held_out(), unknown_above=median, device="cpu").levels["cell_type"]
    assert_array_equal(found.labels == UNKNOWN, everything.uncertainty > median)
    kept = found.labels != UNKNOWN
    assert_array_equal(found.labels[kept], everything.labels[kept])
    assert_array_equal(found.uncertainty, everything.uncertainty)


@pytest.mark.parametrize(("asked", "unknown"), [(1.0, 0), (0.0, 240)])
def test_thresholds_at_the_ends(asked: float, unknown: int) -> None:
    found = predict(reference(), held_out(), unknown_above=asked, device="cpu").levels["cell_type"]
    assert (found.labels == UNKNOWN).sum() == unknown


@pytest.mark.parametrize("asked", [-0.1, 1.1, float("nan"), "always", [0.5]])
def test_thresholds_that_are_no_uncertainty(asked: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="between 0 and 1") as caught:
        predict(reference(), held_out(), unknown_above=asked)
    assert "unknown_above" in caught.value.facts


def test_cells_are_called_unknown_above_what_the_release_states() -> None:
    """Each level by its own threshold, and none at a level that states none."""
    model = calibrated(temperature=0.3, unknown_above=0.2)
    default, named, half = (
        predict(model, held_out(), device="cpu", **asked).levels
        for asked in ({}, {"unknown_above": None}, {"unknown_above": np.float32(0.5)})
    )
    doubt = named["cell_type"].uncertainty
    assert 0 < (doubt > 0.5).sum() < (doubt > 0.2).sum()
    assert_array_equal(default["cell_type"].labels == UNKNOWN, doubt > 0.2)
    assert_array_equal(half["cell_type"].labels == UNKNOWN, doubt > 0.5)
    assert not (named["cell_type"].labels == UNKNOWN).any()
    assert default["cell_class"].uncertainty.max() > 0.2
    assert not (default["cell_class"].labels == UNKNOWN).any()
    assert [threshold(model, level, "shipped") for level in ("cell_type", "cell_class")] == [0.2, None]
    assert [threshold(model, "cell_type", asked) for asked in (0.3, None)] == [0.3, None]


def test_a_release_that_states_no_threshold_for_sets_gives_none() -> None:
    for model in (reference(), calibrated(temperature=0.3)):
        level = predict(model, held_out(), device="cpu").levels["cell_type"]
        assert level.sets is None and level.backoff is None


def test_sets_hold_the_best_label_and_all_that_reach_the_threshold() -> None:
    found = predict(calibrated(temperature=0.3, set_above=0.2), held_out(), device="cpu")
    level = found.levels["cell_type"]
    assert level.sets is not None and level.backoff is not None
    likely = level.probabilities.to_numpy()
    best = likely.max(axis=1, keepdims=True)
    assert_array_equal(level.sets.to_numpy(), (likely >= 0.2) | (likely == best))
    several = level.sets.sum(axis=1) > 1
    assert 0 < several.sum() < len(several)
    assert set(level.backoff[several]) == {UNKNOWN}  # no label of this level states a parent
    frame = found.to_frame()
    assert_array_equal(frame["cell_type_set"].str.count(r" \| ") + 1, level.sets.sum(axis=1))
    assert_array_equal(frame["cell_type_backoff"].astype(str), level.backoff.astype(str))
    assert "cell_class_set" not in frame
    halves = [
        predict(calibrated(temperature=0.3, set_above=0.2), held_out().rows(rows), device="cpu")
        for rows in np.array_split(np.arange(240), 2)
    ]
    assert list(joined(halves).to_frame()["cell_type_backoff"]) == list(frame["cell_type_backoff"])


def lineages(**calibration: Any) -> Model:
    """Return the model with classes that are derived from its cell types."""
    base = calibrated(**calibration)
    (fine, coarse) = base.manifest.labels
    labels = (
        fine.model_copy(update={"parents": CLASSES}),
        coarse.model_copy(update={"derived_from": fine.key}),
    )
    prototypes = base.manifest.prototypes.model_copy(update={"levels": base.manifest.prototypes.levels[:1]})
    return Model(base.manifest.model_copy(update={"labels": labels, "prototypes": prototypes}), base.network)


def test_a_coarser_level_is_the_sum_of_the_finer_ones() -> None:
    model = lineages(temperature=0.3, set_above=0.2, distance_scale=0.5, unknown_above=0.3)
    found = predict(model, held_out(), device="cpu")
    fine, coarse = found.levels["cell_type"], found.levels["cell_class"]
    assert list(found.levels) == ["cell_type", "cell_class"]
    lymphoid = fine.probabilities[["B", "NK", "T"]].sum(axis=1)
    assert_allclose(coarse.probabilities["lymphoid"], lymphoid)
    assert_allclose(coarse.probabilities["myeloid"], fine.probabilities["Mono"])
    kept = (1 - fine.uncertainty) / fine.probabilities.max(axis=1).to_numpy()
    assert (kept < 0.99).any()  # what far cells lose of their confidence, they lose in both levels
    assert_allclose(coarse.uncertainty, 1 - kept * coarse.probabilities.max(axis=1).to_numpy())
    assert (coarse.uncertainty <= fine.uncertainty + 1e-12).all()
    assert_array_equal(coarse.labels == UNKNOWN, coarse.uncertainty > 0.3)  # by the finer level's threshold
    assert 0 < (coarse.labels == UNKNOWN).sum() < (fine.labels == UNKNOWN).sum()
    assert coarse.distances is None
    assert predictable(model) == ("cell_type", "cell_class")


def test_sets_of_a_coarser_level_hold_the_parents_and_the_likeliest() -> None:
    found = predict(lineages(temperature=0.3, set_above=0.3), held_out(), unknown_above=None, device="cpu")
    fine, coarse = found.levels["cell_type"], found.levels["cell_class"]
    assert fine.sets is not None and coarse.sets is not None and fine.backoff is not None
    parents = fine.sets[["B", "NK", "T"]].any(axis=1)
    best = coarse.probabilities["lymphoid"] >= 0.5
    assert_array_equal(coarse.sets["lymphoid"], parents | best)
    assert_array_equal(coarse.sets["myeloid"], fine.sets["Mono"] | ~best)
    siblings = (fine.sets.sum(axis=1) > 1) & ~fine.sets["Mono"]
    assert siblings.any()
    assert set(fine.backoff[siblings]) == {"lymphoid"}
    across = (fine.sets.sum(axis=1) > 1) & fine.sets["Mono"]
    assert set(fine.backoff[across]) <= {UNKNOWN}
    right = coarse.sets.to_numpy()[np.arange(240), coarse.sets.columns.get_indexer(coarse.labels)]
    assert right.all()


def test_no_cells() -> None:
    found = predict(reference(), held_out().rows(np.arange(0)), device="cpu")
    assert found.latent.shape == (0, 6)
    assert all(len(level.labels) == 0 for level in found.levels.values())
    none = predict(lineages(temperature=0.3, set_above=0.3), held_out().rows(np.arange(0)), device="cpu").to_frame()
    assert none.shape == (0, 8)


def test_parts_are_joined_as_if_predicted_at_once() -> None:
    cells = held_out()
    whole = predict(reference(), cells, device="cpu")
    parts = [predict(reference(), cells.rows(rows), device="cpu") for rows in np.array_split(np.arange(240), 3)]
    found = joined(parts)
    assert_array_equal(found.obs_names, whole.obs_names)
    assert_allclose(found.latent, whole.latent, atol=1e-5)
    pd.testing.assert_frame_equal(
        found.to_frame()[["cell_type_uncertainty"]], whole.to_frame()[["cell_type_uncertainty"]]
    )
    for key, level in whole.levels.items():
        assert_array_equal(found.levels[key].labels, level.labels)
        pd.testing.assert_frame_equal(found.levels[key].probabilities, level.probabilities, atol=1e-5)
        assert found.levels[key].distances is not None

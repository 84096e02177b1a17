"""Labels of a batch that was left out, beside the two simple opponents."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hub_client.build.criticism import Source
from hub_client.build.transfer_comparison import transfer_metrics
from hub_client.data.cells import Cells
from hub_client.labels.predict import LabelPrediction, Predictions
from hub_client.models.model import Model
from hub_client.release.card_criticism import left_out
from tests.simulated import CLASSES, cells_for, manifest

LEVEL = "cell_type"
MODEL = Model.build(manifest())


def predictions(cells: Cells, wrong: float) -> Predictions:
    """Return predictions of which a share is wrong, surely."""
    names = sorted(CLASSES)
    codes = np.searchsorted(names, cells.labels[LEVEL])
    shifted = np.where(np.arange(len(cells)) < wrong * len(cells), (codes + 1) % len(names), codes)
    table = pd.DataFrame(np.eye(len(names))[shifted] * 0.88 + 0.03, columns=names, index=cells.obs_names)
    unknown = np.full(len(cells), "unknown", dtype=object)
    level = LabelPrediction(unknown, 1 - table.to_numpy().max(axis=1), table, None)
    return Predictions(cells.obs_names, np.zeros((len(cells), 2), np.float32), {LEVEL: level})


def compared(wrong: float, training: Cells, cells: Cells) -> dict[str, dict[str, float]]:
    found = transfer_metrics(
        MODEL, training, cells, batch="b0", predictions=predictions(cells, wrong), source=Source("simulated", 0)
    )
    assert {metric.split for metric in found} == {"left out: b0"}
    assert {metric.n for metric in found} == {int(np.isin(cells.labels[LEVEL], training.labels[LEVEL]).sum())}
    return left_out(found, LEVEL)["b0"]


def test_each_method_answers_for_the_same_cells() -> None:
    cells = cells_for(MODEL.manifest)
    out = cells.conditions["batch"] == "b0"
    found = compared(0.25, cells.rows(~out), cells.rows(out))
    assert set(found) == {"model", "logistic_regression", "neighbours_after_pca"}
    assert found["model"]["accuracy"] == 0.75
    assert abs(found["model"]["calibration_error"] - 0.16) < 1e-6
    assert found["logistic_regression"]["accuracy"] > 0.8
    assert all(set(figures) == {"accuracy", "macro_f1", "calibration_error"} for figures in found.values())


def test_a_label_that_no_other_batch_has_is_not_asked_for() -> None:
    cells = cells_for(MODEL.manifest)
    out = cells.conditions["batch"] == "b0"
    others = cells.rows(~out & (cells.labels[LEVEL] != "NK"))
    assert compared(0.0, others, cells.rows(out))["model"]["accuracy"] == 1


def test_a_level_without_labels_has_no_figures() -> None:
    cells = cells_for(MODEL.manifest)
    bare = cells.relabelled({})
    source = Source("simulated", 0)
    assert transfer_metrics(MODEL, bare, cells, batch="b0", predictions=predictions(cells, 0), source=source) == ()

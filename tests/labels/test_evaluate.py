"""Predictions against the truth: figures that agree with the plain definitions, and truths that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from hub_client import errors, evaluate
from hub_client.labels.evaluate import calibration_error
from hub_client.labels.predict import LabelPrediction, Predictions
from hub_client.manifest.report import LevelReport

LABELS = ["B", "NK", "T"]


def predictions(labels: np.ndarray, uncertainty: np.ndarray, latent: np.ndarray | None = None) -> Predictions:
    names = np.array([f"cell{number}" for number in range(len(labels))], dtype=object)
    likely = pd.DataFrame(np.full((len(labels), 3), 1 / 3), index=names, columns=LABELS)
    alone = None if latent is None else latent.astype(object)
    level = LabelPrediction(labels.astype(object), uncertainty, likely, None, alone)
    return Predictions(names, np.zeros((len(labels), 2), np.float32), {"cell_type": level})


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    truth = generator.choice(LABELS, 500, p=[0.7, 0.2, 0.1])
    named = np.where(generator.random(500) < 0.7, truth, generator.choice(LABELS, 500))
    return truth, named, generator.random(500)


def test_figures_agree_with_their_definitions(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, named, unsure = drawn
    report = evaluate(predictions(named, unsure), {"cell_type": truth})["cell_type"]
    assert report.accuracy == pytest.approx(accuracy_score(truth, named))
    assert report.macro_f1 == pytest.approx(f1_score(truth, named, average="macro"))
    assert report.error_auroc == pytest.approx(roc_auc_score(truth != named, unsure))
    assert report.mean_uncertainty == pytest.approx(unsure.mean())
    assert [score.cells for score in report.labels] == [int((truth == label).sum()) for label in LABELS]


def test_labels_from_the_latent_alone_are_judged_beside(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, named, unsure = drawn
    alone = np.where(np.arange(500) % 3 == 0, "B", named)
    truth[:9] = ["", "nobody's", "NK", "B", "T", "B", "B", "", "T"]
    kept = np.isin(truth, LABELS)
    report = evaluate(predictions(named, unsure, alone), {"cell_type": truth})["cell_type"]
    assert report.latent_accuracy == pytest.approx(accuracy_score(truth[kept], alone[kept]))
    assert report.latent_macro_f1 == pytest.approx(f1_score(truth[kept], alone[kept], average="macro"))
    assert report.accuracy == pytest.approx(accuracy_score(truth[kept], named[kept])) != report.latent_accuracy


def test_a_report_of_a_model_without_such_labels_and_one_from_before_have_none() -> None:
    report = evaluate(predictions(np.array(["B", "T"]), np.zeros(2)), {"cell_type": ["B", "T"]})
    assert (report["cell_type"].latent_accuracy, report["cell_type"].latent_macro_f1) == (None, None)
    old = {
        key: value
        for key, value in report["cell_type"].model_dump().items()
        if key not in ("latent_accuracy", "latent_macro_f1")
    }
    assert LevelReport.model_validate(old) == report["cell_type"]


def test_labels_that_are_given_and_never_true_count_in_macro_f1() -> None:
    """As scikit-learn has it: a model that gives a label nobody has is worse than one that does not."""
    truth, named = np.array(["B", "B", "T", "T"]), np.array(["B", "NK", "T", "T"])
    report = evaluate(predictions(named, np.zeros(4)), {"cell_type": truth})["cell_type"]
    assert report.macro_f1 == pytest.approx(f1_score(truth, named, average="macro", zero_division=0))
    assert report.macro_f1 == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert report.never_true == {"NK": 1}
    assert [(score.label, score.cells, score.f1) for score in report.labels][1] == ("NK", 0, 0.0)


def test_cells_called_unknown_are_among_the_labels_given() -> None:
    truth, named = np.array(["B", "B", "T"]), np.array(["B", "unknown", "T"])
    report = evaluate(predictions(named, np.zeros(3)), {"cell_type": truth})["cell_type"]
    assert report.macro_f1 == pytest.approx(f1_score(truth, named, average="macro", zero_division=0))
    assert (report.never_true, report.unknown) == ({"unknown": 1}, 1)


def test_calibration_error_is_the_gap_of_ten_bins(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, named, unsure = drawn
    confidence, right = 1 - unsure, truth == named
    gap = 0.0
    for low in np.arange(0, 1, 0.1):
        members = (confidence >= low) & (confidence < low + 0.1)
        gap += abs(confidence[members].sum() - right[members].sum()) / len(truth)
    assert calibration_error(confidence, right) == pytest.approx(gap)


def test_unknown_counts_as_wrong() -> None:
    named = np.array(["B", "unknown", "T", "T"])
    report = evaluate(predictions(named, np.zeros(4)), {"cell_type": ["B", "B", "T", "T"]})["cell_type"]
    assert (report.unknown, report.accuracy) == (1, 0.75)


@pytest.mark.parametrize("text", ["", "nan", "NA", "Unknown", b"nan", None])
def test_texts_that_mean_no_label_are_no_truth(text: Any) -> None:
    named = np.array(["B", "T", "T"])
    report = evaluate(predictions(named, np.zeros(3)), {"cell_type": ["B", text, b"T"]})["cell_type"]
    assert (report.cells, report.accuracy, report.not_in_model) == (2, 1.0, {})


def test_labels_the_model_does_not_know_are_left_out_and_counted() -> None:
    named = np.array(["B", "B", "T", "T"])
    report = evaluate(predictions(named, np.zeros(4)), {"cell_type": ["B", "HSC", None, "T"]})["cell_type"]
    assert (report.cells, report.accuracy, report.not_in_model) == (2, 1.0, {"HSC": 1})
    assert report.error_auroc is None


def test_a_series_is_matched_by_cell_name() -> None:
    found = predictions(np.array(["B", "NK", "T"]), np.zeros(3))
    truth = pd.Series(["T", "B", "NK"], index=["cell2", "cell0", "cell1"])
    assert evaluate(found, {"cell_type": truth})["cell_type"].accuracy == 1.0
    assert evaluate(found, truth.to_frame("cell_type"))["cell_type"].accuracy == 1.0


def test_a_series_may_lack_cells_and_name_others() -> None:
    found = predictions(np.array(["B", "NK", "T"]), np.zeros(3))
    truth = pd.Series(["T", "B", "B", None], index=["cell1", "cell0", "elsewhere", "cell2"])
    report = evaluate(found, {"cell_type": truth})["cell_type"]
    assert (report.cells, report.accuracy, report.not_in_model) == (2, 0.5, {})


def test_numbers_are_read_as_labels_are_in_alignment() -> None:
    """A column with gaps makes whole numbers floats: 1.0 is the label 1."""
    found = predictions(np.array(["B", "NK", "T"]), np.zeros(3))
    clusters = found.levels["cell_type"].probabilities.set_axis(["1", "2", "3"], axis=1)
    level = LabelPrediction(np.array(["1", "2", "1"], dtype=object), np.zeros(3), clusters, None)
    found = Predictions(found.obs_names, found.latent, {"cluster": level})
    report = evaluate(found, {"cluster": pd.Series([1, np.nan, 2], index=found.obs_names)})["cluster"]
    assert (report.cells, report.accuracy, report.not_in_model) == (2, 0.5, {})


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"cell_typ": ["B"]}, "has levels cell_typ, but cell_type were predicted"),
        ({"cell_type": ["B", "T"]}, r"shape \(2,\); expected one label for each of the 1 cells"),
        ({"cell_type": [["B"]]}, r"shape \(1, 1\); expected one label"),
        ({"cell_type": "B"}, r"shape \(\); expected one label"),
        ({"cell_type": ["HSC"]}, "no true label"),
        ({"cell_type": pd.Series(["B"], index=["other"])}, "of other cells: it names other, the predictions cell0"),
        ({"cell_type": pd.Series(["B"])}, "pass its values without the names"),
        ({"cell_type": pd.Series(["B", "T"], index=["cell0"] * 2)}, "1 cells more than once: cell0"),
    ],
)
def test_a_truth_that_does_not_fit_is_refused(truth: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.VocabularyError, match=message):
        evaluate(predictions(np.array(["B"]), np.zeros(1)), truth)


@pytest.mark.parametrize("truth", [["B"], pd.Series(["B"], index=["cell0"]), "cell_type", None])
def test_a_truth_without_levels_is_refused(truth: Any) -> None:
    with pytest.raises(errors.InvalidInput, match=r"pass \{level: labels\}, with the levels cell_type"):
        evaluate(predictions(np.array(["B"]), np.zeros(1)), truth)


def with_sets(held: list[list[bool]], labels: list[str]) -> Predictions:
    plain = predictions(np.array(labels), np.zeros(len(labels)))
    sets = pd.DataFrame(held, index=plain.obs_names, columns=LABELS)
    return replace(plain, levels={"cell_type": replace(plain.levels["cell_type"], sets=sets)})


def test_label_sets_are_judged_by_what_they_hold_and_how_large_they_are() -> None:
    held = [[True, False, False], [True, True, False], [False, True, True], [True, True, True], [True, False, False]]
    found = with_sets(held, ["B", "B", "NK", "B", "B"])
    report = evaluate(found, {"cell_type": ["B", "NK", "B", "T", "HSC"]})["cell_type"]
    assert report.set_coverage == pytest.approx(3 / 4)  # the fifth cell's label is none of the model's
    assert report.set_size == pytest.approx((1 + 2 + 2 + 3) / 4)


def test_the_accuracy_of_named_cells_leaves_out_those_called_unknown() -> None:
    found = predictions(np.array(["B", "unknown", "T", "T"]), np.zeros(4))
    report = evaluate(found, {"cell_type": ["B", "B", "T", "B"]})["cell_type"]
    assert (report.accuracy, report.named_accuracy) == (0.5, pytest.approx(2 / 3))


@pytest.mark.parametrize("named", [["B", "T"], ["unknown", "unknown"]])
def test_where_all_or_none_are_named_there_is_no_such_accuracy(named: list[str]) -> None:
    report = evaluate(predictions(np.array(named), np.zeros(2)), {"cell_type": ["B", "T"]})["cell_type"]
    assert (report.named_accuracy, report.set_coverage, report.set_size) == (None, None, None)

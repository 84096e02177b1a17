"""Calibration: temperatures whose answer is known, and probabilities that are as often right as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from hub_client import errors
from hub_client.labels.calibrate import calibrate
from hub_client.labels.rules import Evidence, probabilities
from hub_client.manifest.calibration import Calibration

LABELS = ("B", "NK", "T")
RULE = Calibration(level="cell_type", temperature=3.0)


def drawn(temperature: float, *, cells: int = 20_000) -> tuple[Evidence, np.ndarray]:
    """Return distances, and labels drawn with the probabilities they have at a temperature."""
    generator = np.random.default_rng(0)
    distances = generator.gamma(2.0, 2.0, (cells, len(LABELS)))
    cumulative = softmax(-distances / temperature, axis=1).cumsum(axis=1)
    codes = (generator.random((cells, 1)) > cumulative).sum(axis=1).clip(max=len(LABELS) - 1)
    return Evidence(LABELS, distances.astype(np.float32)), np.array(LABELS)[codes]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_drew_the_labels_is_found(temperature: float) -> None:
    found = calibrate(*drawn(temperature), calibration=RULE)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.level == "cell_type"


def test_two_labels_have_a_closed_form() -> None:
    scores = Evidence(("B", "T"), np.tile([[1.0, 3.0], [3.0, 1.0]], (500, 1)))
    truth = ["B", "T", "B", "B"] * 250
    right = (750 * (1 - 1 / 1002) + 250 / 1002) / 1000
    expected = 2 / np.log(right / (1 - right))
    assert calibrate(scores, truth, calibration=RULE).temperature == pytest.approx(expected, rel=1e-4)


def test_no_mistake_on_few_cells_is_not_certainty() -> None:
    few, many = (
        calibrate(Evidence(("B", "T"), np.tile([[1.0, 3.0]], (n, 1))), ["B"] * n, calibration=RULE).temperature
        for n in (8, 800)
    )
    assert softmax([-1 / few, -3 / few])[0] == pytest.approx(9 / 10, abs=1e-4)
    assert softmax([-1 / many, -3 / many])[0] == pytest.approx(801 / 802, abs=1e-4)


def test_the_distance_scale_holds_the_quantile_of_rightly_labelled_cells() -> None:
    near = np.linspace(0.0, 1.0, 101)
    distances = np.stack([near, np.full(101, 5.0)], axis=1)
    wrong = np.array([[50.0, 90.0]])
    scores = Evidence(("B", "T"), np.concatenate([distances, wrong]))
    found = calibrate(scores, ["B"] * 101 + ["T"], calibration=RULE, distance_quantile=0.9)
    assert found.distance_scale == pytest.approx(0.9)
    assert calibrate(scores, ["B"] * 101 + ["T"], calibration=RULE, distance_quantile=None).distance_scale is None


def test_cells_without_a_known_label_do_not_count() -> None:
    scores, truth = drawn(1.0, cells=500)
    more = Evidence(LABELS, np.concatenate([scores.distances, np.full((9, 3), 7.0, np.float32)]))
    padded = np.concatenate([truth, ["", "Platelet", *[""] * 7]])
    assert calibrate(more, padded, calibration=RULE) == calibrate(scores, truth, calibration=RULE)


def test_a_label_without_a_prototype_is_left_out() -> None:
    scores, truth = drawn(1.0, cells=500)
    values = np.concatenate([scores.distances, np.full((500, 1), np.inf, np.float32)], axis=1)
    assert calibrate(Evidence((*LABELS, "pDC"), values), truth, calibration=RULE) == calibrate(
        scores, truth, calibration=RULE
    )


def test_votes_have_no_temperature() -> None:
    rule = RULE.model_copy(update={"transfer": "neighbors", "unknown_above": 0.4})
    found = calibrate(Evidence(("B", "T"), votes=np.array([[0.9, 0.1]])), ["B"], calibration=rule)
    assert (found.temperature, found.distance_scale, found.unknown_above) == (1.0, None, 0.4)


def test_votes_that_are_too_timid_are_sharpened() -> None:
    votes = np.tile([0.6, 0.4], (1000, 1))
    truth = ["B"] * 900 + ["T"] * 100
    rule = RULE.model_copy(update={"transfer": "neighbors"})
    found = calibrate(Evidence(("B", "T"), votes=votes), truth, calibration=rule)
    assert found.sharpness > 1
    assert probabilities(Evidence(("B", "T"), votes=votes), found)[0, 0] == pytest.approx(0.9, abs=0.01)


def test_gaussians_are_tempered() -> None:
    """Points drawn from two Gaussians of the model's own covariance need no temperature, wider ones need some."""
    generator = np.random.default_rng(0)
    codes = generator.integers(2, size=20_000)
    rule = RULE.model_copy(update={"transfer": "gaussians", "prior": 1.0})
    for spread in (1.0, 2.0):
        x = codes * 2.0 + generator.normal(0, spread, len(codes))
        squared = np.stack([x**2, (x - 2) ** 2], axis=1).astype(np.float32)
        spoken = Evidence(("B", "T"), np.sqrt(squared), squared, np.array([0.5, 0.5], np.float32))
        found = calibrate(spoken, np.array(["B", "T"])[codes], calibration=rule)
        assert found.temperature == pytest.approx(spread**2, rel=0.05)


def test_a_single_label_needs_no_temperature() -> None:
    assert calibrate(Evidence(("B",), np.ones((3, 1))), ["B"] * 3, calibration=RULE).temperature == 1.0


def test_no_labelled_cell_is_refused() -> None:
    scores, _ = drawn(1.0, cells=4)
    with pytest.raises(errors.InvalidInput, match="no held-out cell has a label of 'cell_type'"):
        calibrate(scores, [""] * 4, calibration=RULE)

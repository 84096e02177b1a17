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


def test_groups_weigh_the_same_however_many_cells_they_have() -> None:
    """Two groups that want different temperatures: repeating the cells of one does not move what both give."""
    cold, hot = drawn(0.5, cells=400), drawn(4.0, cells=400)
    again = [*[cold] * 5, hot]
    scores = Evidence.joined([evidence for evidence, _ in again])
    truth = np.concatenate([labels for _, labels in again])
    group = np.repeat(["cold", "hot"], [2000, 400])
    alike = calibrate(
        Evidence.joined([cold[0], hot[0]]),
        np.concatenate([cold[1], hot[1]]),
        calibration=RULE,
        groups=np.repeat(["cold", "hot"], 400),
    )
    by_group = calibrate(scores, truth, calibration=RULE, groups=group)
    by_cell = calibrate(scores, truth, calibration=RULE)
    assert by_group.temperature == pytest.approx(alike.temperature, rel=0.02)
    assert by_cell.temperature < 0.8 * by_group.temperature


def test_one_group_is_as_no_groups() -> None:
    scores, truth = drawn(1.0, cells=300)
    assert calibrate(scores, truth, calibration=RULE, groups=["one"] * 300) == calibrate(
        scores, truth, calibration=RULE
    )


def test_a_label_that_one_groups_reference_lacks_takes_no_part_there() -> None:
    """Its cells are left out, and so is its place in the softmax of the group's others."""
    scores, truth = drawn(1.0, cells=400)
    assert scores.distances is not None
    lacking = scores.distances.copy()
    lacking[:, 2] = np.inf
    two = truth != "T"
    found = calibrate(Evidence(LABELS, lacking), truth, calibration=RULE, groups=["a"] * 400)
    same = calibrate(Evidence(LABELS[:2], scores.distances[two][:, :2]), truth[two], calibration=RULE)
    assert found.temperature == pytest.approx(same.temperature, rel=1e-6)


def test_shares_of_several_references_are_by_cell() -> None:
    """A label with no share in a cell's reference is none that its model could have told."""
    generator = np.random.default_rng(0)
    densities = generator.normal(0, 1, (200, 2))
    truth = np.array(["B", "T"])[densities.argmax(axis=1)]
    shares = np.tile([0.5, 0.5], (200, 1))
    shares[:100] = [1.0, 0.0]
    rule = RULE.model_copy(update={"transfer": "mixtures"})
    found = calibrate(Evidence(("B", "T"), densities=densities, reference_frequencies=shares), truth, calibration=rule)
    kept = (truth == "B") | (np.arange(200) >= 100)
    some = Evidence(("B", "T"), densities=densities[kept], reference_frequencies=shares[kept])
    assert found == calibrate(some, truth[kept], calibration=rule)


def test_sets_are_fitted_where_they_are_asked_for() -> None:
    scores, truth = drawn(1.0, cells=2000)
    rule = RULE.model_copy(update={"set_coverage": 0.9})
    plain, with_sets = (calibrate(scores, truth, calibration=rule, with_sets=asked) for asked in (False, True))
    assert plain.set_above is None and with_sets.set_above is not None
    assert with_sets.model_copy(update={"set_above": None}) == plain
    new, codes = drawn(1.0, cells=20_000)
    likely = probabilities(new, with_sets)
    reached = likely[np.arange(len(codes)), np.searchsorted(LABELS, codes)] >= with_sets.set_above
    assert reached.mean() == pytest.approx(0.9, abs=0.02)

"""The table of rules: every name a manifest may have, and a rule of one row more."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from hub_client import errors
from hub_client.labels.rules import RULES, Evidence, Rule, probabilities
from hub_client.manifest.calibration import Calibration, Transfer

BOTH = Evidence(
    ("B", "T"),
    distances=np.array([[0.0, 1.0]], np.float32),
    votes=np.array([[0.2, 0.8]]),
    network=np.array([[0.6, 0.4]]),
)


def test_every_name_of_a_manifest_has_one_row() -> None:
    assert set(RULES) == set(get_args(Transfer))


@pytest.mark.parametrize("transfer", RULES)
def test_a_rule_names_the_evidence_that_is_missing(transfer: Transfer) -> None:
    with pytest.raises(errors.Unsupported, match=r"prototypes|reference cells|expression|classifier"):
        probabilities(Evidence(("B", "T")), Calibration(level="any", transfer=transfer, temperature=1.0))


@pytest.mark.parametrize("transfer", RULES)
def test_a_rule_reads_what_it_needs_and_no_more(transfer: Transfer) -> None:
    everything = {"label_frequencies": np.array([0.5, 0.5]), "reference_frequencies": np.array([0.5, 0.5])}
    for part in ("distances", "mahalanobis_squared", "votes", "densities", "expression", "expression_votes", "network"):
        everything[part] = np.array([[0.3, 0.7]])
    rule, calibration = RULES[transfer], Calibration(level="any", transfer=transfer, temperature=1.0)
    needed = Evidence(("B", "T"), **{part: everything[part] for part in rule.needs})
    np.testing.assert_array_equal(rule(needed, calibration), rule(Evidence(("B", "T"), **everything), calibration))


def test_a_rule_more_is_one_row() -> None:
    """The mean of a network's own classifier and of distances that count twice."""
    toy = Rule(
        needs=("distances", "network"),
        logits=lambda found, calibration: -2 * found.part("distances"),
        probabilities=("network",),
    )
    near = 1 / (1 + np.exp(-2))
    found = toy(BOTH, Calibration(level="any", temperature=1.0))
    np.testing.assert_allclose(found, [[(near + 0.6) / 2, (1 - near + 0.4) / 2]])
    assert toy.sharpened
    assert not toy.knows_reference_only


def test_evidence_of_several_references_is_joined_with_each_ones_shares() -> None:
    one, other = (
        Evidence(
            ("B", "T"),
            densities=np.full((cells, 2), float(cells)),
            reference_frequencies=np.array(shares),
            votes=np.full((cells, 2), 0.5) if cells == 2 else None,
        )
        for cells, shares in ((2, [0.5, 0.5]), (3, [1.0, 0.0]))
    )
    found = Evidence.joined([one, other])
    assert (found.labels, found.cells) == (("B", "T"), 5)
    np.testing.assert_array_equal(found.part("densities")[:, 0], [2, 2, 3, 3, 3])
    np.testing.assert_array_equal(found.part("reference_frequencies"), [[0.5, 0.5]] * 2 + [[1.0, 0.0]] * 3)
    assert found.votes is None  # which one of them lacks


def test_joined_evidence_gives_each_cell_what_it_had() -> None:
    generator = np.random.default_rng(0)
    parts = [
        Evidence(
            ("B", "T"),
            densities=generator.normal(0, 1, (4, 2)),
            reference_frequencies=np.array([share, 1 - share]),
            expression=generator.dirichlet([1, 1], 4),
            expression_votes=generator.dirichlet([1, 1], 4),
        )
        for share in (0.5, 0.9)
    ]
    rule = Calibration(level="any", transfer="ensemble", prior=1.0, temperature=2.0, sharpness=1.3)
    found = probabilities(Evidence.joined(parts), rule)
    np.testing.assert_allclose(found, np.concatenate([probabilities(part, rule) for part in parts]))
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_an_ensemble_is_the_mean_of_three() -> None:
    found = probabilities(
        Evidence(
            ("B", "T"),
            densities=np.log([[0.9, 0.1]]),
            reference_frequencies=np.array([0.5, 0.5]),
            expression=np.array([[0.6, 0.4]]),
            expression_votes=np.array([[0.3, 0.7]]),
        ),
        Calibration(level="any", transfer="ensemble", temperature=1.0),
    )
    np.testing.assert_allclose(found, [[0.6, 0.4]])

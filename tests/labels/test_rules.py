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

"""Names of figures, and which way is better."""

from __future__ import annotations

import pytest

from hub_client.build.judge import METRICS
from hub_client.manifest.measures import criticises, left_out_batch, left_out_name, left_out_split, measure


@pytest.mark.parametrize("figure", sorted(METRICS.keys() - {"set_coverage"}))
def test_every_metric_of_a_build_can_be_compared(figure: str) -> None:
    found = measure(f"cell_type.{figure}")
    assert found is not None
    assert found.better == ("lower" if figure in ("calibration_error", "set_size") else "higher")


def test_coverage_is_to_be_as_stated_and_no_higher() -> None:
    assert measure("cell_type.set_coverage") is None


def test_what_archzoo_does_not_measure_has_no_better() -> None:
    assert measure("cell_type.silhouette") is None
    assert measure("reproduction.accuracy") is None


def test_names_of_batches_that_were_left_out_are_told_apart() -> None:
    name = left_out_name("cell_type", "model", "accuracy")
    assert criticises(name) and not criticises("cell_type.accuracy")
    assert left_out_batch(left_out_split("Kang: 10x")) == "Kang: 10x"


def test_a_bound_is_passed_on_one_side() -> None:
    correlation, ratio = measure("reproduction.mean_correlation"), measure("reproduction.mean_log_ratio")
    assert correlation is not None and ratio is not None
    assert correlation.fails(0.5) and not correlation.fails(0.99)
    assert ratio.fails(1.0) and not ratio.fails(0.1)

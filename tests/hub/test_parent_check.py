"""A child that is worse than its parent is not pushed unless that is meant."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hub_client import errors
from hub_client.checks.verify import with_test_vectors
from hub_client.hub.client import Hub
from hub_client.hub.parent_check import worse_metrics
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests import examples
from tests.contract.examples import trained
from tests.releases import release
from tests.simulated import QUERY, cells_for

PARENT, CHILD = "lab/blood", "lab/blood-query"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "default"))
    return Hub(tmp_path / "hub")


def measured(value: float, *, name: str = "cell_type.accuracy", fingerprint: str | None = "0" * 64) -> dict[str, Any]:
    return {
        "name": name,
        "definition": "how good",
        "dataset": "blood",
        "dataset_fingerprint": fingerprint,
        "split": "held out",
        "value": value,
        "n": 10,
    }


def with_metrics(*metrics: dict[str, Any]) -> Manifest:
    return examples.manifest(metrics=metrics)


# metrics


@pytest.mark.parametrize(
    ("name", "before", "after", "worse"),
    [
        ("cell_type.accuracy", 0.9, 0.85, True),
        ("cell_type.accuracy", 0.9, 0.895, False),
        ("cell_type.accuracy", 0.8, 0.9, False),
        ("cell_type.calibration_error", 0.02, 0.09, True),
        ("cell_type.calibration_error", 0.09, 0.02, False),
        ("reproduction.mean_log_ratio", 0.1, 0.5, True),
        ("cell_type.of_their_own", 0.9, 0.1, False),
    ],
)
def test_a_figure_is_worse_in_its_own_direction_by_more_than_the_margin(
    name: str, before: float, after: float, worse: bool
) -> None:
    found = worse_metrics(with_metrics(measured(before, name=name)), with_metrics(measured(after, name=name)))
    assert bool(found) == worse
    if worse:
        assert found == [f"{name} (held out) is {after:g} and was {before:g}"]


def test_figures_of_other_data_are_not_compared_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    before, after = with_metrics(measured(0.9)), with_metrics(measured(0.1, fingerprint="1" * 64))
    assert worse_metrics(before, after) == []
    assert "none of tiny-scpoli's figures can be compared with its parent's" in caplog.text


def grown_from(hub: Hub, folder: Path, value: float, *, relation: str = "retrain") -> Path:
    """Push a parent with an accuracy of 0.9, and write a child with another."""
    parent = hub.push(release(folder / "parent", metrics=[measured(0.9)]), PARENT)
    lineage = {"parent": {"name": parent.repo, "version": "1.0.0", "digest": parent.digest}, "relation": relation}
    return release(folder / "child", seed=1, lineage=lineage, metrics=[measured(value)])


def test_a_child_with_a_lower_figure_is_refused_with_both_and_pushed_if_asked(hub: Hub, tmp_path: Path) -> None:
    child = grown_from(hub, tmp_path, 0.8)
    with pytest.raises(errors.InvalidInput, match=r"worse than lab/blood") as caught:
        hub.push(child, CHILD)
    assert "cell_type.accuracy (held out) is 0.8 and was 0.9" in str(caught.value)
    assert "worse_than_parent=True (--worse-than-parent)" in str(caught.value)
    assert hub.push(child, CHILD, worse_than_parent=True).repo == CHILD


def test_a_child_that_is_as_good_is_pushed(hub: Hub, tmp_path: Path) -> None:
    assert hub.push(grown_from(hub, tmp_path, 0.9), CHILD).version == "1.0.0"


def test_a_parent_that_is_nowhere_is_told_and_the_push_goes_on(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lineage = {"parent": {"name": "lab/lost", "version": "1.0.0", "digest": "a" * 64}, "relation": "surgery"}
    hub.push(release(tmp_path / "orphan", lineage=lineage), CHILD)
    assert "lab/blood-query is not compared with lab/lost" in caplog.text
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


# test vectors


def mapped(hub: Hub) -> Model:
    """Return a model grown onto a query from a release with test vectors."""
    model = trained("scpoli")
    hub.push(with_test_vectors(model, cells_for(model.manifest)), PARENT)
    return surgery(hub.pull(PARENT), cells_for(model.manifest, QUERY, cells=60, labelled=False), start="mean")


def spoilt(model: Model) -> Model:
    """Return the grown model with other weights of the reference, and test vectors of its own that it reproduces."""
    tensors = model.network.tensors()
    name = next(name for name in sorted(tensors) if name.startswith("encoder.mean") and tensors[name].ndim == 2)
    tensors[name] = tensors[name] + 0.05 * torch.randn_like(tensors[name])
    other = replace(model, network=type(model.network).build(model.manifest))
    other.network.load(tensors)
    return with_test_vectors(other, cells_for(model.manifest))


@pytest.mark.slow
def test_surgery_that_moved_the_reference_is_refused_though_it_reproduces_its_own_vectors(hub: Hub) -> None:
    child = spoilt(mapped(hub))
    with pytest.raises(errors.InvalidInput, match="parent's test vectors are not reproduced: latent differs by"):
        hub.push(child, CHILD)
    assert hub.push(child, CHILD, worse_than_parent=True).repo == CHILD


@pytest.mark.slow
def test_surgery_that_left_the_reference_is_pushed_whichever_vectors_it_states(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    child = mapped(hub)
    assert hub.push(child, CHILD).repo == CHILD
    again = with_test_vectors(child, cells_for(child.manifest), seed=5)
    assert hub.push(again, "lab/other-vectors").repo == "lab/other-vectors"
    assert "not compared" not in caplog.text

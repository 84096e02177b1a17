"""What there is to choose from, by manifests alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client.hub.client import Hub
from hub_client.models.surgery import surgery
from tests.contract.examples import trained
from tests.simulated import QUERY, cells_for


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    found = Hub(tmp_path / "hub")
    found.push(trained("scpoli"), "atlas/blood")
    return found


def test_a_delta_counts_with_what_it_adds_to(hub: Hub) -> None:
    parent = hub.pull("atlas/blood")
    grown = surgery(parent, cells_for(parent.manifest, QUERY, cells=60, labelled=False), device="cpu")
    hub.push(grown, "lab/blood", delta=True)
    offered, broken = hub.newest()
    sizes = {one.ref.repo: one.size for one in offered}
    own = sum(file.size for file in hub.manifest("lab/blood").files)
    assert not broken and sizes["lab/blood"] == own + sizes["atlas/blood"]
    assert next(one for one in offered if one.ref.repo == "lab/blood").pull().manifest == hub.manifest("lab/blood")


def test_what_was_yanked_altogether_is_not_offered(hub: Hub) -> None:
    ref = hub.resolve("atlas/blood")
    hub.yank(f"atlas/blood@{ref.version}", reason="a mistake")
    assert hub.newest() == ([], [])

"""The way from a release to its root, through several hubs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client.hub.client import Hub
from tests.releases import release


def child(hub: Hub, name: str, parent: dict[str, str], folder: Path, **fields: object) -> None:
    hub.push(release(folder, lineage={"relation": "surgery", "parent": parent}, **fields), name)


@pytest.fixture
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Hub, Hub]:
    """A root in the default hub; a child of it and a grandchild in a lab's hub."""
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "default"))
    default, lab = Hub(), Hub(tmp_path / "lab")
    root = default.push(release(tmp_path / "root"), "atlas/tiny", message="the first")
    parent = {"name": root.repo, "version": "1.0.0", "commit": root.commit, "digest": root.digest}
    child(lab, "lab/tiny", parent, tmp_path / "child", version="1.1.0")
    first = lab.resolve("lab/tiny")
    child(lab, "lab/more", {"name": "tiny", "digest": first.digest}, tmp_path / "grandchild", version="1.2.0")
    return default, lab


def test_it_is_walked_by_digest_across_hubs(hubs: tuple[Hub, Hub]) -> None:
    default, lab = hubs
    steps = lab.lineage("lab/more")
    assert [(step.name, step.version, step.relation) for step in steps] == [
        ("lab/more", "1.2.0", "surgery"),
        ("lab/tiny", "1.1.0", "surgery"),
        ("atlas/tiny", "1.0.0", None),
    ]
    assert [step.digest for step in steps[1:]] == [lab.resolve("lab/tiny").digest, default.resolve("atlas/tiny").digest]
    assert steps[2].message == "the first"
    assert len({step.hub for step in steps}) == 2
    assert all(step.created for step in steps)


def test_what_no_hub_has_ends_the_walk(hubs: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "empty"))
    last = hubs[1].lineage("lab/more")[-1]
    assert (last.name, last.version, last.hub) == ("atlas/tiny", "1.0.0", None)


def test_a_yanked_ancestor_is_told(hubs: tuple[Hub, Hub]) -> None:
    hubs[0].yank("atlas/tiny@1.0.0", reason="mislabelled")
    assert hubs[1].lineage("lab/more")[-1].yanked == "mislabelled"


def test_a_root_and_a_folder_are_a_walk_of_one_step(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    assert len(hubs[0].lineage("atlas/tiny")) == 1
    (step,) = hubs[0].lineage(release(tmp_path / "alone", title="Alone"))
    assert (step.name, step.message) == ("tiny-scpoli", "")

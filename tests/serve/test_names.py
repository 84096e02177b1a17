"""A served hub and the folder hub on the same root agree on names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client import Hub, errors
from hub_client.release import folder as release_folder
from hub_client.serve.refusals import Refused
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Repositories
from tests import releases
from tests.served import CLIENTS_OWN, Server, server

__all__ = ["server"]
pytestmark = [pytest.mark.slow, *CLIENTS_OWN]


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    return Hub(server.url, token=server.token("Lab"))


def test_what_one_takes_the_other_lists_and_pulls(server: Server, remote: Hub, tmp_path: Path) -> None:
    folder = Hub(server.root)
    pushed = {
        "Lab/Kidney_v2": folder.push(releases.release(tmp_path / "a"), "Lab/Kidney_v2"),
        "Lab/Heart_v1": remote.push(releases.release(tmp_path / "b", seed=1), "Lab/Heart_v1"),
    }
    for hub in (folder, remote):
        assert {ref.repo for ref in (hub.resolve(repo) for repo in pushed)} == set(pushed)
        assert {found.name for found in hub.search()} == set(pushed)
        for repo, ref in pushed.items():
            name = repo.split("/")[1]
            assert hub.resolve(name).digest == ref.digest
            copy = hub.download(repo, tmp_path / f"{name}-{hub is folder}")
            assert release_folder.verify(copy).name == name.lower()
    assert remote.push(releases.release(tmp_path / "c", seed=2), "Lab/Kidney_v2", version="2.0.0").version == "2.0.0"
    assert folder.resolve("Kidney_v2").version == "2.0.0"


def test_neither_takes_a_name_that_differs_in_case_only(server: Server, remote: Hub, tmp_path: Path) -> None:
    folder, release = Hub(server.root), releases.release(tmp_path / "a")
    folder.push(release, "Lab/Lung")
    with pytest.raises(errors.InvalidInput, match="differ in case only"):
        folder.push(release, "Lab/LUNG")
    with pytest.raises(errors.HubClientError, match="differ in upper and lower case only: choose another name"):
        remote.push(release, "Lab/LUNG")
    assert not (server.root / "models" / "Lab" / "LUNG.git").exists()


def test_neither_takes_an_owner_that_differs_in_case_only(server: Server, tmp_path: Path) -> None:
    """On a file system that does not regard case the two would share a folder, and so a namespace."""
    folder, release = Hub(server.root), releases.release(tmp_path / "a")
    folder.push(release, "Lab/Lung")
    with pytest.raises(errors.InvalidInput, match="differ in case only"):
        folder.push(release, "LAB/other")
    with pytest.raises(Refused, match="differ in upper and lower case only"):
        Repositories(server.root, private=True).create(
            Place.new("models", "LAB/other"), private=True, creator="", url=""
        )
    assert folder.push(releases.release(tmp_path / "b", seed=1), "Lab/other").repo == "Lab/other"


def test_where_case_is_not_regarded_a_repository_has_one_spelling(tmp_path: Path) -> None:
    """A folder ``MODELS`` beside ``models`` is what such a file system shows."""
    repositories = Repositories(tmp_path, private=True)
    repositories.create(Place.new("models", "lab/lung"), private=True, creator="ada", url="")
    (tmp_path / "MODELS").mkdir()
    assert repositories.record(Place("models", "lab", "lung")) is not None
    assert repositories.record(Place("models", "LAB", "lung")) is None

"""Our client against ``archzoo serve`` in a process of its own."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.cli import main
from hub_client.hub.client import Hub
from hub_client.models.surgery import surgery
from hub_client.release import folder as release_folder
from hub_client.store.cache.downloads import Cache
from hub_client.store.network.huggingface import HuggingFaceWire
from hub_client.store.network.remote import WritableRemoteStore
from tests import served, simulated
from tests.contract.examples import trained
from tests.releases import contents, release, wide

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    with served.served(tmp_path_factory.mktemp("network") / "root") as running:
        yield running


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> str:
    """A namespace that only this test uses."""
    return request.node.name.replace("_", "-").replace("test-", "")[:60].rstrip("-")


@pytest.fixture
def hub(server: served.Server, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    return Hub(server.url, token=server.token("writer", "write", owner))


def test_a_folder_hub_and_its_served_hub_are_one(hub: Hub, server: served.Server, owner: str, tmp_path: Path) -> None:
    repo, folder = f"{owner}/tiny-scpoli", Hub(server.root)
    first = hub.push(release(tmp_path / "one"), repo)
    second = folder.push(release(tmp_path / "two", version="2.0.0", seed=1), repo)
    third = hub.push(release(tmp_path / "three", version="3.0.0", seed=2), repo)
    assert [entry.commit for entry in hub.history(repo)] == [third.commit, second.commit, first.commit]
    for ref in (first, second, third):
        here, there = hub.resolve(f"{repo}@{ref.commit}"), folder.resolve(f"{repo}@{ref.commit}")
        assert (here.version, here.digest) == (there.version, there.digest) == (ref.version, ref.digest)
        out = hub.download(f"{repo}@{ref.version}", tmp_path / f"here-{ref.version}")
        assert contents(out) == contents(folder.download(f"{repo}@{ref.version}", tmp_path / f"there-{ref.version}"))


def test_tokens_of_others_do_not_help(hub: Hub, server: served.Server, owner: str, tmp_path: Path) -> None:
    repo = f"{owner}/secret"
    hub.push(release(tmp_path / "one"), repo, private=True)
    reader = Hub(server.url, token=server.token("reader", "read", owner))
    assert reader.resolve(repo) == hub.resolve(repo)
    with pytest.raises(errors.TransportError, match="may not write"):
        reader.push(release(tmp_path / "two", version="2.0.0", seed=1), repo)
    said = []
    for stranger in (Hub(server.url), Hub(server.url, token=server.token("stranger", "write", "elsewhere"))):
        assert repo not in stranger.names()
        for name in (repo, f"{owner}/nothing"):
            with pytest.raises(errors.NotFound) as caught:
                stranger.resolve(name)
            said.append(str(caught.value).replace(name, "NAME"))
    assert len(set(said)) == 1


def test_a_pull_request_is_merged(hub: Hub, server: served.Server, owner: str, tmp_path: Path) -> None:
    repo = f"{owner}/tiny-scpoli"
    first = hub.push(release(tmp_path / "one"), repo)
    proposal = hub.propose(release(tmp_path / "two", version="2.0.0", seed=1), repo)
    assert hub.resolve(repo) == first
    assert release_folder.verify(hub.download(f"{repo}@refs/pr/1", tmp_path / "proposed")).version == "2.0.0"
    server.api("writer", "write", owner).merge_pull_request(repo, 1)
    merged = hub.resolve(repo)
    assert (merged.version, merged.digest) == ("2.0.0", proposal.ref.digest)


def test_what_was_yanked_is_passed_over(
    hub: Hub, server: served.Server, owner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repo = f"{owner}/tiny-scpoli"
    hub.push(release(tmp_path / "one"), repo)
    hub.push(release(tmp_path / "two", version="2.0.0", seed=1), repo)
    Hub(server.root).yank(f"{repo}@2.0.0", reason="two donors were swapped")
    assert hub.resolve(repo).version == "1.0.0"
    hub.download(f"{repo}@2.0.0", tmp_path / "out")
    assert "two donors were swapped" in caplog.text
    hub.yank(f"{repo}@1.0.0", reason="so was a third")
    with pytest.raises(errors.NotFound, match="yanked"):
        hub.resolve(repo)
    assert hub.resolve(f"{repo}@1.0.0").version == "1.0.0"


def test_of_racing_first_pushes_exactly_one_wins(server: served.Server, owner: str, tmp_path: Path) -> None:
    token, outcomes = server.token("writer", "write", owner), list[object]()
    start = threading.Barrier(6)

    def push(number: int) -> None:
        wire = HuggingFaceWire(server.url, kind="models", token=token)
        store = WritableRemoteStore(wire, kind="models", cache=Cache(tmp_path / f"cache-{number}"))
        folder = release(tmp_path / f"racer-{number}", seed=number)
        start.wait()
        try:
            outcomes.append(store.commit(f"{owner}/new", folder, message="", parent=None))
        except errors.TransportError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=push, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [one for one in outcomes if not isinstance(one, Exception)]
    released = [entry.commit for entry in Hub(server.root).history(f"{owner}/new") if entry.digest]
    assert released == [won.commit]


def test_the_server_sends_the_rest_of_a_file(
    server: served.Server, owner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wire = HuggingFaceWire(server.url, kind="models", token=server.token("writer", "write", owner))
    writer, reader = (WritableRemoteStore(wire, kind="models", cache=Cache(tmp_path / name)) for name in ("one", "two"))
    folder = wide(tmp_path / "wide", units=50_000)
    ref = writer.commit(f"{owner}/wide", folder, message="", parent=None)
    weights = (folder / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    part = tmp_path / "two/blobs" / sha256[:2] / f"{sha256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(weights[:-1000])
    with caplog.at_level(logging.DEBUG, logger="urllib3"):
        out = reader.fetch(ref, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == weights
    assert 'model.safetensors HTTP/1.1" 206 1000' in caplog.text


def test_data_sets_and_offline(hub: Hub, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = simulated.counts(("q0",), cells=30)
    about = {"version": "1.0.0", "license": "CC-BY-4.0", "source": "simulated"}
    hub.push_dataset(adata, f"{owner}/cells", **about, private=True)
    assert (hub.pull_dataset(f"{owner}/cells").X != adata.X).nnz == 0
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    assert (hub.pull_dataset(f"{owner}/cells@1.0.0").X != adata.X).nnz == 0
    with pytest.raises(errors.NotFound, match="ARCHZOO_OFFLINE"):
        hub.pull_dataset(f"{owner}/other")


def test_deltas_over_the_network_and_in_bundles(
    server: served.Server, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repo, token = f"{owner}/blood", server.token("writer", "write", owner)
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    hub = Hub(server.url, token=token)
    hub.push(trained("scpoli"), repo)
    reference = hub.pull(repo)
    cells = simulated.cells_for(reference.manifest, simulated.QUERY, cells=60, seed=1, labelled=False)
    ref = hub.push(surgery(reference, cells), repo, delta=True)
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "fresh"))
    whole = Hub(server.url, token=token).download(repo, tmp_path / "whole")
    assert release_folder.verify(whole).digest == ref.digest
    tars = [hub.bundle(f"{repo}@{version}", tmp_path / f"{version}.tar") for version in ("1.0.0", "1.1.0")]
    assert f"bundle its parent too, {repo}@sha256:{reference.ref.digest[:12]}" in caplog.text
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "nothing"))
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    for tar in tars:
        with pytest.raises(SystemExit) as ended:
            main(["pull", str(tar)])
        assert ended.value.code == 0
    assert contents(Hub().download(f"{repo}@1.1.0", tmp_path / "again")) == contents(whole)

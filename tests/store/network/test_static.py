"""The static hub: what is exported is pulled from any web server, and a folder that is not whole is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.release import folder as release_folder
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Repositories
from hub_client.store.folder import git
from hub_client.store.folder.folder_store import FolderStore
from hub_client.store.network import static
from tests import simulated
from tests.hubs import FolderServer, Reply, served
from tests.releases import contents, release, wide

REPO = "lab/tiny-scpoli"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("ARCHZOO_HUB", raising=False)


@pytest.fixture
def source(tmp_path: Path) -> Hub:
    """A folder hub with two versions of a model, another model, and a data set."""
    hub = Hub(tmp_path / "hub")
    hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two", version="1.0.1", title="Better"), REPO)
    hub.push(wide(tmp_path / "wide", units=5_000), "lab/wide")
    cells = simulated.counts(("q0",), cells=20)
    hub.push_dataset(cells, "lab/cells", version="1.0.0", license="CC-BY-4.0", source="simulated")
    return hub


def export(tmp_path: Path, *names: str) -> static.Exported:
    stores = [FolderStore(tmp_path / "hub", kind=kind) for kind in ("models", "datasets")]
    return static.export(stores, tmp_path / "www", only=names)


@pytest.fixture
def server(tmp_path: Path, source: Hub) -> Iterator[FolderServer]:
    export(tmp_path)
    with served(FolderServer(tmp_path / "www")) as running:
        yield running


@pytest.fixture
def hub(server: FolderServer) -> Hub:
    return Hub(f"static+{server.url}")


@pytest.mark.slow
def test_everything_is_pulled_as_from_the_hub_itself(hub: Hub, source: Hub, tmp_path: Path) -> None:
    assert hub.names() == source.names()
    for name in (REPO, f"{REPO}@1.0.0", "tiny-scpoli@main", "wide"):
        there, here = source.resolve(name), hub.resolve(name)
        assert (here.repo, here.commit, here.version, here.digest) == (
            *(there.repo, there.commit),
            *(there.version, there.digest),
        )
        out = hub.download(name, tmp_path / "here" / name)
        assert contents(out) == contents(source.download(name, tmp_path / "there" / name))
    assert hub.resolve(f"{REPO}@{source.resolve(REPO).commit[:9]}").version == "1.0.1"
    assert hub.resolve(f"{REPO}@sha256:{source.resolve(f'{REPO}@1.0.0').digest[:12]}").version == "1.0.0"
    assert [(e.version, e.message) for e in hub.history(REPO)] == [(e.version, e.message) for e in source.history(REPO)]
    assert {found.name: found.version for found in hub.search()} == {REPO: "1.0.1", "lab/wide": "1.0.0"}
    assert (hub.pull_dataset("lab/cells").X != source.pull_dataset("lab/cells").X).nnz == 0


def test_an_export_is_refreshed_without_writing_again(source: Hub, tmp_path: Path) -> None:
    first = export(tmp_path)
    assert (first.repositories, first.releases) == (3, 4)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "www").rglob("*") if path.is_file()}
    assert export(tmp_path).written == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    source.push(release(tmp_path / "three", version="1.0.2", title="Best"), REPO)
    weights = (tmp_path / "three/model.safetensors").stat().st_size
    assert 0 < export(tmp_path).written < weights + 20_000
    blobs = [path for path in (tmp_path / "www/blobs").rglob("*") if path.is_file()]
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def test_some_repositories_are_exported(source: Hub, tmp_path: Path) -> None:
    assert export(tmp_path, "lab/wide").repositories == 1
    assert json.loads((tmp_path / "www/archzoo.json").read_text())["models"] == ["lab/wide"]
    with pytest.raises(errors.NotFound, match="lab/nothing"):
        export(tmp_path, "lab/nothing")
    export(tmp_path, REPO)
    assert json.loads((tmp_path / "www/archzoo.json").read_text())["models"] == [REPO, "lab/wide"]


def on_served(tmp_path: Path, repo: str, *, private: bool) -> None:
    """Make a repository as a served hub does, with a first commit that is no release, and release into it."""
    place = Place.named("models", repo)
    Repositories(tmp_path / "hub", private=True).create(place, private=private, creator="ada", url="")
    Hub(tmp_path / "hub").push(release(tmp_path / repo), repo)


def test_what_was_served_is_exported(tmp_path: Path) -> None:
    on_served(tmp_path, "lab/lung", private=False)
    done = export(tmp_path)
    assert (done.repositories, done.releases, done.private) == (1, 1, ())
    with served(FolderServer(tmp_path / "www")) as running:
        hub = Hub(f"static+{running.url}")
        assert [entry.version for entry in hub.history("lab/lung")] == ["1.0.0"]
        assert contents(hub.download("lab/lung@main", tmp_path / "out"))


def test_commits_that_are_no_release_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may commit to a served hub: here a card alone, which is not the one that the manifest names."""
    on_served(tmp_path, "lab/lung", private=False)
    released = Hub(tmp_path / "hub").resolve("lab/lung")
    with git.opened(tmp_path / "hub/models/lab/lung.git") as repository:
        for number, change in enumerate(({"README.md": b"# Edited"}, {"manifest.json": b"{"})):
            edited = tmp_path / f"edited{number}"
            edited.mkdir()
            repository.checkout(repository.head(), edited)
            for name, content in change.items():
                (edited / name).write_bytes(content)
            repository.advance(repository.head(), repository.add(edited, message="Edit", parent=repository.head()))
    done = export(tmp_path)
    assert (done.repositories, done.releases) == (1, 2)  # the edited card's manifest is the released one
    assert "of lab/lung is left out" in caplog.text
    with served(FolderServer(tmp_path / "www")) as running:
        assert Hub(f"static+{running.url}").resolve("lab/lung").digest == released.digest


def test_private_repositories_are_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    on_served(tmp_path, "lab/open", private=False)
    on_served(tmp_path, "lab/ours", private=True)
    index = tmp_path / "www/archzoo.json"
    done = export(tmp_path)
    assert (done.repositories, done.private) == (1, ("lab/ours",))
    assert json.loads(index.read_text())["models"] == ["lab/open"]
    with pytest.raises(
        errors.InvalidInput, match=r"lab/ours is private in .*Make it public there first.*--include-priv"
    ):
        export(tmp_path, "lab/ours")
    stores = [FolderStore(tmp_path / "hub", kind="models")]
    assert static.export(stores, tmp_path / "www", include_private=True).repositories == 2
    assert export(tmp_path).repositories == 1
    assert json.loads(index.read_text())["models"] == ["lab/open"]
    assert "lab/ours is private now and is no longer listed" in caplog.text


def test_a_served_folder_hubs_own_repositories_count_as_private(source: Hub, tmp_path: Path) -> None:
    """Nobody chose who sees them, and a served hub shows such to some only."""
    assert export(tmp_path).private == ()
    (tmp_path / "hub/.serve").mkdir()
    assert export(tmp_path).private == ("lab/cells", REPO, "lab/wide")
    record = tmp_path / f"hub/models/{REPO}.git/archzoo/record.json"
    record.parent.mkdir()
    for content, private in (('{"private": false}', False), ('{"private": true}', True), ("{", True), ("[]", True)):
        record.write_text(content)
        assert FolderStore(tmp_path / "hub", kind="models").private(REPO) == private


def test_nobody_pushes_to_it(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.TransportError, match="static"):
        hub.push(release(tmp_path / "new", version="3.0.0", seed=5), REPO)


def test_a_download_goes_on_where_it_was(hub: Hub, server: FolderServer, tmp_path: Path) -> None:
    weights = (tmp_path / "wide/model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    part = tmp_path / "cache/blobs" / sha256[:2] / f"{sha256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(weights[:-500])
    assert release_folder.verify(hub.download("wide", tmp_path / "out"))
    assert sum(seen.sent[0] for seen in server.seen if sha256 in seen.path) == 500


@pytest.mark.parametrize("name", ["archzoo.json", "models/lab/tiny-scpoli.json", "manifest", "model", "README"])
def test_a_flipped_byte_anywhere_is_found(
    hub: Hub, source: Hub, server: FolderServer, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "www" / name
    if not path.suffix:
        released = source.download(REPO, tmp_path / "released").iterdir()
        sha256 = next(hashlib.sha256(one.read_bytes()).hexdigest() for one in released if one.name.startswith(name))
        path = tmp_path / "www/blobs" / sha256[:2] / sha256
    content = bytearray(path.read_bytes())
    content[content.index(b'"') if path.suffix else len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises((errors.IntegrityError, errors.TransportError, errors.NotFound)):
        hub.names()
        hub.download(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_web_server_without_a_hub_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with served(FolderServer(tmp_path / "empty")) as running:
        with pytest.raises(errors.TransportError, match="no static hub"):
            Hub(f"static+{running.url}").search()
        with pytest.raises(errors.TransportError, match="no static hub"):
            Hub(f"static+{running.url}").pull(REPO)


def test_a_bucket_may_send_us_on(hub: Hub, server: FolderServer, tmp_path: Path) -> None:
    with served(FolderServer(tmp_path / "www")) as other:
        server.trick("/blobs/", lambda seen, reply: Reply(302, b"", {"Location": f"{other.url}{seen.path}"}))
        assert release_folder.verify(hub.download(REPO, tmp_path / "out"))
        assert other.seen


def test_a_damaged_release_is_not_exported(source: Hub, tmp_path: Path) -> None:
    weights = next((tmp_path / "hub").rglob("lfs/objects/*/*/*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.IntegrityError):
        export(tmp_path)

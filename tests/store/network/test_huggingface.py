"""A hub on the network, as a user meets it: pull, push, pins, pull requests, private repositories, names."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_client
from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.release import folder as release_folder
from hub_client.store.cache.downloads import Cache
from hub_client.store.network.huggingface import HuggingFaceWire
from hub_client.store.network.remote import WritableRemoteStore
from tests.hubs import HubServer, served, told
from tests.releases import contents, release

REPO = "lab/tiny-scpoli"
TOKEN = "hf_write"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and settings of these tests alone."""
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("HF_TOKEN", "hf_ambient")
    monkeypatch.delenv("ARCHZOO_HUB", raising=False)


@pytest.fixture(params=[True, False], ids=["initial-commit", "empty"])
def server(request: pytest.FixtureRequest) -> Iterator[HubServer]:
    with served(HubServer(initial=request.param)) as hub:
        yield hub


@pytest.fixture
def hub(server: HubServer) -> Hub:
    return Hub(server.url, token=TOKEN)


def test_what_is_pushed_is_pulled(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    ref = hub.push(release(tmp_path / "one"), REPO)
    assert (ref.version, ref.hub) == ("1.0.0", server.url)
    folder = hub.download(REPO, tmp_path / "out")
    assert release_folder.verify(folder).digest == ref.digest
    assert hub.resolve(REPO) == hub.resolve("tiny-scpoli") == ref
    assert server.repos[f"models/{REPO}"].tags == {"1.0.0": ref.commit}
    assert [found.name for found in hub.search()] == [REPO]
    card = server.repos[f"models/{REPO}"].commits[ref.commit].files["README.md"].decode()
    assert card.startswith('---\nlibrary_name: "archzoo"\n')
    assert '- "single-cell"' in card and '- "scpoli"' in card


def test_a_release_is_found_by_version_tag_branch_commit_and_digest(hub: Hub, tmp_path: Path) -> None:
    first = hub.push(release(tmp_path / "one"), REPO)
    second = hub.push(release(tmp_path / "two", version="2.0.0", seed=1), REPO, message="other weights")
    for ref in (first, second):
        for revision in (ref.version, ref.commit, ref.commit[:9], f"sha256:{ref.digest}", f"sha256:{ref.digest[:12]}"):
            assert hub.resolve(f"{REPO}@{revision}") == ref
    assert hub.resolve(f"{REPO}@main") == hub.resolve(REPO) == second
    assert [(entry.version, entry.message) for entry in hub.history(REPO)] == [
        ("2.0.0", "other weights"),
        ("1.0.0", "Release 1.0.0"),
    ]
    with pytest.raises(errors.NotFound, match="no revision"):
        hub.resolve(f"{REPO}@3.0.0")
    with pytest.raises(errors.NotFound, match="has no commit"):
        hub.resolve(f"{REPO}@{'0' * 40}")


def test_a_push_prints_nothing(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    hub.push(release(tmp_path / "one"), REPO)
    assert capfd.readouterr() == ("", "")


def test_pushing_again_changes_nothing(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = release(tmp_path / "one")
    ref = hub.push(folder, REPO)
    assert hub.push(folder, REPO) == ref
    assert len(hub.history(REPO)) == 1
    with pytest.raises(errors.TransportError, match="never changes"):
        hub.push(release(tmp_path / "other", title="Other"), REPO)


def test_a_push_is_one_commit_that_follows_its_parent(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    first = hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two", version="2.0.0", seed=1), REPO)
    with pytest.raises(errors.TransportError, match="moved on"):
        hub.push(release(tmp_path / "three", version="3.0.0", seed=2), REPO, parent=first.commit)
    posts = [seen.path for seen in server.seen if "/commit/" in seen.path]
    assert len(posts) == 2


def test_a_commit_that_came_between_is_told(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    """The parent was the newest when it was asked for, and is not when the commit arrives."""
    hub.push(release(tmp_path / "one"), REPO)
    other = Hub(server.url, token=TOKEN)
    second = release(tmp_path / "two", version="2.0.0", seed=1)
    before: list[str] = []

    def meanwhile(seen: object, reply: object) -> object:
        if not before:
            before.append("pushed")
            other.push(second, REPO)
        return reply

    server.trick(r"/preupload/", meanwhile)
    with pytest.raises(errors.TransportError, match="moved on") as caught:
        hub.push(release(tmp_path / "three", version="3.0.0", seed=2), REPO)
    assert caught.value.ref.version == "2.0.0"
    assert [entry.version for entry in hub.history(REPO)] == ["2.0.0", "1.0.0"]


@pytest.mark.slow
def test_of_racing_writers_exactly_one_wins(server: HubServer, tmp_path: Path) -> None:
    head = Hub(server.url, token=TOKEN).push(release(tmp_path / "first"), REPO)
    outcomes: list[object] = []

    def push(number: int) -> None:
        store = WritableRemoteStore(
            HuggingFaceWire(server.url, kind="models", token=TOKEN), kind="models", cache=Cache(tmp_path / str(number))
        )
        folder = release(tmp_path / f"racer-{number}", version="2.0.0", seed=number + 1)
        try:
            outcomes.append(store.commit(REPO, folder, message="", parent=head.commit))
        except errors.TransportError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=push, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [one for one in outcomes if not isinstance(one, Exception)]
    assert len(outcomes) == 8 and len(won) == 1
    assert Hub(server.url).resolve(REPO) == won[0]


def test_what_the_hub_shows_to_some_only_is_private(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two"), "lab/ours", private=True)
    (store,) = hub.stores
    assert (store.private(REPO), store.private("lab/ours"), store.private("lab/nothing")) == (False, True, True)
    gated = told({"id": REPO, "private": False, "gated": "manual"})
    server.trick(f"/api/models/{REPO}$", lambda seen, reply: gated)
    assert store.private(REPO)


def test_files_that_a_release_no_longer_has_are_removed(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    import numpy as np

    from hub_client.release import atlas_file

    atlas = atlas_file.atlas(np.ones((5, 3), np.float32), conditions={"batch": list("aabba")}, labels={})
    plain = release_folder.read(release(tmp_path / "plain"))
    extra = {release_folder.REFERENCE: atlas_file.dump(atlas)}
    hub.push(release_folder.write(tmp_path / "with", plain.manifest, plain.tensors, extra=extra), REPO)
    ref = hub.push(release(tmp_path / "without", version="2.0.0", seed=1), REPO)
    files = server.repos[f"models/{REPO}"].commits[ref.commit].files
    assert release_folder.REFERENCE not in files
    assert release_folder.verify(hub.download(REPO, tmp_path / "out")).digest == ref.digest
    old = hub.download(f"{REPO}@1.0.0", tmp_path / "old")
    assert (old / release_folder.REFERENCE).read_bytes() == extra[release_folder.REFERENCE]


def test_a_push_that_died_before_its_tag_is_finished_by_the_next(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    first = hub.push(release(tmp_path / "one"), REPO)
    repo = server.repos[f"models/{REPO}"]
    repo.tags.clear()
    assert hub.resolve(f"{REPO}@1.0.0").commit == first.commit
    second = hub.push(release(tmp_path / "two", version="2.0.0", seed=1), REPO)
    assert repo.tags == {"1.0.0": first.commit, "2.0.0": second.commit}


def test_a_pull_request_leaves_the_main_branch_as_it_is(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    first = hub.push(release(tmp_path / "one"), REPO)
    proposal = hub.propose(release(tmp_path / "two", version="2.0.0", seed=1), REPO)
    assert proposal.url == f"{server.url}/{REPO}/discussions/1"
    assert hub.resolve(REPO) == first
    assert hub.resolve(f"{REPO}@refs/pr/1").digest == proposal.ref.digest
    assert release_folder.verify(hub.download(f"{REPO}@refs/pr/1", tmp_path / "out")).version == "2.0.0"


def test_a_preview_shows_files_and_fields_and_pushes_nothing(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    first = hub.preview(release(tmp_path / "one"), REPO)
    assert first.parent is None and {file.what for file in first.files} == {"new"}
    ref = hub.push(tmp_path / "one", REPO)
    preview = hub.preview(release(tmp_path / "two", version="2.0.0", seed=1, title="Better"), REPO)
    changes = {change.field: (change.before, change.after) for change in preview.fields}
    assert changes["version"] == ("1.0.0", "2.0.0")
    assert changes["title"][1] == "Better"
    assert {(file.name, file.what) for file in preview.files} == {
        ("manifest.json", "changed"),
        ("model.safetensors", "changed"),
        ("README.md", "changed"),
    }
    assert preview.parent == ref
    assert [entry.version for entry in hub.history(REPO)] == ["1.0.0"]


def test_private_by_choice(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    hub.push(release(tmp_path / "one"), REPO, private=True)
    assert server.repos[f"models/{REPO}"].private
    stranger = Hub(server.url)
    assert stranger.search() == []
    with pytest.raises(errors.NotFound):
        stranger.pull(REPO)
    assert hub.resolve(REPO)
    hub.push(release(tmp_path / "public"), "lab/public")
    with pytest.raises(errors.InvalidInput, match="is public"):
        hub.push(release(tmp_path / "two", version="2.0.0", seed=1), "lab/public", private=True)


def test_folders_have_neither_private_repositories_nor_pull_requests(tmp_path: Path) -> None:
    folder, hub = release(tmp_path / "one"), Hub(tmp_path / "hub")
    with pytest.raises(errors.Unsupported, match="private"):
        hub.push(folder, REPO, private=True)
    with pytest.raises(errors.Unsupported, match="pull requests"):
        hub.propose(folder, REPO)
    assert not (tmp_path / "hub").exists()


def test_a_push_without_a_token_is_refused(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(errors.TransportError, match="token"):
        Hub(server.url).push(release(tmp_path / "one"), REPO)
    with pytest.raises(errors.TransportError, match="does not know the token"):
        Hub(server.url, token="hf_revoked").push(release(tmp_path / "two"), REPO)
    assert server.repos == {}


@pytest.mark.slow
def test_lists_go_over_pages(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    names = [f"lab/m{number}" for number in range(5)]
    for number, name in enumerate(names):
        hub.push(release(tmp_path / name, seed=number), name)
    assert hub.names() == names
    for number in range(1, 5):
        hub.push(release(tmp_path / f"v{number}", version=f"{number + 1}.0.0", seed=number + 5), names[0])
    assert [entry.version for entry in hub.history(names[0])] == ["5.0.0", "4.0.0", "3.0.0", "2.0.0", "1.0.0"]


def test_repositories_of_others_are_passed_over(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    from tests.hubs import Repo

    other = Repo()
    other.branches["main"] = other.add(None, {"config.json": b"{}"}, "somebody's")
    server.repos["models/other/language-model"] = other
    hub.push(release(tmp_path / "one"), REPO)
    assert [found.name for found in hub.search()] == [REPO]
    with pytest.raises(errors.NotFound):
        hub.pull("other/language-model")


# Names and addresses


def test_names_of_the_public_hub(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ref = Hub(server.url, token=TOKEN).push(release(tmp_path / "one"), REPO)
    server.repos["models/Big-Lab/tiny-scpoli"] = server.repos[f"models/{REPO}"]
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.seen.clear()
    with caplog.at_level(logging.DEBUG):
        assert Hub(tmp_path / "hub").resolve(f"hf://{REPO}@1.0.0").commit == ref.commit
        assert Hub("hf://").resolve("Big-Lab/tiny-scpoli").repo == "Big-Lab/tiny-scpoli"
        assert release_folder.verify(Hub().download(f"hf://{REPO}", tmp_path / "out")).digest == ref.digest
    assert all("authorization" not in seen.headers for seen in server.seen)
    assert "hf_ambient" not in caplog.text
    with pytest.raises(errors.InvalidInput, match="names a data set"):
        hub_client.pull("hf://datasets/lab/cells")
    with pytest.raises(errors.InvalidInput, match="names a model"):
        hub_client.pull_dataset(f"hf://{REPO}")
    with pytest.raises(errors.InvalidInput, match="name on the public hub"):
        Hub("hf://org")


def test_a_hub_of_the_environment_gets_its_own_token(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHZOO_HUB", server.url)
    monkeypatch.setenv("ARCHZOO_TOKEN", TOKEN)
    ref = hub_client.push(release(tmp_path / "one"), REPO, private=True)
    assert Hub().resolve("tiny-scpoli") == ref
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path))
    with pytest.raises(errors.NotFound):
        Hub(server.url).resolve(REPO)


def test_the_config_file_lists_hubs_in_search_order(server: HubServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    first, second = tmp_path / "first", tmp_path / "second"
    config = f"push_to = '{server.url}'\n"
    config += "".join(f"[[hubs]]\naddress = '{hub}'\n" for hub in (first, second, server.url))
    (tmp_path / "config.toml").write_text(config + f"token_file = '{token}'\n")
    pushed = hub_client.push(release(tmp_path / "one"), REPO, private=True)
    assert pushed.hub == server.url == hub_client.hub.client.resolve(REPO).hub
    for hub in (second, first):
        assert Hub(hub).push(release(tmp_path / f"in-{hub.name}"), REPO).hub == str(hub)
        assert hub_client.hub.client.resolve(REPO).hub == str(hub)
    token.chmod(0o644)
    with pytest.raises(errors.InvalidInput, match="others can read the token"):
        Hub()


@pytest.mark.parametrize(
    "text",
    ["hubs = 3", "[[hubs]]\naddress = 'x'\ntoken = 'hf_secret'", "not toml", "push_to = 'https://elsewhere.example'"],
)
def test_a_config_file_that_is_wrong_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(errors.InvalidInput, match="config file") as caught:
        Hub()
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://bucket", "ftp://lab.example"])
def test_other_kinds_of_hubs_are_named_as_what_is_missing(address: str) -> None:
    with pytest.raises(errors.Unsupported, match="does not reach"):
        Hub(address)


@pytest.mark.parametrize("address", ["https://", "https://me:secret@lab.example", "https://lab.example:port"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidInput, match="address"):
        Hub(address)


def test_data_sets_go_over_the_network_too(hub: Hub, server: HubServer) -> None:
    from tests import simulated

    adata = simulated.counts(("q0",), cells=20)
    ref = hub.push_dataset(adata, "lab/cells", version="1.0.0", license="CC-BY-4.0", source="simulated")
    again = hub.pull_dataset("lab/cells")
    assert (again.X != adata.X).nnz == 0
    assert list(again.obs_names) == list(adata.obs_names)
    assert [found.name for found in hub.search_datasets()] == ["lab/cells"]
    card = server.repos["datasets/lab/cells"].commits[ref.commit].files["README.md"].decode()
    assert '- "archzoo"' in card and 'license: "cc-by-4.0"' in card


def test_nothing_of_the_network_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, hub_client.hub.client as c; c.Hub('bundled').search();"
        "print(sorted({'requests', 'huggingface_hub', 'httpx2'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert ran.stdout.strip() == "[]"


def test_files_of_two_releases_are_downloaded_once(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two", version="1.0.1", title="Better"), REPO)
    for number, revision in enumerate(("1.0.0", "1.0.1", "1.0.0")):
        hub.download(f"{REPO}@{revision}", tmp_path / f"out-{number}")
    fetched = [seen for seen in server.seen if seen.path.endswith("model.safetensors")]
    assert len(fetched) == 1
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-2")

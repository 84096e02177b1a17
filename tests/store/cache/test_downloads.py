"""The cache: content-addressed, layered over a shared one, checked, tidied up; and the command that shows it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hub_client import errors
from hub_client.cli import main
from hub_client.hub.client import Hub
from hub_client.release import folder as release_folder
from hub_client.release.files import Wanted
from hub_client.store.cache import prune
from hub_client.store.cache.downloads import Cache
from hub_client.store.cache.repositories import RepositoryCache
from hub_client.store.network.stream import Stream
from tests.hubs import FolderServer, HubServer, served
from tests.releases import contents, release

REPO = "lab/tiny-scpoli"
OTHER = "lab/other"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """A hub with two versions that share their weights, and another model."""
    with served(HubServer()) as hub:
        pusher = Hub(hub.url, token="hf_write")
        pusher.push(release(tmp_path / "one"), REPO)
        pusher.push(release(tmp_path / "two", version="1.0.1", title="Better"), REPO)
        pusher.push(release(tmp_path / "three", seed=1), OTHER)
        hub.seen.clear()
        (tmp_path / "cache").rename(tmp_path / "pushers-cache")
        yield hub


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def blobs(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (root / "blobs").rglob("*") if path.is_file()}


def wanted(content: bytes, name: str = "x") -> Wanted:
    return Wanted(name, hashlib.sha256(content).hexdigest(), len(content))


@contextmanager
def giving(*pieces: bytes, start: int = 0) -> Iterator[Stream]:
    yield Stream(start, {}, iter(pieces))


# Content


def test_versions_and_hubs_share_files(server: HubServer, tmp_path: Path) -> None:
    Hub(server.url).download(f"{REPO}@1.0.0", tmp_path / "a")
    before = blobs(tmp_path / "cache")
    Hub(server.url).download(f"{REPO}@1.0.1", tmp_path / "b")
    assert len(blobs(tmp_path / "cache")) == len(before) + 2  # manifest and card
    with served(HubServer()) as second:
        second.repos = dict(server.repos)
        Hub(second.url).download(f"{REPO}@1.0.0", tmp_path / "c")
        assert [seen.path for seen in second.seen if "safetensors" in seen.path] == []
    assert all(len(name) == 64 for name in blobs(tmp_path / "cache"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_symlink()]


def test_what_is_downloaded_can_be_changed_without_harm(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(server.url)
    first = hub.download(REPO, tmp_path / "a")
    before = contents(first)
    for path in first.iterdir():
        path.write_bytes(b"mine now")
    assert contents(hub.download(REPO, tmp_path / "b")) == before


def test_reading_links_the_cached_files_and_leaves_nothing(server: HubServer, tmp_path: Path) -> None:
    from hub_client.store.addresses import store_at

    store = store_at(server.url, kind="models")
    ref = store.resolve(REPO)
    with store.opened(ref) as folder:
        assert release_folder.verify(folder).digest == ref.digest
        assert (folder / "model.safetensors").stat().st_nlink == 2
    assert list((tmp_path / "cache/opened").iterdir()) == []


@pytest.mark.slow
def test_a_file_that_stops_coming_is_given_up_after_some_tries(tmp_path: Path) -> None:
    content, asked = b"x" * 1000, []

    @contextmanager
    def stalling(start: int) -> Iterator[Stream]:
        asked.append(start)
        yield Stream(start, {}, iter([content[start : start + 300]] if len(asked) < 3 else []))

    with pytest.raises(errors.TransportError, match="keeps breaking off"):
        Cache(tmp_path).fill(wanted(content), stalling)
    assert asked == [0, 300, 600, 600, 600]

    @contextmanager
    def rest(start: int) -> Iterator[Stream]:
        asked.append(start)
        yield Stream(start, {}, iter([content[start:]]))

    assert Cache(tmp_path).fill(wanted(content), rest).read_bytes() == content
    assert asked[-1] == 600


def test_a_source_that_raises_keeps_what_came(tmp_path: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"x" * 400
        raise KeyboardInterrupt

    @contextmanager
    def source(start: int) -> Iterator[Stream]:
        yield Stream(start, {}, breaking())

    content = b"x" * 1000
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).fill(wanted(content), source)
    (part,) = (tmp_path / "blobs").rglob("*.part")
    assert part.stat().st_size == 400
    assert Cache(tmp_path).find(wanted(content)) is None


def test_a_file_that_is_another_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(errors.IntegrityError, match="It was not kept"):
        Cache(tmp_path).fill(wanted(b"good"), lambda start: giving(b"evil"))
    assert blobs(tmp_path) == {}


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    assert Cache(tmp_path).fill(wanted(b""), lambda start: giving()).read_bytes() == b""


# Shared


def test_a_shared_cache_is_read_and_never_written(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(server.url).download(REPO, tmp_path / "a")
    shared = (tmp_path / "cache").rename(tmp_path / "shared")
    state = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    monkeypatch.setenv("ARCHZOO_SHARED_CACHE", str(shared))
    server.seen.clear()
    assert contents(Hub(server.url).download(REPO, tmp_path / "b")) == contents(tmp_path / "a")
    assert [seen.path for seen in server.seen if "/resolve/" in seen.path] == []
    Hub(server.url).download(OTHER, tmp_path / "c")
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    for number, name in enumerate((REPO, f"{REPO}@1.0.1", OTHER)):
        Hub(server.url).download(name, tmp_path / f"offline-{number}")
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == state
    assert prune.prune(Cache.default(), unused_for=-10.0)
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == state


def test_damage_in_a_shared_cache_is_passed_over(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(server.url).download(REPO, tmp_path / "a")
    shared = (tmp_path / "cache").rename(tmp_path / "shared")
    for path in (shared / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x" * path.stat().st_size)
    monkeypatch.setenv("ARCHZOO_SHARED_CACHE", str(shared))
    with pytest.raises(errors.IntegrityError, match="damaged in the cache"):
        Hub(server.url).download(REPO, tmp_path / "b")


def test_the_config_file_names_a_shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(f"shared_cache = '{tmp_path / 'shared'}'\n")
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    assert Cache.default() == Cache(tmp_path / "cache", tmp_path / "shared")


# What hubs said


def test_facts_that_are_damaged_are_found_out_again(server: HubServer, tmp_path: Path) -> None:
    Hub(server.url).resolve(REPO)
    for path in (tmp_path / "cache/hubs").rglob("*.json"):
        path.write_bytes(b"{" + path.read_bytes()[:50])
    assert Hub(server.url).resolve(REPO).version == "1.0.1"


def test_notes_of_many_at_once_are_all_kept(tmp_path: Path) -> None:
    from threading import Thread

    notes = RepositoryCache(Cache(tmp_path), "https://hub.lab.example", "models")

    def note(number: int) -> None:
        notes.note(REPO, digests={f"{number:040x}": f"{number:064x}"})

    threads = [Thread(target=note, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notes.known(REPO).digests) == 12


# Keeping


def test_verify_finds_every_flipped_byte(server: HubServer, tmp_path: Path, command: Command) -> None:
    Hub(server.url).download(REPO, tmp_path / "a")
    code, out, _ = command("cache", "verify")
    assert code == 0 and f"{len(blobs(tmp_path / 'cache'))} downloaded files checked, 0 broken" in out
    path = next(path for path in (tmp_path / "cache/blobs").rglob("*") if path.is_file())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, out, _ = command("cache", "verify")
    assert code == 5 and f"{path}: has sha256" in out and "1 broken" in out
    Hub(server.url).download(REPO, tmp_path / "b")
    assert command("cache", "verify")[0] == 0


def test_ls_tells_what_is_here(server: HubServer, tmp_path: Path, command: Command) -> None:
    Hub(server.url).download(f"{REPO}@1.0.0", tmp_path / "a")
    Hub(server.url).resolve(REPO)
    _, out, _ = command("cache", "ls")
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith(REPO)}
    assert "partly here" not in lines["1.0.0"] and "partly here" in lines["1.0.1"]
    assert server.url in lines["1.0.0"]
    told = json.loads(command("cache", "ls", "--json")[1])
    assert {one["version"]: one["complete"] for one in told["downloads"]} == {"1.0.0": True, "1.0.1": False}
    assert "downloads" not in command("cache", "ls", "--hub", tmp_path / "hub")[1]


def age(root: Path, days: float) -> None:
    for path in root.rglob("*"):
        os.utime(path, (time.time() - days * prune.DAY,) * 2)


def test_prune_removes_what_nobody_needs(server: HubServer, tmp_path: Path, command: Command) -> None:
    cache = tmp_path / "cache"
    Hub(server.url).download(REPO, tmp_path / "a")
    needed = blobs(cache)
    (cache / "blobs/00").mkdir(exist_ok=True)
    (cache / "blobs/00" / ("0" * 64)).write_bytes(b"nobody's")
    (cache / "blobs/00" / ("00" + "1" * 62 + ".part")).write_bytes(b"cut off")
    (cache / "opened/killed").mkdir(parents=True)
    (cache / "staged/killed").write_bytes(b"half")
    assert "0 files" in command("cache", "prune")[1], "what is young may be in use"
    age(cache, 2)
    _, out, _ = command("cache", "prune", "--dry-run")
    assert "4 files, 19 B: to be removed" in out
    assert len(blobs(cache)) == len(needed) + 2
    assert "4 files, 19 B: removed" in command("cache", "prune")[1]
    assert blobs(cache) == needed
    assert not (cache / "opened/killed").exists()


def test_prune_removes_what_was_not_read_for_long(server: HubServer, tmp_path: Path, command: Command) -> None:
    hub = Hub(server.url)
    for number, name in enumerate((f"{REPO}@1.0.0", OTHER)):
        hub.download(name, tmp_path / f"{number}")
    age(tmp_path / "cache", 100)
    hub.download(f"{REPO}@1.0.1", tmp_path / "new")
    shared = hub.manifest(f"{REPO}@1.0.1").files
    removed = json.loads(command("cache", "prune", "--unused-for", 90, "--json")[1])
    assert {one["why"] for one in removed} == {"of a release that was not read for long"}
    assert set(blobs(tmp_path / "cache")) >= {file.sha256 for file in shared}
    assert [one.version for one in prune.kept(Cache.default())] == ["1.0.1"]
    assert contents(hub.download(f"{REPO}@1.0.0", tmp_path / "again")) == contents(tmp_path / "0")
    assert command("cache", "verify")[0] == 0


# The command line over the network


@pytest.mark.slow
def test_a_hub_is_used_from_the_command_line(
    server: HubServer, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REPO in command("list", "--hub", server.url)[1]
    assert json.loads(command("pull", REPO, "--out", tmp_path / "out", "--hub", server.url, "--json")[1])["hub"]
    assert release_folder.verify(tmp_path / "out").version == "1.0.1"
    monkeypatch.setenv("ARCHZOO_HUB", server.url)
    monkeypatch.setenv("ARCHZOO_TOKEN", "hf_write")
    new = release(tmp_path / "four", version="1.1.0", title="Best")
    _, out, _ = command("push", new, "--to", REPO, "--dry-run")
    assert "Nothing was pushed" in out and "title" in out and "model.safetensors" in out
    assert Hub().resolve(REPO).version == "1.0.1"
    _, out, _ = command("push", new, "--to", REPO, "--pr")
    assert f"{server.url}/{REPO}/discussions/1" in out
    assert Hub().resolve(REPO).version == "1.0.1"
    code, out, _ = command("push", new, "--to", "lab/secret", "--private", "-m", "ours")
    assert code == 0 and server.repos["models/lab/secret"].private
    code, _, err = command("push", new, "--to", REPO, "--private")
    assert code == 2 and "public" in err
    code, _, err = command("pull", REPO)
    assert code == 2 and "--out tiny-scpoli" in err
    code, _, err = command("info", "lab/nothing")
    assert code == 3 and server.url in err


def test_a_bundle_goes_over_to_another_machine(
    server: HubServer, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "tiny.tar"
    assert command("bundle", REPO, "--out", tar, "--hub", server.url)[0] == 0
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "another-cache"))
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    code, out, _ = command("pull", tar)
    assert code == 0 and "bundles" in out
    tar.unlink()
    assert command("info", "tiny-scpoli@1.0.1")[0] == 0
    assert command("pull", REPO, "--out", tmp_path / "out")[0] == 0
    assert release_folder.verify(tmp_path / "out").version == "1.0.1"


def test_an_export_is_read_from_a_web_server(tmp_path: Path, command: Command) -> None:
    command("push", release(tmp_path / "one"), "--to", REPO)
    code, out, _ = command("export-static", tmp_path / "www")
    assert code == 0 and "1 repositories, 1 releases" in out
    told: dict[str, Any] = json.loads(command("export-static", tmp_path / "www", REPO, "--json")[1])
    assert told["written"] == 0
    with served(FolderServer(tmp_path / "www")) as web:
        assert REPO in command("list", "--hub", f"static+{web.url}")[1]
    assert command("export-static", tmp_path / "www", "lab/nothing")[0] == 3


def test_completion_does_not_wait_for_a_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hub_client.cli import options

    monkeypatch.setenv("ARCHZOO_HUB", server.url)
    Hub().resolve(REPO)
    server.seen.clear()
    assert options.complete_model("lab/") == [REPO]
    assert server.seen == []
    assert "ARCHZOO_OFFLINE" not in os.environ

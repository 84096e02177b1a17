"""Hubs that lie, leak, stall and break off; each is served on 127.0.0.1 and written for what it does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.release import files as release_files
from hub_client.release import folder as release_folder
from hub_client.release.files import Wanted
from hub_client.store.cache.downloads import Cache
from hub_client.store.network.http import Client, shown
from hub_client.store.network.stream import Stream
from tests import warm
from tests.hubs import HubServer, Reply, Repo, Seen, served, told
from tests.releases import contents as files_of
from tests.releases import release, wide

REPO = "lab/tiny-scpoli"
TOKEN = "hf_Secret1234567890"
WEIGHTS = r"/resolve/[0-9a-f]{40}/model\.safetensors"
MANIFEST = r"/resolve/[0-9a-f]{40}/manifest\.json"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("ARCHZOO_HUB", raising=False)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with served(HubServer(tokens=(TOKEN,))) as hub:
        yield hub


@pytest.fixture
def other() -> Iterator[HubServer]:
    """A server on another port: somebody else."""
    with served(HubServer(tokens=(TOKEN,))) as hub:
        yield hub


@pytest.fixture
def hub(server: HubServer) -> Hub:
    return Hub(server.url, token=TOKEN)


def put(server: HubServer, folder: Path, *, repo: str = REPO, version: str | None = "1.0.0") -> str:
    """Put a folder's files on a server as they are, unchecked, and return the commit."""
    found = server.repos.setdefault(f"models/{repo}", Repo())
    head = found.add(found.branches.get("main"), files_of(folder), "put")
    found.branches["main"] = head
    if version:
        found.tags[version] = head
    return head


def written(tmp_path: Path) -> set[str]:
    """What lies in and beside the cache, without the cache's own files."""
    known = re.compile(r"cache/(blobs/[0-9a-f]{2}/[0-9a-f]{64}(\.part)?|locks/[0-9a-f]{2}\.lock|hubs/.*\.(json|lock))")
    found = (path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir())
    return {path for path in found if not known.fullmatch(path)}


# 1. Commits, ETags


@pytest.mark.parametrize("commit", ["../../../../etc/passwd", "f" * 39, "f" * 40, "F" * 40, "f" * 64, "", None])
@pytest.mark.parametrize("path", [MANIFEST, WEIGHTS])
def test_another_commit_than_the_pin_is_refused(
    hub: Hub, server: HubServer, tmp_path: Path, commit: str | None, path: str
) -> None:
    put(server, release(tmp_path / "r"))
    server.trick(path, lambda seen, reply: reply.saying(X_Repo_Commit=commit))
    before = written(tmp_path)
    with pytest.raises(errors.IntegrityError, match="answers with another"):
        hub.download(REPO, tmp_path / "out")
    assert written(tmp_path) == before


@pytest.mark.parametrize(
    "etag", ["../../../../tmp/evil", '"' + "a" * 41 + '"', '"' + "A" * 64 + '"', "", '"' + "0" * 64 + '"']
)
@pytest.mark.parametrize("path", [MANIFEST, WEIGHTS])
@pytest.mark.parametrize("header", ["ETag", "X_Linked_Etag"])
def test_a_hostile_etag_is_refused(
    hub: Hub, server: HubServer, tmp_path: Path, etag: str, path: str, header: str
) -> None:
    put(server, release(tmp_path / "r"))
    server.trick(path, lambda seen, reply: reply.saying(**{header: etag}))
    before = written(tmp_path)
    with pytest.raises(errors.IntegrityError, match="another file"):
        hub.download(REPO, tmp_path / "out")
    assert written(tmp_path) == before


@pytest.mark.parametrize("commit", ["../../x", "f" * 39, 7, None, "f" * 40 + "\n", "F" * 40])
def test_a_ref_that_names_no_commit_is_refused(hub: Hub, server: HubServer, tmp_path: Path, commit: Any) -> None:
    put(server, release(tmp_path / "r"))
    heads = {"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": commit}], "tags": []}
    server.trick("/refs", lambda seen, reply: told(heads | {"converts": [], "pullRequests": []}))
    with pytest.raises(errors.IntegrityError, match="targetCommit"):
        hub.resolve(REPO)


def test_a_commit_that_changes_is_refused(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    """Also where the hub is consistent with itself: what a commit held once it holds for good."""
    commit = put(server, release(tmp_path / "r"))
    hub.resolve(f"{REPO}@{commit}")
    server.repos[f"models/{REPO}"].commits[commit].files = files_of(release(tmp_path / "s", seed=1, title="Other"))
    shutil.rmtree(tmp_path / "cache/blobs")
    with pytest.raises(errors.IntegrityError, match="A commit never changes"):
        hub.resolve(f"{REPO}@{commit}")


def test_a_tag_that_points_to_another_version_is_refused(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"), version="2.0.0")
    with pytest.raises(errors.IntegrityError, match=r"calls itself 1\.0\.0"):
        hub.resolve(f"{REPO}@2.0.0")


@pytest.mark.parametrize("commit", ["../../x", "", None, "0" * 39])
def test_a_push_that_is_answered_with_no_commit_is_refused(
    hub: Hub, server: HubServer, tmp_path: Path, commit: Any
) -> None:
    server.trick("/commit/", lambda seen, reply: told(json.loads(reply.body) | {"commitOid": commit}))
    with pytest.raises((errors.IntegrityError, errors.TransportError), match=r"commit|push"):
        hub.push(release(tmp_path / "r"), REPO)


def test_a_hub_that_shows_something_else_than_was_pushed_is_caught(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    forged = files_of(release(tmp_path / "forged", title="Forged", seed=3))

    def swap(seen: Seen, reply: Reply) -> Reply:
        server.repos[f"models/{REPO}"].commits[json.loads(reply.body)["commitOid"]].files = forged
        return reply

    server.trick("/commit/", swap)
    with pytest.raises(errors.IntegrityError, match="shows another document"):
        hub.push(release(tmp_path / "r"), REPO)


# 2. Names

NAMES = [
    "../evil",
    "/etc/evil",
    "..\\evil",
    "C:evil",
    "a\0b",
    "..",
    ".",
    "",
    "sub/evil",
    "model.safetensors.",
    "CON",
    "nul.txt",
    "com1.safetensors",
    "MANIFEST.JSON",
    "manifest.json",
    "README.MD",
    "re\u0301sume\u0301",
    "a\nb",
    ".git",
    "x" * 200,
    "a b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_name_touches_no_path(hub: Hub, server: HubServer, tmp_path: Path, name: str) -> None:
    folder = release(tmp_path / "r")
    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"].append(
        {"path": name, "role": "weights", "sha256": hashlib.sha256(b"evil").hexdigest(), "size": 4}
    )
    (folder / "manifest.json").write_text(json.dumps(document))
    commit = put(server, folder)
    server.repos[f"models/{REPO}"].commits[commit].files[name] = b"evil"
    before = written(tmp_path)
    with pytest.raises((errors.IntegrityError, errors.ManifestError)):
        hub.download(REPO, tmp_path / "out")
    with pytest.raises(errors.IntegrityError, match="plain names"):
        release_files.files_of((folder / "manifest.json").read_bytes(), source="x")
    assert written(tmp_path) == before
    assert not [seen for seen in server.seen if "evil" in seen.path]


@pytest.mark.parametrize("size", [-1, 1 << 50, 1.5, "4", None, True])
@pytest.mark.parametrize("sha256", ["../" + "0" * 61, "0" * 63])
def test_a_hostile_size_or_sha256_is_refused(size: Any, sha256: str) -> None:
    good = {"path": "a", "size": 4, "sha256": "0" * 64}
    for wrong in ({"size": size}, {"sha256": sha256}):
        with pytest.raises(errors.ManifestError, match="list its files"):
            release_files.files_of(json.dumps({"files": [good | wrong]}).encode(), source="x")


@pytest.mark.parametrize(
    "name", ["../../evil", "/evil/x", "a/../../b", "lab\\x/y", "lab/..", "lab/x/y", "..", "lab/x\0"]
)
def test_a_hostile_repository_name_in_a_list_is_left_out(
    hub: Hub, server: HubServer, tmp_path: Path, name: str
) -> None:
    put(server, release(tmp_path / "r"))
    server.trick("/api/models[?]", lambda seen, reply: told([{"id": name}, {"id": REPO}]))
    before = written(tmp_path)
    assert hub.names() == [REPO]
    assert [found.name for found in hub.search()] == [REPO]
    assert written(tmp_path) == before


def test_the_list_of_files_is_never_asked_for(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    hub.download(REPO, tmp_path / "out")
    assert not [seen for seen in server.seen if "/tree/" in seen.path or "paths-info" in seen.path]


# 3. Links, and a cache that cannot be written


@pytest.mark.parametrize("suffix", ["", ".part"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_the_cache_is_not_followed(
    hub: Hub, server: HubServer, tmp_path: Path, suffix: str, exists: bool
) -> None:
    folder = release(tmp_path / "r")
    put(server, folder)
    victim = tmp_path / "victim"
    if exists:
        victim.write_bytes(b"precious")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    place = tmp_path / "cache/blobs" / sha256[:2] / (sha256 + suffix)
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    out = hub.download(REPO, tmp_path / "out")
    assert release_folder.verify(out)
    assert (victim.read_bytes() == b"precious") if exists else not victim.exists()


def test_a_link_to_the_right_bytes_is_replaced_before_it_can_be_swapped(
    hub: Hub, server: HubServer, tmp_path: Path
) -> None:
    folder = release(tmp_path / "r")
    put(server, folder)
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    place = tmp_path / "cache/blobs" / sha256[:2] / sha256
    place.parent.mkdir(parents=True)
    place.symlink_to(folder / "model.safetensors")
    hub.download(REPO, tmp_path / "out")
    assert not place.is_symlink()
    assert not (tmp_path / "out/model.safetensors").is_symlink()


def test_a_download_does_not_go_through_a_link(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.InvalidInput, match="exists already"):
        hub.download(REPO, tmp_path / "out")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine"]


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "seteuid"), reason="needs users")
def test_a_cache_that_cannot_be_written_is_told(server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    place = tmp_path / "cache"
    place.write_text("a file where the folder should be")
    with pytest.raises(errors.TransportError, match="ARCHZOO_CACHE"):
        Hub(server.url).download(REPO, tmp_path / "out")


# 4. and 5. Tokens


def tokens_seen(server: HubServer) -> list[str]:
    return [seen.path for seen in server.seen if "authorization" in seen.headers]


def test_an_api_that_sends_us_elsewhere_is_refused_and_told_no_token(
    hub: Hub, server: HubServer, other: HubServer, tmp_path: Path
) -> None:
    put(server, release(tmp_path / "r"))
    put(other, release(tmp_path / "s"))
    server.trick("/refs", lambda seen, reply: Reply(302, b"", {"Location": f"{other.url}{seen.path}"}))
    with pytest.raises(errors.TransportError, match="is not the hub"):
        hub.resolve(REPO)
    assert other.seen == []


def test_a_file_may_lie_elsewhere_but_the_token_does_not_go_there(
    hub: Hub, server: HubServer, other: HubServer, tmp_path: Path
) -> None:
    put(server, release(tmp_path / "r"))
    put(other, tmp_path / "r")
    for path in (MANIFEST, WEIGHTS):
        server.trick(path, lambda seen, reply: Reply(302, b"", reply.headers | {"Location": f"{other.url}{seen.path}"}))
    assert release_folder.verify(hub.download(REPO, tmp_path / "out"))
    assert len(other.seen) == 2
    assert tokens_seen(other) == []
    assert len(tokens_seen(server)) == len(server.seen)


@pytest.mark.parametrize("target", ["http://localhost:{port}", "//localhost:{port}", "http://[::1]:{port}"])
def test_another_name_of_this_machine_is_another_place(
    hub: Hub, server: HubServer, tmp_path: Path, target: str
) -> None:
    put(server, release(tmp_path / "r"))
    place = target.format(port=server.url.rpartition(":")[2])
    server.trick("/refs", lambda seen, reply: Reply(302, b"", {"Location": f"{place}{seen.path}"}))
    with pytest.raises(errors.TransportError, match="is not the hub"):
        hub.resolve(REPO)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:pw@127.0.0.1/", "gopher:x"]
)
def test_a_redirect_to_no_web_address_is_refused(hub: Hub, server: HubServer, tmp_path: Path, location: str) -> None:
    put(server, release(tmp_path / "r"))
    server.trick(WEIGHTS, lambda seen, reply: Reply(302, b"", {"Location": location}))
    with pytest.raises((errors.TransportError, errors.InvalidInput)):
        hub.download(REPO, tmp_path / "out")


def test_redirects_in_circles_end(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    server.trick(WEIGHTS, lambda seen, reply: Reply(302, b"", {"Location": f"{seen.path}?again"}))
    with pytest.raises(errors.TransportError, match="circles"):
        hub.download(REPO, tmp_path / "out")


def test_the_next_page_is_of_the_same_hub(hub: Hub, server: HubServer, other: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    link = f'<{other.url}/api/models?cursor=1>; rel="next"'
    server.trick("/api/models[?]", lambda seen, reply: reply.saying(Link=link))
    with pytest.raises(errors.TransportError, match="next page"):
        hub.names()
    assert other.seen == []


def test_pages_without_end_end(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    put(server, release(tmp_path / "r"))
    link = f'<{server.url}/api/models?cursor=1>; rel="next"'
    server.trick("/api/models[?]", lambda seen, reply: reply.saying(Link=link))
    with pytest.raises(errors.TransportError, match="next page"):
        hub.names()
    assert len(server.seen) < 10


def test_upload_and_verify_links_elsewhere_get_no_token(
    hub: Hub, server: HubServer, other: HubServer, tmp_path: Path
) -> None:
    def elsewhere(seen: Seen, reply: Reply) -> Reply:
        found = json.loads(reply.body)
        for one in found["objects"]:
            href = f"{other.url}/lfs/{one['oid']}"
            one["actions"] = {"upload": {"href": href}, "verify": {"href": f"{other.url}/verify"}}
        return told(found)

    server.trick("/objects/batch", elsewhere)
    other.trick("/verify", lambda seen, reply: Reply(200, b"{}"))
    other.trick("/lfs/", lambda seen, reply: (server.objects.update(other.objects), reply)[1])
    hub.push(release(tmp_path / "r"), REPO)
    assert [seen.path for seen in other.seen if seen.path == "/verify"]
    assert tokens_seen(other) == []
    assert tokens_seen(server)


@pytest.mark.parametrize("verb", ["create", "preupload", "commit", "tag"])
def test_a_push_that_is_sent_elsewhere_gives_away_no_token(
    hub: Hub, server: HubServer, other: HubServer, tmp_path: Path, verb: str
) -> None:
    if verb != "create":
        hub.push(release(tmp_path / "first"), REPO)
    server.trick(f"/{verb}", lambda seen, reply: Reply(307, b"", {"Location": f"{other.url}{seen.path}"}))
    new = release(tmp_path / "r", version="2.0.0", seed=1)
    if verb == "tag":
        assert hub.push(new, REPO).version == "2.0.0"  # it is out by then; a tag only repeats what its document says
        assert hub.resolve(f"{REPO}@2.0.0")
    else:
        with pytest.raises(errors.TransportError):
            hub.push(new, REPO if verb != "create" else "lab/new")
    assert tokens_seen(other) == []


@pytest.mark.slow
def test_ambient_tokens_never_go_to_another_hub(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, release(tmp_path / "r"))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (home / ".netrc").chmod(0o600)
    program = f"""
import hub_client.hub.client as client, pathlib
hub = client.Hub({server.url!r})
hub.search()
hub.download({REPO!r}, pathlib.Path({str(tmp_path / "out")!r}))
try:
    hub.push(pathlib.Path({str(tmp_path / "r")!r}), "lab/new")
except client.errors.TransportError as error:
    print("refused", error)
"""
    ambient = {"HF_TOKEN": "hf_ambient", "HOME": str(home), "NETRC": str(home / ".netrc"), "HF_HOME": str(home / "hf")}
    (home / "hf").mkdir()
    (home / "hf/token").write_text("hf_stored")
    ran = run(program, **ambient)
    assert "refused" in ran.stdout
    assert len(server.seen) > 5
    assert tokens_seen(server) == []


def test_the_token_is_never_shown(
    hub: Hub, server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, release(tmp_path / "r"))
    said = []
    echo = {"X-Error-Message": f"no, Bearer {TOKEN}, no", "X-Error-Code": "Other"}
    server.trick("/refs", lambda seen, reply: Reply(403, TOKEN.encode(), echo))
    server.trick("/repos/create", lambda seen, reply: Reply(403, json.dumps({"error": TOKEN}).encode(), echo))
    with caplog.at_level(logging.DEBUG):
        for verb in (lambda: hub.resolve(REPO), lambda: hub.push(tmp_path / "r", "lab/new")):
            with pytest.raises(errors.TransportError) as caught:
                verb()
            said.append(str(caught.value))
    assert all(TOKEN not in text for text in [*said, repr(hub), caplog.text])
    assert "***" in said[0]


@pytest.mark.slow
def test_debugging_the_library_shows_no_token(server: HubServer, tmp_path: Path) -> None:
    folder = release(tmp_path / "r")
    program = f"""
import hub_client, pathlib
hub_client.Hub({server.url!r}, token={TOKEN!r}).push(pathlib.Path({str(folder)!r}), {REPO!r})
"""
    ran = run(program, HF_DEBUG="1", HF_HUB_VERBOSITY="debug")
    assert "POST" in ran.stderr, "the library logged nothing: the test shows nothing"
    assert TOKEN not in ran.stderr + ran.stdout


def test_a_token_does_not_cross_the_network_in_the_clear() -> None:
    for address in ("http://hub.lab.example", "http://10.0.0.7:8000", "static+http://hub.lab.example"):
        with pytest.raises(errors.InvalidInput, match="in the clear"):
            Hub(address, token=TOKEN)
        assert Hub(address)
    for wrong in ("", "a b", "a\nb", "ä"):
        with pytest.raises(errors.InvalidInput, match="token") as caught:
            Hub("https://hub.lab.example", token=wrong)
        assert len(wrong) < 2 or wrong not in str(caught.value)


# 6. Sizes, encodings, ranges


def bomb(seen: Seen, reply: Reply) -> Reply:
    return reply.but(body=gzip.compress(bytes(200 << 20), 1)).saying(Content_Encoding="gzip")


LIES: dict[str, tuple[Callable[[Seen, Reply], Reply], type[Exception], str]] = {
    "longer": (lambda seen, reply: reply.but(body=reply.body + b"x" * 9), errors.IntegrityError, "announces"),
    "shorter": (lambda seen, reply: reply.but(body=reply.body[:-9]), errors.IntegrityError, "announces"),
    "longer than announced nothing": (
        lambda seen, reply: reply.but(body=reply.body + b"x" * (1 << 20), cut=1 << 30).saying(Content_Length=None),  # type: ignore[arg-type]
        errors.IntegrityError,
        "goes on after",
    ),
    "breaks off for ever": (lambda seen, reply: reply.but(cut=0), errors.TransportError, "breaking off"),
    "gzip bomb": (bomb, errors.IntegrityError, "compressed"),
    "other length": (lambda seen, reply: reply.saying(Content_Length="3"), errors.IntegrityError, "announces"),
    "no number": (lambda seen, reply: reply.saying(Content_Length="-3"), errors.HubClientError, "."),
    "range unasked": (
        lambda seen, reply: reply.but(status=206).saying(Content_Range=f"bytes 5-9/{len(reply.body)}"),
        errors.IntegrityError,
        "announces",
    ),
    "error page": (lambda seen, reply: Reply(418, b"teapot"), errors.TransportError, "418"),
}


SLOW_LIES = ["breaks off for ever"]


@pytest.mark.parametrize("lie", [pytest.param(lie, marks=[pytest.mark.slow] * (lie in SLOW_LIES)) for lie in LIES])
def test_a_file_of_another_size_is_refused(hub: Hub, server: HubServer, tmp_path: Path, lie: str) -> None:
    trick, kind, message = LIES[lie]
    put(server, release(tmp_path / "r"))
    server.trick(WEIGHTS, trick)
    before, peak = written(tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(kind, match=message):
        hub.download(REPO, tmp_path / "out")
    assert written(tmp_path) == before
    sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.part")]
    assert all(size <= (tmp_path / "r/model.safetensors").stat().st_size for size in sizes)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # kB; the bomb has 200 MB


@pytest.mark.parametrize("path", [MANIFEST, "/refs", "/api/models[?]", "/commits/"])
def test_answers_that_are_kept_in_memory_are_bounded(hub: Hub, server: HubServer, tmp_path: Path, path: str) -> None:
    put(server, release(tmp_path / "r"))
    ask = hub.names if "models" in path else lambda: hub.history(REPO)
    server.trick(path, bomb)
    with pytest.raises((errors.IntegrityError, errors.TransportError), match="compressed"):
        ask()
    server.tricks.clear()
    server.trick(path, lambda seen, reply: reply.but(body=b"[" * (40 << 20)))
    with pytest.raises(errors.TransportError, match="more than the"):
        ask()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 100_000, b'{"branches": 3}', b"null", b"\xff", b'{"a":1,"a":2}']
)
def test_an_answer_that_is_none_is_told(hub: Hub, server: HubServer, tmp_path: Path, body: bytes) -> None:
    put(server, release(tmp_path / "r"))
    server.trick("/refs", lambda seen, reply: reply.but(body=body))
    with pytest.raises((errors.TransportError, errors.IntegrityError), match=re.escape(server.url)):
        hub.resolve(REPO)


def partial(tmp_path: Path, folder: Path, content: bytes) -> Path:
    """Leave what another process would have left of a download."""
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    part = tmp_path / "cache/blobs" / sha256[:2] / f"{sha256}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    return part


def sent(server: HubServer) -> int:
    return sum(seen.sent[0] for seen in server.seen if "model.safetensors" in seen.path)


def test_what_has_come_is_not_fetched_again(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=20_000)
    weights = (folder / "model.safetensors").read_bytes()
    put(server, folder)
    partial(tmp_path, folder, weights[:-1000])
    hub.download(REPO, tmp_path / "out")
    assert sent(server) == 1000


@pytest.mark.parametrize("tampered", ["other bytes", "too long", "complete but wrong"])
def test_a_part_that_was_tampered_with_is_fetched_anew(
    hub: Hub, server: HubServer, tmp_path: Path, tampered: str
) -> None:
    folder = wide(tmp_path / "r", units=2_000)
    weights = (folder / "model.safetensors").read_bytes()
    put(server, folder)
    left = {
        "other bytes": b"x" * 1000,
        "too long": weights + b"x",
        "complete but wrong": b"x" * len(weights),
    }
    partial(tmp_path, folder, left[tampered])
    out = hub.download(REPO, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == weights


def test_a_complete_part_is_taken_without_asking(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=2_000)
    put(server, folder)
    partial(tmp_path, folder, (folder / "model.safetensors").read_bytes())
    hub.download(REPO, tmp_path / "out")
    assert sent(server) == 0


def whole(seen: Seen, reply: Reply, *, server: HubServer) -> Reply:
    commit = server.repos[f"models/{REPO}"].branches["main"]
    content = server.repos[f"models/{REPO}"].commits[commit].files["model.safetensors"]
    headers = {name: value for name, value in reply.headers.items() if name != "Content-Range"}
    return Reply(200, content, headers)


def test_a_server_without_ranges_sends_the_whole_file(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=2_000)
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: whole(seen, reply, server=server))
    partial(tmp_path, folder, b"x" * 1000)
    out = hub.download(REPO, tmp_path / "out")
    assert files_of(out) == files_of(folder)


@pytest.mark.parametrize("said", ["bytes 0-9/10", "bytes 1000-5/6", "bytes */5", "nonsense", None])
def test_another_range_than_was_asked_for_is_refused(
    hub: Hub, server: HubServer, tmp_path: Path, said: str | None
) -> None:
    folder = wide(tmp_path / "r", units=2_000)
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: reply.saying(Content_Range=said))  # type: ignore[arg-type]
    partial(tmp_path, folder, b"x" * 1000)
    with pytest.raises(errors.IntegrityError, match="announces"):
        hub.download(REPO, tmp_path / "out")


def test_a_range_that_is_refused_is_asked_for_whole(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=2_000)
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: Reply(416) if "range" in seen.headers else reply)
    partial(tmp_path, folder, b"x" * 1000)
    assert files_of(hub.download(REPO, tmp_path / "out")) == files_of(folder)


def test_a_connection_that_breaks_off_is_taken_up_again(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=40_000)
    size = (folder / "model.safetensors").stat().st_size
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: reply.but(cut=200_000))
    assert files_of(hub.download(REPO, tmp_path / "out")) == files_of(folder)
    assert sent(server) == size
    assert len([seen for seen in server.seen if "range" in seen.headers]) == size // 200_000


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["/resolve/", "/refs", WEIGHTS])
def test_a_gated_repository_is_called_so(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, path: str
) -> None:
    """A hub lists it for everybody, and keeps its files for those who accepted its terms."""
    put(server, release(tmp_path / "r"))
    put(server, release(tmp_path / "s"), repo="lab/open")
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model lab/tiny-scpoli is restricted."}
    server.trick(f"{REPO}.*{path}", lambda seen, reply: Reply(status, headers=headers))
    hub = Hub(server.url)
    for ask in (hub.resolve, hub.pull) if path != WEIGHTS else (hub.pull,):
        with pytest.raises(errors.Restricted, match=r"is restricted\). Accept its terms on its page there, and give a"):
            ask(REPO)
    if path != WEIGHTS:
        assert [one.name for one in hub.search()] == ["lab/open"]
        assert f"{REPO} in {server.url} is left out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, server: HubServer, tmp_path: Path, status: int) -> None:
    put(server, release(tmp_path / "r"))
    busy = iter([True, True])
    server.trick(WEIGHTS, lambda seen, reply: Reply(status) if next(busy, False) else reply)
    assert release_folder.verify(hub.download(REPO, tmp_path / "out"))


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(errors.TransportError, match="cannot be reached"):
            Hub(address).resolve(REPO)


# 7. Bytes


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "README.md"])
def test_a_flipped_byte_is_found_in_every_file(hub: Hub, server: HubServer, tmp_path: Path, name: str) -> None:
    commit = put(server, release(tmp_path / "r"))
    files = server.repos[f"models/{REPO}"].commits[commit].files
    server.trick(rf"/{name}", lambda seen, reply: reply.but(body=flipped(reply.body)))
    with pytest.raises(errors.IntegrityError):
        hub.download(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    server.tricks.clear()
    files[name] = flipped(files[name])  # a hub that is consistent with itself
    digest = hashlib.sha256((tmp_path / "r/manifest.json").read_bytes()).hexdigest()
    with pytest.raises((errors.IntegrityError, errors.NotFound, errors.ManifestError)):
        hub.download(f"{REPO}@sha256:{digest}", tmp_path / "out")


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def test_damage_in_the_cache_is_found_and_repaired(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = release(tmp_path / "r")
    put(server, folder)
    hub.download(REPO, tmp_path / "one")
    for path in (tmp_path / "cache/blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(flipped(path.read_bytes()))
    assert files_of(hub.download(REPO, tmp_path / "two")) == files_of(folder)


# 8. Killed, crowded, full

PULL = """
import sys, pathlib, hub_client
hub_client.Hub(sys.argv[1]).download({repo!r}, pathlib.Path(sys.argv[2]))
"""


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[3])
    command = [warm.python(), "-c", program, *arguments]
    environment_ = os.environ | {"PYTHONPATH": root} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment_, cwd=root, check=True)


@contextmanager
def pulling(server: HubServer, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", PULL.format(repo=REPO), server.url, str(out)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}, cwd=root) as process:
        yield process


@pytest.mark.slow
def test_a_pull_killed_half_way_goes_on_where_it_was(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=1_250_000)  # 20 MB
    size = (folder / "model.safetensors").stat().st_size
    assert size > 20_000_000
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: reply.but(pace=0.02))
    with pulling(server, tmp_path / "killed") as process:
        while sent(server) < size // 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (part,) = (tmp_path / "cache/blobs").rglob("*.part")
    kept = part.stat().st_size
    assert kept > size // 3
    server.tricks.clear()
    server.seen.clear()
    out = hub.download(REPO, tmp_path / "out")
    assert files_of(out) == files_of(folder)
    assert sent(server) == size - kept
    assert not (tmp_path / "killed").exists()


@pytest.mark.slow
def test_pulls_killed_at_random_moments_leave_a_sound_cache(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    import random

    folder = wide(tmp_path / "r", units=100_000)
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: reply.but(pace=0.02))
    chance, killed = random.Random(0), 0
    for number in range(8):
        with pulling(server, tmp_path / f"out-{number}") as process:
            time.sleep(chance.uniform(0.2, 1.8))
            killed += process.poll() is None
            process.kill()
        out = tmp_path / f"out-{number}"  # whole also where the kill came between the last step and the end
        there = any(out.glob("*"))
        assert not there or files_of(out) == files_of(folder)
        assert there or process.returncode != 0
    assert killed
    assert files_of(hub.download(REPO, tmp_path / "out")) == files_of(folder)
    assert Cache.default().find(Wanted("x", *_identity(folder))) is not None


def _identity(folder: Path) -> tuple[str, int]:
    content = (folder / "model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest(), len(content)


@pytest.mark.slow
def test_pulls_at_once_download_each_file_once(server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=200_000)
    put(server, folder)
    server.trick(WEIGHTS, lambda seen, reply: reply.but(pace=0.01))
    failed: list[BaseException] = []

    def pull(number: int) -> None:
        try:
            Hub(server.url).download(REPO, tmp_path / f"out-{number}")
        except errors.HubClientError as error:
            failed.append(error)

    threads = [threading.Thread(target=pull, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sent(server) == (folder / "model.safetensors").stat().st_size
    assert all(files_of(tmp_path / f"out-{number}") == files_of(folder) for number in range(6))


def test_a_full_disk_is_told_and_what_came_is_kept(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    folder = wide(tmp_path / "r", units=60_000)
    put(server, folder)
    (tmp_path / "cache").mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path / "cache")], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(errors.TransportError, match="free"):
            hub.download(REPO, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "cache")], check=True)
        assert files_of(hub.download(REPO, tmp_path / "out")) == files_of(folder)
    finally:
        subprocess.run(["umount", str(tmp_path / "cache")], check=True)


# 11. Code in disguise


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/archzoo-was-here", "w"))


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


DISGUISES = {
    "pickle": pickle.dumps(Evil()),
    "torch": zipped("archive/data.pkl", pickle.dumps(Evil())),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "numpy object": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 60,
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("name", ["model.safetensors", "reference.zarr.zip"])
def test_code_in_disguise_is_refused_by_its_content(
    hub: Hub, server: HubServer, tmp_path: Path, disguise: str, name: str
) -> None:
    folder, content = release(tmp_path / "r"), DISGUISES[disguise]
    document = json.loads((folder / "manifest.json").read_bytes())
    role = {"model.safetensors": "weights", "reference.zarr.zip": "reference"}[name]
    kept = [file for file in document["files"] if file["path"] != name]
    record = {"path": name, "role": role, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    document["files"] = sorted([*kept, record], key=lambda file: file["path"])
    (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(document, sort_keys=True))
    put(server, folder)
    for verb in (lambda: hub.download(REPO, tmp_path / "out"), lambda: hub.pull(REPO)):
        with pytest.raises(errors.IntegrityError):
            verb()
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/archzoo-was-here").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "attr_dict.pkl", "atlas.h5ad"])
def test_files_that_no_release_has_are_refused_by_default(
    hub: Hub, server: HubServer, tmp_path: Path, name: str
) -> None:
    folder = release(tmp_path / "r")
    document = json.loads((folder / "manifest.json").read_bytes())
    record = {"path": name, "role": "weights", "sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    document["files"].append(record)
    (folder / name).write_bytes(b"x")
    (folder / "manifest.json").write_text(json.dumps(document, sort_keys=True))
    put(server, folder)
    with pytest.raises((errors.IntegrityError, errors.ManifestError)):
        hub.pull(REPO)


# 14. Offline


def test_offline_opens_no_socket_and_says_what_is_missing(
    hub: Hub, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = release(tmp_path / "r")
    first = put(server, folder)
    second = put(server, release(tmp_path / "s", version="2.0.0", seed=1), version="2.0.0")
    hub.download(f"{REPO}@1.0.0", tmp_path / "one")
    hub.resolve(f"{REPO}@2.0.0")
    asked = len(server.seen)
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for revision in ("1.0.0", first, first[:8]):
        assert files_of(hub.download(f"{REPO}@{revision}", tmp_path / f"out-{revision}")) == files_of(folder)
    assert [found.version for found in hub.search()] == ["2.0.0"]
    assert hub.resolve(REPO).commit == second
    with pytest.raises(errors.TransportError, match=r"model\.safetensors.*tiny-scpoli@2\.0\.0.*not in the cache"):
        hub.download(REPO, tmp_path / "two")
    with pytest.raises(errors.NotFound, match="ARCHZOO_OFFLINE"):
        hub.resolve("lab/never-seen")
    with pytest.raises(errors.NotFound, match="no revision"):
        hub.resolve(f"{REPO}@3.0.0")
    with pytest.raises(errors.TransportError, match="ARCHZOO_OFFLINE"):
        hub.push(folder, "lab/new")
    with pytest.raises(errors.TransportError, match="ARCHZOO_OFFLINE"):
        Client(server.url).get("x", limit=1)
    assert len(server.seen) == asked


# Odds and ends


def test_what_a_stranger_says_is_shown_in_one_plain_line() -> None:
    assert shown("a\x1b[31m\nb" + "c" * 500) == "a?[31m?b" + "c" * 192
    assert shown("https://hub.example/x?signature=secret") == "https://hub.example/x"


def test_a_cache_tells_how_far_it_is(tmp_path: Path) -> None:
    content, told_ = b"x" * 1000, []
    wanted = Wanted("x", hashlib.sha256(content).hexdigest(), 1000)

    @contextmanager
    def source(start: int) -> Iterator[Stream]:
        yield Stream(start, {}, iter([content[start : start + 400], content[start + 400 :]]))

    Cache(tmp_path).fill(wanted, source, report=told_.append)
    assert told_ == [400, 1000]


@pytest.mark.slow
def test_upload_links_are_not_logged(
    hub: Hub, server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def signed(seen: Seen, reply: Reply) -> Reply:
        found = json.loads(reply.body)
        for one in found["objects"]:
            one["actions"]["upload"]["href"] += "?signature=capability"
        return told(found)

    server.trick("/objects/batch", signed)
    busy = iter([True])
    server.trick("/lfs/", lambda seen, reply: Reply(503) if next(busy, False) else reply)
    with caplog.at_level(logging.DEBUG, logger="huggingface_hub"):
        hub.push(release(tmp_path / "r"), REPO)
    assert "503" in caplog.text, "nothing was logged: the test shows nothing"
    assert "capability" not in caplog.text


@pytest.mark.slow
def test_a_session_that_the_library_begins_anew_has_no_token(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    import huggingface_hub

    busy = iter([True])

    def lose(seen: Seen, reply: Reply) -> Reply:
        if not next(busy, False):
            return reply
        server.seen.clear()
        threading.Timer(0.3, huggingface_hub.close_session).start()
        return Reply(503)  # the library waits a second, and asks again

    server.trick("/preupload/", lose)
    with pytest.raises(errors.TransportError, match="lost on the way"):
        hub.push(release(tmp_path / "r"), REPO)
    assert server.seen
    assert tokens_seen(server) == []
    assert hub.push(tmp_path / "r", REPO).version == "1.0.0"

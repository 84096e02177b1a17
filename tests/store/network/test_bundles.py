"""Bundles: a release in one file, carried to a machine without a network, and tars of other people's making."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.release import folder as release_folder
from hub_client.store.cache.downloads import Cache
from hub_client.store.network.bundles import RECORD, BundleFile
from tests.releases import contents, release

REPO = "lab/tiny-scpoli"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "hub"))


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    Hub().push(release(tmp_path / "one"), REPO)
    return Hub().bundle(REPO, tmp_path / "tiny.tar")


def test_a_bundle_is_pulled_like_a_folder(tar: Path, tmp_path: Path) -> None:
    ref = Hub().resolve(REPO)
    found = Hub().resolve(tar)
    assert (found.repo, found.commit, found.version, found.digest) == (REPO, ref.commit, "1.0.0", ref.digest)
    assert Hub().resolve(str(tar)) == found
    out = Hub().download(tar, tmp_path / "out")
    assert contents(out) == contents(Hub().download(REPO, tmp_path / "there"))


def test_the_same_release_gives_the_same_bytes(tar: Path, tmp_path: Path) -> None:
    again = Hub().bundle(REPO, tmp_path / "again.tar")
    assert again.read_bytes() == tar.read_bytes()
    with pytest.raises(errors.InvalidInput, match="exists already"):
        Hub().bundle(REPO, again)
    with tarfile.open(tar) as opened:
        assert [(m.mtime, m.uid, m.uname) for m in opened.getmembers()] == [(0, 0, "")] * len(opened.getmembers())


def test_what_is_kept_is_found_by_name_without_a_network(
    tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = BundleFile(tar, "models").keep(Cache.default())
    tar.unlink()
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "another-machine"))
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for name in (REPO, "tiny-scpoli", f"{REPO}@1.0.0", f"{REPO}@{kept.commit}", f"{REPO}@sha256:{kept.digest[:12]}"):
        assert Hub().resolve(name) == kept
    assert release_folder.verify(Hub().download(REPO, tmp_path / "out")).digest == kept.digest
    assert REPO in [found.name for found in Hub().search()]


def test_a_second_version_joins_the_first(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub().push(release(tmp_path / "two", version="1.0.1", title="Better"), REPO)
    BundleFile(Hub().bundle(f"{REPO}@1.0.1", tmp_path / "two.tar"), "models").keep(Cache.default())
    BundleFile(tar, "models").keep(Cache.default())
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "another-machine"))
    assert Hub().resolve(REPO).version == "1.0.1"
    assert Hub().resolve(f"{REPO}@1.0.0").version == "1.0.0"


def test_an_own_hub_comes_before_bundles(tar: Path, tmp_path: Path) -> None:
    BundleFile(tar, "models").keep(Cache.default())
    Hub().push(release(tmp_path / "two", version="1.0.1", title="Better"), REPO)
    assert Hub().resolve(REPO).version == "1.0.1"
    assert Hub().resolve("tiny-scpoli").hub == str(tmp_path / "hub")


def test_a_bundle_of_a_model_is_no_data_set(tar: Path) -> None:
    with pytest.raises(errors.IntegrityError, match="data set"):
        Hub().pull_dataset(tar)
    with pytest.raises(errors.NotFound):
        Hub().pull("./nothing.tar")


def rewritten(tar: Path, change: Callable[[tarfile.TarFile, list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """Return a tar with the members of another after a change."""
    with tarfile.open(tar) as opened:
        members = [(info, opened.extractfile(info).read()) for info in opened.getmembers()]  # type: ignore[union-attr]
    target = tar.with_name("hostile.tar")
    with tarfile.open(target, "w") as out:
        change(out, members)
        for info, content in members:
            out.addfile(info, io.BytesIO(content))
    return target


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def named(name: str, content: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


HOSTILE: dict[str, Callable[[tarfile.TarFile, list[tuple[tarfile.TarInfo, bytes]]], object]] = {
    "path up": lambda out, members: members.append(named("../evil")),
    "absolute": lambda out, members: members.append(named("/tmp/evil")),
    "folder in name": lambda out, members: members.append(named("sub/evil")),
    "windows": lambda out, members: members.append(named("C:evil")),
    "backslash": lambda out, members: members.append(named("..\\evil")),
    "symlink": lambda out, members: members.insert(0, (special("model.safetensors", tarfile.SYMTYPE, "/etc/x"), b"")),
    "hard link": lambda out, members: members.insert(0, (special("README.md", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "device": lambda out, members: members.append((special("x", tarfile.CHRTYPE), b"")),
    "fifo": lambda out, members: members.append((special("x", tarfile.FIFOTYPE), b"")),
    "folder": lambda out, members: members.append((special("x", tarfile.DIRTYPE), b"")),
    "long name": lambda out, members: members.append(named("x" * 300)),
    "twice": lambda out, members: members.append(members[-1]),
    "uninvited": lambda out, members: members.append(named("extra.bin")),
    "missing": lambda out, members: members.pop(),
    "no record": lambda out, members: members.pop(0),
    "no manifest": lambda out, members: members.pop(1),
    "flipped": lambda out, members: members.append((members[2][0], flipped(members.pop(2)[1]))),
    "flipped manifest": lambda out, members: members.append((members[1][0], flipped(members.pop(1)[1]))),
    "record of another": lambda out, members: members.append(forged(members.pop(0)[1], digest="0" * 64)),
    "record with a path": lambda out, members: members.append(forged(members.pop(0)[1], commit="../../x")),
    "record of another version": lambda out, members: members.append(forged(members.pop(0)[1], version="9.9.9")),
    "many": lambda out, members: members.extend(named(f"x{number}") for number in range(200)),
}


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def forged(record: bytes, **changes: str) -> tuple[tarfile.TarInfo, bytes]:
    return named(RECORD, json.dumps(json.loads(record) | changes).encode())


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_writes_nothing(tar: Path, tmp_path: Path, what: str) -> None:
    hostile = rewritten(tar, HOSTILE[what])
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises((errors.IntegrityError, errors.ManifestError)):
        Hub().download(hostile, tmp_path / "out")
    with pytest.raises((errors.IntegrityError, errors.ManifestError)):
        BundleFile(hostile, "models").keep(Cache.default())
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not (tmp_path / "cache/hubs").exists()


def test_a_record_that_names_a_path_is_refused(tar: Path, tmp_path: Path) -> None:
    for repo in ("../../evil", "/evil", "a/b/c", "a/../b", "lab/x\n"):
        hostile = rewritten(tar, lambda out, members, repo=repo: members.append(forged(members.pop(0)[1], repo=repo)))
        with pytest.raises(errors.IntegrityError, match="names no repository"):
            BundleFile(hostile, "models").keep(Cache.default())
        hostile.unlink()


@pytest.mark.parametrize("cut", [10, 512, 700, 3000])
def test_a_tar_that_was_cut_off_is_told(tar: Path, tmp_path: Path, cut: int) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(errors.IntegrityError):
        Hub().download(short, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(600), b"\x1f\x8b" + bytes(600), b"x" * 2000])
def test_another_file_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.tar").write_bytes(content)
    with pytest.raises(errors.IntegrityError):
        Hub().resolve(tmp_path / "other.tar")

"""Yanked releases: no longer the newest, still there, and everywhere the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.release import yanks
from hub_client.release.store import writable
from hub_client.store.folder.plain import BundledStore
from tests.releases import contents, release

REPO = "lab/tiny-scpoli"
REASON = "gene names were shifted by one; use 1.0.0"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """A hub with two versions, the newer of which is yanked."""
    hub = Hub(tmp_path / "hub")
    hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two", title="Described"), REPO, version="1.0.1")
    hub.yank(f"{REPO}@1.0.1", reason=REASON)
    return hub


def test_the_name_means_the_newest_that_is_not_yanked(hub: Hub) -> None:
    assert hub.resolve(REPO).version == "1.0.0"
    assert [found.version for found in hub.search()] == ["1.0.0"]
    assert [found.version for found in hub.search(all_versions=True)] == ["1.0.0", "1.0.1"]


def test_it_is_still_found_by_version_commit_and_digest_with_a_warning(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = hub.resolve(f"{REPO}@1.0.1")
    for number, revision in enumerate(("1.0.1", ref.commit, f"sha256:{ref.digest}")):
        caplog.clear()
        folder = hub.download(f"{REPO}@{revision}", tmp_path / f"out-{number}")
        assert (folder / "manifest.json").exists()
        assert REASON in caplog.text
    caplog.clear()
    hub.download(REPO, tmp_path / "sound")
    assert not caplog.text


def test_history_and_files_stay_as_they_were(hub: Hub, tmp_path: Path) -> None:
    assert [entry.version for entry in hub.history(REPO)] == ["1.0.1", "1.0.0"]
    assert yanks.FILE not in contents(hub.download(f"{REPO}@1.0.1", tmp_path / "out"))
    with pytest.raises(errors.NotFound):
        hub.resolve(f"{REPO}@{yanks.BRANCH}")


def test_a_release_follows_a_yanked_one(hub: Hub, tmp_path: Path) -> None:
    assert hub.push(release(tmp_path / "three", title="Right again"), REPO, version="1.0.2").version == "1.0.2"
    assert hub.resolve(REPO).version == "1.0.2"
    with pytest.raises(errors.TransportError, match="never changes"):
        hub.push(release(tmp_path / "four", title="Other"), REPO, version="1.0.1")


def test_a_reason_can_be_corrected(hub: Hub) -> None:
    hub.yank(f"{REPO}@1.0.1", reason="another\nreason")
    store, repo, _ = hub._models.store_of(REPO)
    assert store.yanked(repo) == {"1.0.1": "another reason"}


def test_when_all_are_yanked_the_reason_is_told(hub: Hub) -> None:
    hub.yank(f"{REPO}@1.0.0", reason="trained on the wrong cells")
    with pytest.raises(errors.NotFound, match="gene names were shifted"):
        hub.resolve(REPO)
    assert hub.search() == []
    assert hub.resolve(f"{REPO}@1.0.0").version == "1.0.0"


@pytest.mark.parametrize(
    ("name", "reason", "error"),
    [
        (REPO, REASON, errors.InvalidInput),
        (f"{REPO}@1.0.0", " \n", errors.InvalidInput),
        (f"{REPO}@1.0.0", "x" * 501, errors.InvalidInput),
        (f"{REPO}@9.0.0", REASON, errors.NotFound),
        (f"{REPO}@main", REASON, errors.NotFound),
        ("lab/other@1.0.0", REASON, errors.NotFound),
    ],
)
def test_what_cannot_be_yanked(hub: Hub, name: str, reason: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        hub.yank(name, reason=reason)


def test_a_damaged_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.IntegrityError, match=r"yanked\.json of lab/a cannot be read"):
        yanks.read(b"{", source="lab/a")
    with pytest.raises(errors.IntegrityError, match="format"):
        yanks.read(b'{"format": 2, "yanked": []}', source="lab/a")


def test_the_bundled_zoo_yanks_by_a_file_beside_the_versions(tmp_path: Path) -> None:
    for version in ("1.0.0", "1.0.1"):
        release(tmp_path / "tiny-scpoli" / version, version=version)
    store = BundledStore(tmp_path)
    assert store.resolve("tiny-scpoli").version == "1.0.1"
    ref = store.resolve("tiny-scpoli", "1.0.1")
    date = "2026-01-02T03:04:05Z"
    yank = yanks.Yank.model_validate({"version": "1.0.1", "digest": ref.digest, "reason": REASON, "date": date})
    (tmp_path / "tiny-scpoli" / yanks.FILE).write_bytes(yanks.dump([yank]))
    assert store.resolve("tiny-scpoli").version == "1.0.0"
    assert store.resolve("tiny-scpoli", "1.0.1") == ref
    with pytest.raises(errors.TransportError, match="read-only"):
        writable(store, "tiny-scpoli")
    shutil.rmtree(tmp_path / "tiny-scpoli" / "1.0.0")
    with pytest.raises(errors.NotFound, match="every version"):
        store.resolve("tiny-scpoli")

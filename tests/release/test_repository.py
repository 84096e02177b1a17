"""The rules of a release, whichever place keeps it: on a repository that is made of dictionaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub_client import errors
from hub_client.release.repository import Repository, version_and_digest
from hub_client.release.store import Logged, writable
from hub_client.store.folder.plain import BundledStore

OLD, NEW, PAGE = "a" * 40, "b" * 40, "c" * 40
DOCUMENTS = {OLD: b'{"version": "1.0.0"}', NEW: b'{"version": "1.1.0"}'}


def repository(head: str | None = NEW, **changes: Any) -> Repository:
    """A repository whose head was released and not tagged."""
    line = {NEW: [NEW, OLD], OLD: [OLD], PAGE: [PAGE, NEW, OLD], None: []}
    known: dict[str, Any] = {
        "branches": {"main": head} if head else {},
        "tags": {"1.0.0": OLD},
        "document": DOCUMENTS.get,
        "digest": lambda commit: commit[0] * 64 if commit in DOCUMENTS else None,
        "line": lambda tip: [Logged(commit) for commit in line[tip]],
        "yanked": dict,
    }
    return Repository("lab/kidney", "here", "models", **(known | changes))


def test_a_head_that_was_not_tagged_is_released() -> None:
    found = repository()
    assert found.untagged() == {"1.1.0": NEW}
    assert [ref.version for ref in found.releases()] == ["1.0.0", "1.1.0"]
    assert found.resolve(None).commit == found.resolve("sha256:" + "b" * 12).commit == NEW
    assert found.resolve(None).version == "1.1.0"
    assert repository(yanked=lambda: {"1.1.0": "swapped"}).resolve(None).version == "1.0.0"


def test_a_commit_without_a_release_is_history_and_no_release() -> None:
    found = repository(PAGE)
    assert [(entry.commit, entry.digest[:1]) for entry in found.history()] == [(PAGE, ""), (NEW, "b"), (OLD, "a")]
    with pytest.raises(errors.NotFound, match="no release"):
        found.resolve("main")


def test_a_release_follows_its_parent() -> None:
    assert repository().head_for("1.2.0", NEW) == NEW
    assert repository(None, tags={}).head_for("1.0.0", None) is None
    assert repository(PAGE, tags={}).head_for("1.0.0", None) == PAGE, "what a served hub begins a repository with"
    for parent in (OLD, None):
        with pytest.raises(errors.TransportError, match="moved on") as caught:
            repository().head_for("1.2.0", parent)
        assert caught.value.ref.commit == NEW
    with pytest.raises(errors.TransportError, match="no releases yet"):
        repository(None, tags={}).head_for("1.0.0", OLD)


def test_a_version_is_released_once() -> None:
    found = repository()
    assert found.same("1.0.0", "a" * 64).commit == OLD
    assert found.same("1.0.0", "b" * 64) is None and found.same("2.0.0", "a" * 64) is None
    with pytest.raises(errors.TransportError, match="never changes"):
        found.head_for("1.0.0", NEW)


def test_a_tag_of_others_is_held_against_the_document() -> None:
    assert repository(tags={"9.0.0": OLD}).resolve("9.0.0").commit == OLD
    with pytest.raises(errors.IntegrityError, match=r"calls itself 1\.0\.0"):
        repository(tags={"9.0.0": OLD}, claimed=True).resolve("9.0.0")


def test_what_is_not_released_is_not_yanked() -> None:
    ref, yank = repository().yank("1.0.0", reason="swapped")
    assert (ref.commit, yank.version, yank.digest) == (OLD, "1.0.0", "a" * 64)
    for revision in ("2.0.0", "main"):
        with pytest.raises(errors.NotFound):
            repository().yank(revision, reason="swapped")


def test_a_folder_states_its_version(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"version": "1.2.0"}))
    assert version_and_digest(tmp_path, "models")[0] == "1.2.0"
    (tmp_path / "manifest.json").write_text(json.dumps({"version": "next"}))
    with pytest.raises(errors.ManifestError, match="no semantic version"):
        version_and_digest(tmp_path, "models")


def test_a_read_only_place_is_refused_by_name() -> None:
    with pytest.raises(errors.TransportError, match=r"kidney.*bundled, which is read-only"):
        writable(BundledStore(), "lab/kidney")

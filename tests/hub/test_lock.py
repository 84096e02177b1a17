"""archzoo.lock: what it pins, and that anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.hub.lock import lock, locked, read_lock, write_lock
from tests import examples
from tests.releases import release

REPO = "lab/tiny-scpoli"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    hub = Hub(tmp_path / "hub")
    training = {"training": examples.DESCRIBED["training"]}
    hub.push(release(tmp_path / "one", **training), REPO)
    hub.push(release(tmp_path / "other", title="Other"), "lab/other")
    return hub


def test_it_pins_everything_and_says_nothing_of_this_machine(hub: Hub, tmp_path: Path) -> None:
    path = write_lock(tmp_path / "archzoo.lock", lock(["other", REPO], hub))
    (other, tiny) = read_lock(path).models
    ref = hub.resolve(REPO)
    assert (tiny.name, tiny.version, tiny.commit, tiny.digest) == (REPO, "1.0.0", ref.commit, ref.digest)
    assert {file.path for file in tiny.files} == {"README.md", "model.safetensors"}
    assert [data.name for data in tiny.datasets] == ["blood"]
    assert other.name == "lab/other"
    assert str(tmp_path) not in path.read_text()
    again = write_lock(tmp_path / "again.lock", lock([REPO, "other"], hub))
    assert again.read_bytes() == path.read_bytes()


def test_the_locked_release_is_pulled_also_when_there_is_a_newer_one(hub: Hub, tmp_path: Path) -> None:
    pinned = lock([REPO], hub)
    hub.push(release(tmp_path / "newer", title="Newer"), REPO, version="1.0.1")
    name = locked(REPO, pinned, hub)
    assert hub.resolve(name).version == "1.0.0"
    assert locked("tiny-scpoli", pinned, hub) == locked(f"{REPO}@1.0.0", pinned, hub) == name
    with pytest.raises(errors.IntegrityError, match=r"1\.0\.1 is not what the lock file says: version is 1\.0\.1"):
        locked(f"{REPO}@1.0.1", pinned, hub)


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "digest": lambda model: model.update(digest="0" * 64),
    "commit": lambda model: model.update(commit="0" * 40),
    "files": lambda model: model["files"][0].update(sha256="0" * 64),
    "datasets": lambda model: model["datasets"][0].update(fingerprint="1" * 64),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_difference_is_refused(hub: Hub, tmp_path: Path, what: str) -> None:
    path = write_lock(tmp_path / "archzoo.lock", lock([REPO], hub))
    fields = json.loads(path.read_text())
    CHANGES[what](fields["models"][0])
    path.write_text(json.dumps(fields))
    with pytest.raises(errors.IntegrityError, match=f"not what the lock file says: .*{what}"):
        locked(REPO, read_lock(path), hub)


def test_a_version_with_other_bytes_in_another_hub_is_refused(hub: Hub, tmp_path: Path) -> None:
    pinned = lock([REPO], hub)
    moved = Hub(tmp_path / "moved")
    moved.push(release(tmp_path / "forged", title="Forged"), REPO)
    with pytest.raises(errors.IntegrityError, match=r"digest is .*commit is .*files are others"):
        locked(REPO, pinned, moved)


def test_what_is_no_lock_or_not_in_it(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="archzoo lock writes one"):
        read_lock(tmp_path / "none.lock")
    for number, content in enumerate((b"{", b'{"format": 2, "models": []}', b"[1]")):
        (tmp_path / f"{number}.lock").write_bytes(content)
        with pytest.raises(errors.ManifestError):
            read_lock(tmp_path / f"{number}.lock")
    with pytest.raises(errors.NotFound, match="does not lock 'kidney'"):
        locked("kidney", lock([REPO], hub), hub)


# releases that were grown from others


def grown(hub: Hub, folder: Path) -> None:
    root = hub.resolve(REPO)
    query = {"datasets": [{"name": "query", "cells": 9, "fingerprint": "9" * 64}]}
    parent = {"name": REPO, "version": "1.0.0", "commit": root.commit, "digest": root.digest}
    lineage = {"relation": "surgery", "parent": parent}
    hub.push(release(folder, version="1.1.0", lineage=lineage, training=query, query_plan={"epochs": 1}), REPO)


def test_it_names_the_parents_and_the_data_of_all(hub: Hub, tmp_path: Path) -> None:
    root = hub.resolve(REPO)
    grown(hub, tmp_path / "grown")
    pinned = lock([REPO], hub)
    (model,) = pinned.models
    assert pinned.format == 2
    assert [(one.name, one.version, one.digest) for one in model.parents] == [(REPO, "1.0.0", root.digest)]
    assert [data.name for data in model.datasets] == ["blood", "query"]
    path = write_lock(tmp_path / "archzoo.lock", pinned)
    assert locked(REPO, read_lock(path), hub)
    assert [step.version for step in hub.lineage(REPO)] == ["1.1.0", "1.0.0"]
    assert [[data.name for data in step.data] for step in hub.lineage(REPO)] == [["query"], ["blood"]]
    for field, value in {"parents": [{"digest": "0" * 64}], "datasets": [{"fingerprint": "1" * 64}]}.items():
        fields = json.loads(path.read_text())
        fields["models"][0][field][0].update(value[0])
        forged = tmp_path / f"{field}.lock"
        forged.write_text(json.dumps(fields))
        with pytest.raises(errors.IntegrityError, match=f"its {field} are others"):
            locked(REPO, read_lock(forged), hub)


def test_a_lock_of_format_1_of_a_grown_release_holds(hub: Hub, tmp_path: Path) -> None:
    grown(hub, tmp_path / "grown")
    fields = json.loads(lock([REPO], hub).to_bytes())
    del fields["models"][0]["parents"]
    fields["models"][0]["datasets"] = []
    path = tmp_path / "old.lock"
    path.write_text(json.dumps(fields | {"format": 1}))
    assert locked(REPO, read_lock(path), hub)


def test_a_lock_that_was_written_with_format_1_is_written_again_byte_for_byte() -> None:
    path = Path(__file__).parents[1] / "golden" / "records" / "lock-1.json"
    assert read_lock(path).to_bytes() == path.read_bytes()
    assert read_lock(path).format == 1

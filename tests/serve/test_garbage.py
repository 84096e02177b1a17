"""Garbage collection of a served hub, also while somebody pushes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationDelete

from hub_client.store.folder import lfs
from tests.served import CLIENTS_OWN, Server, add, archzoo, served, weights

pytestmark = [pytest.mark.slow, *CLIENTS_OWN]


def kept(server: Server, repo: str) -> set[str]:
    return {
        path.name for path in (server.root / "models" / f"{repo}.git" / "lfs" / "objects").rglob("*") if path.is_file()
    }


def age(folder: Path, *, hours: float) -> None:
    """Make everything in a folder look as old."""
    then = time.time() - hours * 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def collect(server: Server, *options: str) -> list[dict[str, object]]:
    return json.loads(archzoo("serve", "gc", "--root", str(server.root), "--json", *options).stdout)


def test_only_what_nothing_refers_to_goes(tmp_path: Path) -> None:
    with served(tmp_path / "root") as server:
        api, names = server.api("ada", "admin"), ["main", "branch", "tag", "request", "lost"]
        data = {name: weights(50_000, seed=number) for number, name in enumerate(names)}
        digest = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
        api.create_repo("ada/kept")
        api.create_commit("ada/kept", [add("w.safetensors", data["main"])], commit_message="m")
        for name in ("branch", "lost"):
            api.create_branch("ada/kept", branch=name)
            api.create_commit("ada/kept", [add("w.safetensors", data[name])], commit_message="b", revision=name)
        api.create_commit("ada/kept", [add("w.safetensors", data["tag"])], commit_message="t")
        api.create_tag("ada/kept", tag="1.0.0")
        api.create_commit("ada/kept", [CommitOperationDelete("w.safetensors")], commit_message="gone from main")
        api.create_commit("ada/kept", [add("w.safetensors", data["request"])], commit_message="p", create_pr=True)
        api.delete_branch("ada/kept", branch="lost")
        assert kept(server, "ada/kept") == set(digest.values())

        assert [found["objects"] for found in collect(server)] == [0], "what is new may be waiting for its commit"
        age(server.root / "models", hours=25)
        assert collect(server, "--dry-run")[0]["objects"] >= 2
        assert kept(server, "ada/kept") == set(digest.values())
        assert collect(server)[0]["objects"] >= 2
        assert kept(server, "ada/kept") == set(digest.values()) - {digest["lost"]}
        assert archzoo("cache", "verify", "--hub", str(server.root), check=False).returncode == 0
        for revision in ("branch", "1.0.0", "refs/pr/1"):
            assert api.get_paths_info("ada/kept", "w.safetensors", revision=revision)[0].lfs.sha256 in digest.values()


def test_pushes_go_on_while_it_runs(tmp_path: Path) -> None:
    """Everything looks old and nothing is spared but for a second; what is pushed meanwhile is there afterwards."""
    with served(tmp_path / "root") as server:
        api = server.api("ada")
        api.create_repo("ada/busy")
        over, removed = threading.Event(), []

        def sweep() -> None:
            while not over.is_set():
                removed.extend(collect(server, "--hours", str(5 / 3600)))

        sweeper = threading.Thread(target=sweep)
        sweeper.start()
        pushed = {}
        try:
            for number in range(20):
                pushed[f"{number}.safetensors"] = weights(60_000, seed=number)
                name = f"{number}.safetensors"
                api.create_commit("ada/busy", [add(name, pushed[name])], commit_message="w")
        finally:
            over.set()
            sweeper.join()
        assert {found["problem"] for found in removed} == {None}
        files = api.get_paths_info("ada/busy", list(pushed))
        assert {file.path: file.lfs.sha256 for file in files} == {
            name: hashlib.sha256(content).hexdigest() for name, content in pushed.items()
        }
        stored = lfs.LargeFiles(server.root / "models" / "ada" / "busy.git")
        assert all(stored.size(file.lfs.sha256) == file.size for file in files)

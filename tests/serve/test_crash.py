"""The server is killed again and again while two writers push; what it acknowledged is there, and nothing is torn."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hub_client.files import atomic
from hub_client.serve import commit_tree, discussion_files
from hub_client.store.folder import git
from tests.served import CLIENTS_OWN, Server, add, archzoo, start, token

pytestmark = [pytest.mark.slow, *CLIENTS_OWN]

KILLS = int(os.environ.get("ARCHZOO_TEST_KILLS", "8"))
"""More of them take longer and are as many more chances to find something torn."""
REPO = "ada/killed"
GONE = (httpx2.TransportError, RuntimeError, OSError, AttributeError)
"""What the client makes of a server that dies: an upload that fails is a RuntimeError, and when one thread closes the
session that all share, another finds None."""


@dataclass
class Writer:
    """Pushes until it is told to stop, and keeps what the server acknowledged."""

    name: str
    api: HfApi
    over: threading.Event
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    merges: list[int] = field(default_factory=list)
    attempts: int = 0

    def run(self) -> None:
        while not self.over.is_set():
            self.attempts += 1
            try:
                self.push()
            except HfHubHTTPError as error:
                assert error.response.status_code in (403, 409, 412), error  # the other one was faster
            except GONE:
                time.sleep(0.05)

    def push(self) -> None:
        data = random.Random(f"{self.name}{self.attempts}").randbytes(150_000)
        content = {f"{self.name}/{self.attempts}.safetensors": data, f"{self.name}.json": data[:50].hex().encode()}
        operations = [add(path, bytes_) for path, bytes_ in content.items()]
        proposal = self.name == "proposer" and self.attempts % 2 == 0
        parent = None if proposal else self.api.model_info(REPO).sha
        made = self.api.create_commit(
            REPO, operations, commit_message=f"by {self.name}", parent_commit=parent, create_pr=proposal
        )
        self.commits[made.oid] = {path: hashlib.sha256(bytes_).hexdigest() for path, bytes_ in content.items()}
        if proposal:
            self.api.merge_pull_request(REPO, made.pr_num)
            self.merges.append(made.pr_num)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_often(root: Path, port: int, *, times: int) -> Server:
    """Kill and restart the server so many times, each time after another while; return the last one, which runs."""
    moments = random.Random(0)
    server = start(root, port=port)
    for _ in range(times):
        time.sleep(moments.uniform(0.05, 1.2))
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        server = start(root, port=port)
    return server


def test_killed_servers_keep_what_they_acknowledged(tmp_path: Path) -> None:
    root, port = tmp_path / "root", free_port()
    server = start(root, port=port)
    secrets = [token(root, "ada"), token(root, "proposer", "write", "ada")]
    HfApi(endpoint=server.url, token=secrets[0]).create_repo(REPO)
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()

    over = threading.Event()
    writers = [
        Writer(name, HfApi(endpoint=f"http://127.0.0.1:{port}", token=secret), over)
        for name, secret in zip(("committer", "proposer"), secrets, strict=True)
    ]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        server = kill_often(root, port, times=KILLS)
        time.sleep(1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    server.process.terminate()
    assert server.process.wait(timeout=60) == 0
    server.process.stdout.close()

    check(root, writers)
    print({writer.name: (writer.attempts, len(writer.commits), len(writer.merges)) for writer in writers})


def check(root: Path, writers: list[Writer]) -> None:
    path = root / "models" / f"{REPO}.git"
    assert all(writer.commits for writer in writers), "nothing was pushed: the test shows nothing"
    with git.opened(path) as repository:
        line = [node.id for node in repository.line(repository.head())]
        committer, proposer = writers
        assert committer.commits.keys() <= set(line)
        for number in proposer.merges:
            assert discussion_files.read(repository, number)["status"] == "merged"
            assert discussion_files.read(repository, number)["mergeCommitId"] in line
        for commit, expected in (committer.commits | proposer.commits).items():
            assert_whole(repository, commit, expected)
        for tip in (repository.branches() | repository.refs("refs/pr/")).values():
            for node in repository.line(tip):
                assert_whole(repository, node.id, {})
        pulls = repository.refs("refs/pr/")
        assert all(str(talk["num"]) in pulls for talk in discussion_files.all_of(repository))
    if shutil.which("git"):
        subprocess.run(["git", "fsck", "--strict", "--no-dangling"], cwd=path, check=True, capture_output=True)
    assert archzoo("serve", "gc", "--root", str(root), "--hours", "0").returncode == 0
    with git.opened(path) as repository:
        assert_whole(repository, line[0], {})
        assert list((path / "lfs" / "incoming").glob("*")) == []


def assert_whole(repository: git.Repository, commit: str, expected: dict[str, str]) -> None:
    """Check that every file of a commit can be read, has its hash, and is what was acknowledged."""
    found = {}
    for name, blob in commit_tree.files(repository, commit).items():
        content = commit_tree.content(repository, blob)
        data = commit_tree.read(repository, blob)
        found[name] = hashlib.sha256(data).hexdigest()
        if content.pointer:
            stored = repository.large.path(content.pointer.sha256)
            assert atomic.sha256(stored) == content.pointer.sha256
            found[name] = content.pointer.sha256
    assert expected.items() <= found.items()

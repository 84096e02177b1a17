"""The real server in a process of its own, and the real client to drive it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hub_client.serve.tokens import Tokens

HERE = str(Path(__file__).parents[1])
ARCHZOO = (sys.executable, "-c", "from hub_client.cli import main; main()")
MIB = 1 << 20
CLIENTS_OWN = (
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Hidden comments' content:UserWarning"),
)
"""Marks for warnings that the client gives of itself."""


@dataclass
class Server:
    """A running hub: its address, its folder and its process."""

    url: str
    root: Path
    process: subprocess.Popen[str]

    def token(self, user: str, scope: str = "write", *namespaces: str, days: int | None = None) -> str:
        return token(self.root, user, scope, *namespaces, days=days)

    def api(self, user: str, scope: str = "write", *namespaces: str, days: int | None = None) -> HfApi:
        return HfApi(endpoint=self.url, token=self.token(user, scope, *namespaces, days=days))

    def anonymous(self) -> HfApi:
        return HfApi(endpoint=self.url, token=False)

    def with_token(self, secret: str) -> HfApi:
        return HfApi(endpoint=self.url, token=secret)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, without anybody's tokens, with the hub client of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ARCHZOO_"))}
    return kept | {"PYTHONPATH": HERE, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more


def archzoo(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ARCHZOO, *words], env=environment(), capture_output=True, text=True, check=check)


def token(root: Path, user: str, scope: str = "write", *namespaces: str, days: int | None = None) -> str:
    """Make a token, in this process; `archzoo serve token create` has tests of its own."""
    return Tokens(root).create(user, scope=scope, namespaces=namespaces, days=days)[0]


@contextmanager
def served(root: Path, *options: str, before: str = "") -> Iterator[Server]:
    """Serve a folder on a free port of 127.0.0.1; the server is stopped at the end, and must have ended well."""
    server = start(root, *options, before=before)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(timeout=60)
        server.process.stdout.close()
    assert code in (0, -signal.SIGKILL)


def start(root: Path, *options: str, port: int = 0, before: str = "") -> Server:
    """Start a server; ``before`` is Python that its process runs first."""
    program = [*ARCHZOO[:-1], f"{before}\n{ARCHZOO[-1].replace('; ', chr(10))}"]
    command = [*program, "serve", "--root", str(root), "--port", str(port), *options]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line, "the server ended at once"
    return Server(line.split()[-1], root, process)


def add(path: str, data: bytes) -> CommitOperationAdd:
    """Return a file to commit, as an open file: so that a large one takes the way of git-lfs."""
    return CommitOperationAdd(path, io.BytesIO(data))


def weights(size: int, *, seed: int = 0) -> bytes:
    """Return a safetensors file of about so many bytes."""
    import numpy as np
    from safetensors.numpy import save

    return save({"weights": np.random.default_rng(seed).standard_normal(size // 4, dtype=np.float32)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A hub that the tests of a module share; each takes repositories of its own."""
    with served(tmp_path_factory.mktemp("hub") / "root") as running:
        yield running

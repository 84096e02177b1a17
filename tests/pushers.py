"""A process that pushes to a folder hub: one JSON order a line on stdin, one JSON answer a line on stdout.

Run as a script by the tests of two writers and of killed ones. An order may say at which of its file-system steps the
process shall kill itself, with a real SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub_client.errors import TransportError
from hub_client.store.folder.folder_store import FolderStore

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.chmod", "os.listdir", "fcntl.flock"}


@contextmanager
def pusher(hub: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a pusher and wait until it is ready; it ends with the block."""
    command, root = [sys.executable, __file__, str(hub)], str(Path(__file__).parents[1])
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"PYTHONPATH": root},
    }
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def order(process: subprocess.Popen[str], **words: Any) -> None:
    process.stdin.write(json.dumps(words) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """Return the answer, or None from a process that was killed."""
    line = process.stdout.readline()
    return json.loads(line) if line else None


def main(hub: str) -> None:
    steps = Steps()
    sys.addaudithook(steps)
    print("ready", flush=True)
    for line in sys.stdin:
        words = json.loads(line)
        kill_at = words.pop("kill_at", None)
        said = push(hub, steps, **words) if kill_at is None else push_and_die(hub, steps, kill_at, words)
        print(json.dumps(said), flush=True)


def push(hub: str, steps: Steps, *, repo: str, folder: str, parent: str | None) -> dict[str, Any]:
    store = FolderStore(Path(hub), kind="models")
    steps.start()
    try:
        ref = store.commit(repo, Path(folder), message="by a pusher", parent=parent)
        return {"commit": ref.commit, "steps": steps.stop()}
    except TransportError as error:
        return {"refused": str(error), "head": getattr(error.ref, "commit", None)}


def push_and_die(hub: str, steps: Steps, kill_at: int, words: dict[str, Any]) -> dict[str, Any]:
    """Push in a child process, which kills itself at a step, and return the signal that ended it (0: none)."""
    child = os.fork()
    if child == 0:
        steps.last = kill_at
        push(hub, steps, **words)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return {"killed": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}


class Steps:
    """Counts file-system steps, and kills the process just before the one numbered ``last``."""

    def __init__(self) -> None:
        self.count: int | None = None
        self.last: int | None = None

    def __call__(self, event: str, _arguments: object) -> None:
        if self.count is None or event not in STEPS:
            return
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def start(self) -> None:
        self.count = 0

    def stop(self) -> int | None:
        count, self.count = self.count, None
        return count


if __name__ == "__main__":
    main(sys.argv[1])

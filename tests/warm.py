"""Commands without their imports: a process that has loaded what ``archzoo`` needs, and forks for every command.

To import PyTorch, anndata and the rest takes seconds in every new process. Each command still has a process of its own,
with its own arguments, environment, folder and standard streams; it starts with the packages imported.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    words = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(line, [json.dumps(words).encode() + b"\\n"], [0, 1, 2])
    sys.exit(int(line.makefile().readline() or 70))
"""
"""A command that asks for another to be run, and ends as it did."""


@contextmanager
def archzoo(folder: Path) -> Iterator[Path]:
    """Yield a folder for ``PATH`` with an ``archzoo`` that starts at once, while the block runs."""
    address = str(folder / "line")
    command = folder / "bin" / "archzoo"
    command.parent.mkdir(parents=True)
    command.write_text(CLIENT.format(python=sys.executable, address=address))
    command.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.warm", address], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield command.parent
        finally:
            process.terminate()


def main(address: str) -> None:
    load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        while True:
            line, _ = door.accept()
            with line:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    serve(line)
                    os._exit(0)


def load() -> None:
    """Import what commands import."""
    import lightning.fabric
    import torch

    import hub_client.checks.validate
    import hub_client.cli
    import hub_client.mapping.replay
    import hub_client.models.train

    assert torch.get_num_threads() and lightning.fabric and hub_client.cli


def serve(line: socket.socket) -> None:
    """Run one command in a process of its own, and send how it ended."""
    sent, streams, _, _ = socket.recv_fds(line, 2**20, 3)
    while not sent.endswith(b"\n"):
        sent += line.recv(2**20)
    child = os.fork()
    if child == 0:
        run(streams, **json.loads(sent))
    _, status = os.waitpid(child, 0)
    line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def run(streams: list[int], *, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    from hub_client.cli import main as command

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["archzoo", *arguments]
    code: Any = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main(sys.argv[1])

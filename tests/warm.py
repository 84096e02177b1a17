"""Programs whose imports are done: a process that has loaded PyTorch and anndata forks for each one that a test runs.

To import them takes seconds in every new process. Each program still has a process of its own, with its own arguments,
environment, folder and standard streams. For ``python`` only these are loaded; for ``archzoo`` all that a command is.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    arguments = {before!r} + sys.argv[1:]
    words = {{"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(line, [json.dumps(words).encode() + b"\\n"], [0, 1, 2])
    sys.exit(int(line.makefile().readline() or 70))
"""
"""A command that asks for a program to be run, and ends as it did; a signal to it is none to the program."""
BEFORE = {"python": [], "archzoo": ["-c", "from hub_client.cli import main; main()"]}
LOADED = {
    "python": ["torch", "anndata", "lightning.fabric"],
    "archzoo": ["hub_client.cli", "hub_client.checks.validate", "hub_client.mapping.replay", "lightning.fabric"],
}


def python() -> str:
    """Return a command that takes ``-c PROGRAM`` and arguments, as Python does."""
    return str(command("python"))


def archzoo() -> Path:
    """Return the path of an ``archzoo``."""
    return command("archzoo")


@cache
def command(name: str) -> Path:
    """Return a command, alone in its folder, which works until these tests end."""
    folder = Path(tempfile.mkdtemp(prefix="archzoo-warm-"))
    address, path = str(folder / "line"), folder / "bin" / name
    path.parent.mkdir()
    path.write_text(CLIENT.format(python=sys.executable, address=address, before=BEFORE[name]))
    path.chmod(0o755)
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, __file__, address, *LOADED[name]]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
    atexit.register(process.terminate)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return path


def main(address: str, *modules: str) -> None:
    sys.path.pop(0)  # this folder, as a script's is
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # or a collection in each program would copy it all
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


def serve(line: socket.socket) -> None:
    """Run one program in a process of its own, and send how it ended."""
    sent, streams, _, _ = socket.recv_fds(line, 2**20, 3)
    while not sent.endswith(b"\n"):
        sent += line.recv(2**20)
    child = os.fork()
    if child == 0:
        run(streams, **json.loads(sent))
    _, status = os.waitpid(child, 0)
    line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def run(streams: list[int], *, arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Run a program as the main module, and end without taking down what was loaded before it: that takes seconds."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _, program, *words = arguments
    sys.argv = ["-c", *words]
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code: object = 1
    try:
        exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])

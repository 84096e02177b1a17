"""Pull a release from a served hub many times at once, and check every byte.

    python benchmarks/serve_load.py [--pulls 256] [--at-once 64] [--megabytes 20] [--seconds 300] [--processes 2]

A pull is what a client does: the repository's description, the tree, then each file, streamed and hashed. The server is
the real one, in a process of its own on 127.0.0.1; the clients share its computer, so its own limit is higher. Ends
after so many pulls or seconds. Prints Markdown: throughput of bodies in MB (10⁶ bytes) a second, seconds a pull takes,
peak memory of the server, and how much of what was served was wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import save

from hub_client.serve.hub import Settings, open_hub
from hub_client.serve.tokens import Tokens

REPO = "lab/release"
PIECE = 1 << 18
COMMAND = (sys.executable, "-c", "from hub_client.cli import main; main()", "serve", "--port", "0", "--root")


@dataclass(frozen=True)
class Pull:
    """One pull: seconds, bytes of files, and what was wrong."""

    seconds: float
    bytes: int
    problem: str | None


def files(megabytes: float) -> dict[str, bytes]:
    """Return a release's files: weights of about so many megabytes, a manifest and a card."""
    weights = np.random.default_rng(0).standard_normal(int(megabytes * 10**6 / 4), dtype=np.float32)
    manifest = json.dumps({"version": "1.0.0", "genes": list(range(2000))}).encode()
    return {
        "model.safetensors": save({"weights": weights}),
        "manifest.json": manifest,
        "README.md": b"# Release\n" * 50,
    }


def publish(url: str, token: str, content: dict[str, bytes]) -> None:
    """Push a release as a client does."""
    from io import BytesIO

    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=url, token=token)
    api.create_repo(REPO, private=True)
    operations = [CommitOperationAdd(name, BytesIO(data)) for name, data in content.items()]
    api.create_commit(REPO, operations, commit_message="Release 1.0.0")


def pull(address: str, token: str, expected: dict[str, str]) -> Pull:
    """Pull the release once, over one connection."""
    start, received = time.perf_counter(), 0
    connection = http.client.HTTPConnection(address, timeout=120)
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
    problem = None
    try:
        commit = asked(connection, f"/api/models/{REPO}/revision/main", headers)["sha"]
        tree = asked(connection, f"/api/models/{REPO}/tree/{commit}?recursive=true", headers)
        for entry in tree:
            digest, size = fetched(connection, f"/{REPO}/resolve/{commit}/{entry['path']}", headers)
            received += size
            if size != entry["size"] or expected.get(entry["path"], digest) != digest:
                problem = f"{entry['path']} is another"
        if not expected.keys() <= {entry["path"] for entry in tree}:
            problem = "files are missing"
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        problem = repr(error)
    finally:
        connection.close()
    return Pull(time.perf_counter() - start, received, problem)


def asked(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> object:
    connection.request("GET", path, headers=headers)
    return json.loads(connection.getresponse().read())


def fetched(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[str, int]:
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    digest, size = hashlib.sha256(), 0
    while piece := response.read(PIECE):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def many(address: str, token: str, expected: dict[str, str], count: int, at_once: int, until: float) -> list[Pull]:
    """Pull so often, so many at once, and begin none after a time."""

    def one(_: int) -> Pull | None:
        return pull(address, token, expected) if time.time() < until else None

    with ThreadPoolExecutor(at_once) as threads:
        return [found for found in threads.map(one, range(count)) if found]


def load(options: argparse.Namespace, url: str, token: str, expected: dict[str, str]) -> tuple[list[Pull], float]:
    """Return every pull, and the seconds they took together."""
    shares = [len(range(start, options.pulls, options.processes)) for start in range(options.processes)]
    at_once, until = options.at_once // options.processes, time.time() + options.seconds
    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as processes:
        jobs = [
            processes.submit(many, urlsplit(url).netloc, token, expected, share, at_once, until) for share in shares
        ]
        found = list(chain.from_iterable(job.result() for job in jobs))
    return found, time.perf_counter() - start


def memory(process: int, field: str) -> float:
    """Return a process's memory in MB (10⁶ bytes): ``VmHWM`` is the most it ever had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 10**6 for line in lines if line.startswith(field))


def report(found: list[Pull], seconds: float, *, before: float, peak: float, busy: float) -> None:
    took = np.array([each.seconds for each in found])
    wrong = [each.problem for each in found if each.problem]
    rows = {
        "pulls": f"{len(found)} in {seconds:.1f} s",
        "throughput": f"{sum(each.bytes for each in found) / 10**6 / seconds:.0f} MB/s",
        "a pull, median / p99 / slowest": " / ".join(
            f"{value:.2f} s" for value in (*np.percentile(took, [50, 99]), took.max())
        ),
        "server's memory before / at most": f"{before:.0f} / {peak:.0f} MB",
        "wrong": f"{len(wrong)}{': ' + wrong[0] if wrong else ''}",
        "cores": f"{os.cpu_count()}, with {busy:.1f} programs at work before",
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pulls", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--processes", type=int, default=2)
    options, busy = parser.parse_args(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="archzoo-load-") as root:
        open_hub(Settings(Path(root)))
        token, _ = Tokens(Path(root)).create("lab", scope="write")
        server = subprocess.Popen([*COMMAND, root], stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().split()[-1]
            content = files(options.megabytes)
            publish(url, token, content)
            expected = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
            before = memory(server.pid, "VmRSS")
            found, seconds = load(options, url, token, expected)
            report(found, seconds, before=before, peak=memory(server.pid, "VmHWM"), busy=busy)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
    sys.exit(any(each.problem for each in found))


if __name__ == "__main__":
    main()

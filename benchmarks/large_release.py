"""What a release of 36,000 genes, 5,000 conditions and 2,500 gene programs costs to write, read and ask about.

``python benchmarks/large_release.py`` prints the CPU seconds of each step, and by how much it raised the most memory
that was in use, each in a process of its own. The weights of the expiMap are 1.8 GB. Names of
steps choose some of them.
"""

from __future__ import annotations

import io
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

GENES, CONDITIONS, TERMS, EACH = 36_000, 5_000, 2_500, 60


def manifest() -> Any:
    from hub_client.manifest.v1 import Manifest

    generator = np.random.default_rng(0)
    symbols = [f"GENE{number}" for number in range(GENES)]
    programs = [np.sort(generator.choice(GENES, EACH, replace=False)) for _ in range(TERMS)]
    terms = [
        {"id": f"P:{n}", "name": f"program {n}", "genes": [symbols[place] for place in places]}
        for n, places in enumerate(programs)
    ]
    condition = {"key": "sample", "categories": [f"s{n}" for n in range(CONDITIONS)], "encoding": {"kind": "one-hot"}}
    return Manifest.model_validate(
        {
            "name": "large",
            "license": "CC-BY-4.0",
            "architecture": {"kind": "expimap", "hidden": [32]},
            "genes": {"id_type": "symbol", "panel": [{"symbol": symbol} for symbol in symbols]},
            "conditions": [condition],
            "terms": terms,
        }
    )


def save(folder: Path) -> Callable[[], object]:
    from hub_client.models.model import Model

    model = Model.build(manifest())
    return lambda: model.save(folder / "model")


def load(folder: Path) -> Callable[[], object]:
    import hub_client.models.model

    return lambda: hub_client.models.model.Model.load(folder / "model")


def write_manifest(folder: Path) -> Callable[[], object]:
    found = manifest()
    return lambda: (folder / "manifest.json").write_bytes(found.to_bytes())


def read_manifest(folder: Path) -> Callable[[], object]:
    from hub_client.manifest.reading import read_manifest

    return lambda: read_manifest((folder / "manifest.json").read_bytes(), source="it")


def push(folder: Path) -> Callable[[], object]:
    from hub_client.hub.client import Hub

    return lambda: Hub(folder / "hub").push(folder / "model", "lab/large")


def command(*words: str) -> Callable[[Path], Callable[[], object]]:
    def step(folder: Path) -> Callable[[], object]:
        from hub_client.cli import app

        given = [word.format(folder=folder) for word in words]

        def run() -> None:
            with redirect_stdout(io.StringIO()):
                app(given, standalone_mode=False)

        return run

    return step


STEPS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "write the manifest": write_manifest,
    "read the manifest": read_manifest,
    "save": save,
    "load": load,
    "push": push,
    "info": command("info", "lab/large", "--hub", "{folder}/hub", "--json"),
    "pull": command("pull", "lab/large", "--hub", "{folder}/hub", "--out", "{folder}/pulled"),
}


def main() -> None:
    chosen = sys.argv[1:] or list(STEPS)
    with TemporaryDirectory() as folder:
        for name in chosen:
            child = multiprocessing.get_context("spawn").Process(target=measured, args=(name, Path(folder)))
            child.start()
            child.join()


def measured(name: str, folder: Path) -> None:
    step = STEPS[name](folder)
    cpu, before = time.process_time(), memory("VmRSS")
    step()
    print(f"{name}: {time.process_time() - cpu:.1f} CPU-seconds, {memory('VmHWM') - before:,.0f} MB", flush=True)


def memory(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


if __name__ == "__main__":
    main()

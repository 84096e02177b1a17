"""A process that maps a large query and prints how much memory each verb took, for tests of that."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata

import hub_client
from hub_client.manifest import Plan
from hub_client.models.model import Model

PLAN = Plan(epochs=1)
CONDITIONS = {"batch": "batch"}
OPENED: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "memory": anndata.read_h5ad,
    "backed": lambda path: anndata.read_h5ad(path, backed="r"),
}


def main(folder: Path, name: str, how: str, what: str) -> None:
    """Print the MiB by which each stage raised the most memory that was ever in use, and the size of the cells."""
    model = hub_client.pull(folder / "model")
    for _ in STAGES[what](folder / "small.h5ad", model):
        pass  # what is loaded or set up once is no matter of the query's size
    query = OPENED[how](folder / name)
    print(json.dumps(dict(grown(STAGES[what](query, model)))))


def grown(stages: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, float]]:
    before = peak()
    for stage, result in stages:
        after = peak()
        yield stage, after - before
        if stage == "align":
            yield "cells", sum(part.nbytes for part in (result.x.data, result.x.indices, result.x.indptr)) / 2**20
        before = after


def aligning(query: Any, model: Model) -> Iterator[tuple[str, Any]]:
    cells = hub_client.align(query, model, conditions=CONDITIONS)
    yield "align", cells
    yield "dense", cells.x.toarray()


def mapping(query: Any, model: Model) -> Iterator[tuple[str, Any]]:
    cells = hub_client.align(query, model, conditions=CONDITIONS)
    yield "align", cells
    grown = hub_client.surgery(model, cells)
    yield "surgery", grown
    yield "train", hub_client.train(grown, cells, plan=PLAN, progress=False, accelerator="cpu")
    yield "predict", hub_client.predict(grown, cells, device="cpu")
    del cells, grown
    yield "map_query", hub_client.map_query(query, model, conditions=CONDITIONS, plan=PLAN, progress=False)


STAGES = {"align": aligning, "map": mapping}


def peak() -> float:
    """Return the most memory this program ever had in use, in MiB; ``ru_maxrss`` would count the parent's as ours."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

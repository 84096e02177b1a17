"""How small deltas are, and how long a release takes to be verified, compared and validated.

``python benchmarks/versions.py`` grows each bundled model by 1, 10 and 100 conditions of the bundled query, without
training, and prints the size of the whole release, of its files that a hub keeps of it as a delta, and of the delta
alone; then the seconds of ``verify``, ``diff`` with itself and ``validate`` for each model, in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import hub_client
from hub_client.checks.diff import diff
from hub_client.checks.validate import validate
from hub_client.data.examples import bundled_query
from hub_client.hub import delta
from hub_client.hub.claims import check_claims
from hub_client.hub.client import Hub
from hub_client.models.surgery import surgery

CONDITIONS = (1, 10, 100)


def main() -> None:
    hub = Hub("bundled")
    print("| model | new conditions | whole release | kept as a delta | of it the delta |\n|---|---|---|---|---|")
    for name in hub.names():
        for count in CONDITIONS:
            print(
                f"| {name} | {count} | "
                + " | ".join(f"{size / 1000:,.0f} kB" for size in sizes(hub, name, count))
                + " |"
            )
    print("\n| model | verify | diff | validate |\n|---|---|---|---|")
    for name in hub.names():
        print(f"| {name} | " + " | ".join(f"{seconds:.2f} s" for seconds in times(hub, name)) + " |")


def sizes(hub: Hub, name: str, count: int) -> tuple[int, int, int]:
    """Return the bytes of a grown release, of what a hub keeps of it as a delta, and of the delta file."""
    reference, query = hub.pull(name), bundled_query("pbmc68k")
    query.obs["batch"] = np.array([f"donor {number}" for number in range(count)])[np.arange(query.n_obs) % count]
    cells = hub_client.align(query, reference, conditions={"batch": "batch"}, min_coverage=0.1)
    grown = surgery(reference, cells, start="random")
    with TemporaryDirectory() as temporary:
        whole = grown.save(Path(temporary) / "whole")
        parent = hub.download(name, Path(temporary) / "parent")
        kept = delta.stored_form(whole, parent, Path(temporary) / "kept")
        return total(whole), total(kept), (kept / delta.FILE).stat().st_size


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def times(hub: Hub, name: str) -> tuple[float, float, float]:
    """Return the seconds of the second of two runs of each command's work."""
    with TemporaryDirectory() as temporary:
        folder = hub.download(name, Path(temporary) / "release")
        model = hub.pull(name)
        works: tuple[Callable[[], object], ...] = (
            lambda: check_claims(folder),
            lambda: diff(model, model),
            lambda: validate(folder),
        )
        return tuple(second(work) for work in works)  # type: ignore[return-value]


def second(work: Callable[[], object]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

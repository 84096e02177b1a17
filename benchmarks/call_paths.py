"""How much code a reader walks through: files of archzoo and its deepest stack of calls, for pull, push and map_query.

    python benchmarks/call_paths.py [--list VERB]

Counted with ``sys.setprofile`` on PBMCs that come with scanpy and a folder hub in a temporary folder. Each verb runs
once before it is counted, so that imports are left out; frames of other libraries are not counted either.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

import hub_client
from hub_client.data.examples import bundled_query
from hub_client.manifest import Plan

PACKAGE = str(Path(hub_client.__file__).parent)


@dataclass
class Walk:
    """What was passed through.

    Attributes
    ----------
    functions
        Each file's functions that were called.
    deepest
        The longest chain of archzoo's own frames, the outermost first.
    """

    functions: dict[str, set[str]] = field(default_factory=dict)
    deepest: list[str] = field(default_factory=list)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Take down a call, if it is archzoo's."""
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.functions.setdefault(frame.f_code.co_filename, set()).add(frame.f_code.co_qualname)
            chain = list(_own(frame))
            if len(chain) > len(self.deepest):
                self.deepest = chain[::-1]


def _own(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE) and not frame.f_code.co_name.startswith("<"):
            yield f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_code.co_qualname}"
        frame = frame.f_back


@contextlib.contextmanager
def walked() -> Iterator[Walk]:
    """Count what the block calls, also in threads that it starts."""
    walk = Walk()
    sys.setprofile(walk.note)
    threading.setprofile(walk.note)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def walks() -> dict[str, Walk]:
    """Run each verb once to import what it needs, and once more to count."""
    query = bundled_query("pbmc68k")
    plan = Plan(epochs=1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        hub = hub_client.Hub(folder)
        reference = hub_client.pull("pbmc-scpoli")

        def mapped() -> Any:
            return hub_client.map_query(
                query,
                reference,
                conditions={"batch": "batch"},
                plan=plan,
                min_coverage=0.3,
                accelerator="cpu",
                progress=False,
            )

        model = mapped().model
        verbs: dict[str, Callable[[int], Any]] = {
            "pull": lambda _: hub_client.pull("pbmc-scpoli"),
            "push": lambda times: hub.push(model, f"lab/pbmc-{times}"),
            "map_query": lambda _: mapped(),
        }
        for name, verb in verbs.items():
            verb(0)
            with walked() as found[name]:
                verb(1)
    return found


def main() -> None:
    """Print the counts, and with ``--list`` the files and the deepest chain of one verb."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--list", choices=("pull", "push", "map_query"))
    asked = parser.parse_args().list
    table = Table("verb", "files", "functions", "deepest stack")
    found = walks()
    for name, walk in found.items():
        functions = sum(map(len, walk.functions.values()))
        table.add_row(name, str(len(walk.functions)), str(functions), str(len(walk.deepest)))
    console = Console()
    console.print(table)
    if asked:
        console.print(*sorted(path.removeprefix(PACKAGE) for path in found[asked].functions), sep="\n")
        console.print("", *found[asked].deepest, sep="\n")


if __name__ == "__main__":
    main()

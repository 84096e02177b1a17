"""The rooms of ``hub_client`` from the top floor down: imports go down this list and never up.

``python -m tests.rooms`` writes CONTRIBUTING's table from it, with the first line of each room's docstring.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hub_client"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
ROOMS = (
    "cli",
    "mapping",
    "build",
    "compat",
    "hub",
    "interop",
    "checks",
    "serve",
    "plot",
    "labels",
    "programs",
    "models",
    "store",
    "release",
    "nn",
    "data",
    "files",
    "manifest",
)
INSIDE = {"serve": (("server",), ("app",), ("routes",), ("api", "pages"))}
"""What is on top within a room, from the top down; parts side by side do not import each other, and all else in the
room lies below them."""
LOOSE = ("_resources", "_version", "errors")
"""The modules below all rooms; beside them only the package's face is loose."""
_BEFORE, _AFTER = "<!-- rooms -->", "<!-- end of rooms -->"


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].rstrip(".").replace("``", "`")


def table() -> str:
    """Return the rooms and what is in each, as a Markdown table."""
    rooms = [(f"`hub_client/{room}/`", _first_line(PACKAGE / room / "__init__.py")) for room in ROOMS]
    loose = [(f"`hub_client/{name}.py`", _first_line(PACKAGE / f"{name}.py")) for name in LOOSE]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in [*rooms, *loose])])


def write() -> None:
    """Write the table between its marks in CONTRIBUTING."""
    text = CONTRIBUTING.read_text()
    before, rest = text.split(_BEFORE)
    after = rest.split(_AFTER)[1]
    CONTRIBUTING.write_text(f"{before}{_BEFORE}\n{table()}\n{_AFTER}{after}")


if __name__ == "__main__":
    write()

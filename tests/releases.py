"""Small release folders, for tests of everything that stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_client.release import folder as release_folder
from tests import examples


def release(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a release of the tiny example into a folder, and return the folder."""
    manifest = examples.manifest(**overrides)
    return release_folder.write(folder, manifest, examples.tensors(manifest, seed=seed))


def wide(folder: Path, *, units: int, **overrides: Any) -> Path:
    """Write a release whose weights take about 16 bytes a hidden unit."""
    return release(folder, architecture={"kind": "scpoli", "hidden": [units], "latent": 3}, **overrides)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}

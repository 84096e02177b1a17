"""Small release folders, for tests of everything that stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_client.manifest.axes import PrototypeLevel, Prototypes
from hub_client.models.model import Model
from hub_client.release import folder as release_folder
from tests import examples

_BYTES_A_UNIT = 88
"""What the weights of the tiny example take for each hidden unit."""


def release(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a release of the tiny example, its network untrained, into a folder, and return the folder."""
    untrained = {"prototypes": Prototypes(levels=(PrototypeLevel.of(0, "cell_type"),)), "tensors": ()}
    return Model.build(examples.manifest(**untrained | overrides), seed=seed).save(folder)


def unfit(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a release whose tensors are those that its manifest names, but not those of its network."""
    manifest = examples.manifest(**overrides)
    return release_folder.write(folder, manifest, examples.tensors(manifest, seed=seed))


def wide(folder: Path, *, units: int, **overrides: Any) -> Path:
    """Write a release whose weights take about 16 bytes for each of so many units."""
    hidden = max(1, 16 * units // _BYTES_A_UNIT)
    return release(folder, architecture={"kind": "scpoli", "hidden": [hidden], "latent": 3}, **overrides)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}

"""What the library itself says of the queries of benchmarks/label_transfer.py, through its public API.

Queries of the zoo's reference are mapped onto a released version of the zoo's models. For other references a release is
built first, from a recipe that is made here, as ``archzoo build`` builds it: with everything a build does to calibrate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import hub_client
from benchmarks.label_transfer_methods import Labelled, Method
from benchmarks.label_transfer_recipes import depth_is_given, recipe
from benchmarks.label_transfer_sets import LEVEL, TransferSet
from benchmarks.latents_methods import Clock, one_thread
from benchmarks.latents_sets import BATCH, DEPTH, LABEL
from hub_client.build.build import build

KINDS = {"scpoli": "scPoli", "trvae": "trVAE", "scvi": "scVI", "scanvi": "scANVI", "expimap": "expiMap"}
BUILT = ("scpoli", "trvae", "scvi", "scanvi")
"""Kinds whose references are built for sets other than the zoo's; an expiMap needs gene programs."""
PREFIX = "archzoo-"


def ours(sets: Sequence[TransferSet], seed: int, *, kind: str, version: str) -> Iterator[Labelled]:
    """Map each part of the queries onto their reference, trained as the library decides, and take its labels."""
    one_thread()
    clock, level = Clock(), LEVEL if sets[0].released else LABEL
    with clock.stage("reference"):
        model = _reference(sets[0], kind=kind, version=version, seed=seed)
    for name, part in (item for one in sets for item in one.blind_parts.items()):
        with clock.stage("query"):
            settings: dict[str, Any] = {
                "conditions": {BATCH: BATCH},
                "size_factor": DEPTH if depth_is_given(part) else None,
            }
            settings |= {"min_coverage": 0.0, "unknown_above": None, "progress": False}  # every cell is named
            mapping = hub_client.map_query(part, model, seed=seed, **settings)
        yield _labelled(name, mapping.predictions.levels[level], seconds=dict(clock.seconds))


def _labelled(part: str, found: Any, *, seconds: dict[str, float]) -> Labelled:
    sets: pd.DataFrame | None = getattr(found, "sets", None)
    return Labelled(part, found.labels, found.uncertainty, found.probabilities, sets=sets, seconds=seconds)


def _reference(one: TransferSet, *, kind: str, version: str, seed: int) -> hub_client.Model:
    if one.released:
        return hub_client.pull(f"pbmc-{kind}@{version}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = recipe(one.reference, folder, kind=kind, seed=seed)
        return hub_client.Model.load(build(made, data=folder, out=folder / "built", progress=False, accelerator="cpu"))


def methods(kinds: Sequence[str], *, version: str) -> list[Method]:
    """Return a method for each kind of model, on a version of the zoo's."""
    return [Method(PREFIX + kind, titled(PREFIX + kind), partial(ours, kind=kind, version=version)) for kind in kinds]


def titled(method: str) -> str:
    """Return the title of a method of the library."""
    return f"archzoo, {KINDS[method.removeprefix(PREFIX)]}"


def able(kind: str, one: TransferSet) -> bool:
    """Return whether a kind can be measured on a set."""
    return one.released or kind in BUILT

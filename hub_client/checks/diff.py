"""diff(): what is different between two releases, and how far their latents are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.checks.verify import simulated_cells
from hub_client.data.cells import Cells
from hub_client.manifest.v1 import Manifest
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.release import versioning
from hub_client.release.changes import Change, Names, changes
from hub_client.release.folder import Release

NOT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("combinations", "conditions", "covariates", "delta", "files", "labels", "metrics"), True),
    **dict.fromkeys(("proteins", "signature", "tensors", "terms"), True),
    "genes": {"panel"},
    "test_vectors": {"tensors"},
    "training": {"datasets", "losses", "seconds"},
}
"""What is compared otherwise, or states nothing of the model."""


@dataclass(frozen=True)
class Drift:
    """How far the first release's test cells lie apart in the two latents."""

    cells: int
    """How many were compared; 0 where they cannot be, and ``reason`` states why."""
    largest: float = 0.0
    mean: float = 0.0
    """Like the largest, a Euclidean distance (latent units)."""
    spread: float = 0.0
    """Mean distance of these cells from their mean in the first latent: what the drift compares with."""
    reason: str = ""


@dataclass(frozen=True)
class Diff:
    """What is different between two releases."""

    names: tuple[Names, ...]
    """Genes, conditions, labels, gene programs, data sets."""
    values: tuple[Change, ...]
    """Hyperparameters and other fields."""
    metrics: tuple[Change, ...]
    """Figures by name, data set and split."""
    drift: Drift
    """Of the latent."""
    needed: str
    """Which part of the version this change needs."""
    reason: str
    """Why this change needs that part."""


def diff(before: Model, after: Model) -> Diff:
    """Return what is different between two releases.

    Parameters
    ----------
    before, after
        Two models, as :func:`hub_client.pull` returns them.

    Examples
    --------
    >>> diff(hub_client.pull("kidney@1.0.0"), hub_client.pull("kidney@1.1.0")).drift  # doctest: +SKIP
    """
    old, new = before.manifest, after.manifest
    needed, reason = versioning.needed(_release(before), _release(after))
    return Diff(
        names=tuple(change.names() for change in changes(_lists(old), _lists(new))),
        values=tuple(changes(_fields(old), _fields(new))),
        metrics=tuple(changes(_metrics(old), _metrics(new))),
        drift=drift(before, after),
        needed=needed,
        reason=reason,
    )


def drift(before: Model, after: Model) -> Drift:
    """Return how far the test cells of ``before`` lie apart in the two latents, computed on the CPU."""
    try:
        cells = simulated_cells(before)
        there = embed(after, _moved(cells, before.manifest, after.manifest), device="cpu")
    except (errors.Unsupported, errors.VocabularyError, errors.InvalidInput) as error:
        return Drift(0, reason=str(error))
    here = embed(before, cells, device="cpu")
    if here.shape != there.shape:
        return Drift(0, reason=f"the latents have {here.shape[1]} and {there.shape[1]} dimensions.")
    apart = np.linalg.norm(here.astype(np.float64) - there, axis=1)
    spread = np.linalg.norm(here - here.mean(axis=0), axis=1).mean()
    return Drift(len(cells), float(apart.max()), float(apart.mean()), float(spread))


def _release(model: Model) -> Release:
    return Release(model.manifest, model.tensors(), Path())


def _moved(cells: Cells, old: Manifest, new: Manifest) -> Cells:
    """Return cells of one model in the order of genes of another; a gene they do not have is zero."""
    if old.input != new.input:
        raise errors.InvalidInput(f"one reads {old.input.kind} and the other {new.input.kind}, or scaled otherwise.")
    if lost := [c.key for c in new.conditions if c.key not in cells.conditions]:
        raise errors.VocabularyError(f"the test cells have no {errors.names(lost)}.", field="conditions", unknown=lost)
    if old.genes.names == new.genes.names:
        return cells
    columns = {name: place for place, name in enumerate(old.genes.names)}
    shared = [(place, columns[name]) for place, name in enumerate(new.genes.names) if name in columns]
    values = np.zeros((len(cells), len(new.genes.names)), dtype=np.float32)
    values[:, [place for place, _ in shared]] = cells.x.toarray()[:, [place for _, place in shared]]
    return replace(cells, x=csr_matrix(values))


def _lists(manifest: Manifest) -> dict[str, list[str]]:
    """Return every ordered list of names, by what it lists."""
    lists: dict[str, Sequence[str]] = {"genes": manifest.genes.names}
    lists |= {f"condition {c.key}": c.categories for c in manifest.conditions}
    lists |= {f"covariate {c.key}": c.categories for c in manifest.covariates.categorical}
    lists |= {"continuous covariates": manifest.covariates.continuous}
    lists |= {"combinations": [" + ".join(c.values) for c in manifest.combinations]}
    lists |= {f"labels {level.key}": level.categories for level in manifest.labels}
    lists |= {"gene programs": [term.name for term in manifest.terms if term.active]}
    lists |= {"proteins": manifest.proteins.panel if manifest.proteins else ()}
    lists |= {"data sets": [data.name for data in manifest.training.datasets]}
    return {what: list(names) for what, names in lists.items()}


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Return every other field."""
    return manifest.model_dump(mode="json", exclude=NOT_FIELDS)


def _metrics(manifest: Manifest) -> dict[str, float]:
    return {f"{metric.name} on {metric.dataset}, {metric.split}": metric.value for metric in manifest.metrics}

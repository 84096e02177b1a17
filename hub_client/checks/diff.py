"""diff(): what is different between two releases, and how far apart their results are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.checks.outputs import outputs
from hub_client.checks.verify import simulated_cells
from hub_client.data.cells import Cells
from hub_client.manifest.provenance import DatasetRecord
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release import ancestry, atlas_file, versioning
from hub_client.release.changes import Change, Names, changes
from hub_client.release.folder import REFERENCE, Release

NOT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("combinations", "delta", "files", "metrics", "signature", "tensors"), True),
    **{key: {"__all__": {"categories"}} for key in ("conditions", "labels")},
    "covariates": {"continuous": True, "categorical": {"__all__": {"categories"}}},
    "genes": {"panel"},
    "proteins": {"panel"},
    "test_vectors": {"tensors"},
    "training": {"datasets", "losses", "seconds"},
}
"""What is compared otherwise, as names, tensors or figures, or states nothing of the model. All else is a field that is
compared, also what a later format adds."""


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
class Moved:
    """A result of the first release's test cells that the second gives otherwise."""

    field: str
    """Which result, such as ``uncertainty.cell_type``."""
    cells: int
    """Of how many cells."""
    largest: float | None = None
    """By how much at most; None for labels."""


@dataclass(frozen=True)
class Diff:
    """What is different between two releases."""

    names: tuple[Names, ...]
    """Genes, conditions, labels, gene programs, data sets; the data also of the releases that they were grown from."""
    values: tuple[Change, ...]
    """Hyperparameters and other fields."""
    metrics: tuple[Change, ...]
    """Figures by name, data set and split; of a grown release without own ones, those of what it was grown from."""
    drift: Drift
    """Of the latent."""
    needed: str
    """Which part of the version this change needs."""
    reason: str
    """Why this change needs that part."""
    tensors: tuple[Change, ...] = ()
    """Tensors that came, went, grew or moved."""
    atlas: tuple[Change, ...] = ()
    """What of the reference cells that labels are transferred from."""
    moved: tuple[Moved, ...] = ()
    """Results of the test cells beside the latent: labels, uncertainty, probabilities, scores, imputed proteins."""


def diff(before: Model, after: Model, *, ancestors: Sequence[Manifest] = ()) -> Diff:
    """Return what is different between two releases.

    Parameters
    ----------
    before, after
        Two models, as :func:`hub_client.pull` returns them.
    ancestors
        Manifests of the releases they were grown from, as :meth:`hub_client.Hub.ancestors` returns them: their data and
        figures are those of the grown ones too.

    Examples
    --------
    >>> diff(hub_client.pull("kidney@1.0.0"), hub_client.pull("kidney@1.1.0")).drift  # doctest: +SKIP
    """
    old, new = before.manifest, after.manifest
    known = (old, new, *ancestors)
    left, right = _release(before), _release(after)
    needed, reason = versioning.needed(left, right)
    there, moved = _results(before, after)
    return Diff(
        names=tuple(change.names() for change in changes(_lists(old, known), _lists(new, known))),
        values=tuple(_brief(change) for change in changes(_fields(old), _fields(new))),
        metrics=tuple(changes(_metrics(old, known), _metrics(new, known))),
        drift=there,
        needed=needed,
        reason=reason,
        tensors=tuple(versioning.tensor_changes(left, right)),
        atlas=tuple(versioning.atlas_changes(left, right)),
        moved=moved,
    )


def drift(before: Model, after: Model) -> Drift:
    """Return how far the test cells of ``before`` lie apart in the two latents, computed on the CPU."""
    return _results(before, after)[0]


def _results(before: Model, after: Model) -> tuple[Drift, tuple[Moved, ...]]:
    """Return how far the test cells of ``before`` lie apart in the two latents, and which other results of them moved.

    Both are computed on the CPU.
    """
    try:
        cells = simulated_cells(before)
        new = outputs(after, _moved(cells, before.manifest, after.manifest), device="cpu").by_name()
    except (errors.Unsupported, errors.VocabularyError, errors.InvalidInput) as error:
        return Drift(0, reason=str(error)), ()
    old = outputs(before, cells, device="cpu").by_name()
    here, there = old.pop("latent"), new.pop("latent")
    moved = tuple(found for name in old if name in new and (found := _apart(name, old[name], new[name])))
    if here.shape != there.shape:
        return Drift(0, reason=f"the latents have {here.shape[1]} and {there.shape[1]} dimensions."), moved
    apart = np.linalg.norm(here.astype(np.float64) - there, axis=1)
    spread = np.linalg.norm(here - here.mean(axis=0), axis=1).mean()
    return Drift(len(cells), float(apart.max()), float(apart.mean()), float(spread)), moved


def _apart(name: str, before: NDArray[Any], after: NDArray[Any]) -> Moved | None:
    """Return in how many cells a result differs, in the columns that both have, and by how much."""
    if before.ndim == 2:
        width = min(before.shape[1], after.shape[1])
        before, after = before[:, :width], after[:, :width]
    differing = int((before != after).reshape(len(before), -1).any(axis=1).sum())
    if not differing:
        return None
    if before.dtype.kind != "f":
        return Moved(name, differing)
    finite = np.isfinite(before) & np.isfinite(after)
    return Moved(name, differing, float(np.abs(before[finite] - after[finite]).max(initial=0)))


def _release(model: Model) -> Release:
    """Return a model as a release: what it holds now, whatever its manifest states of the files it was read from."""
    described = replace(model)
    if not described.manifest.tensors:
        described.describe()
    contents = {} if model.atlas is None else {REFERENCE: bytearray(atlas_file.dump(model.atlas))}
    return Release(described.manifest, model.tensors(), Path(), contents)


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


def _lists(manifest: Manifest, known: Sequence[Manifest]) -> dict[str, list[str]]:
    """Return every ordered list of names, by what it lists."""
    lists: dict[str, Sequence[str]] = {"genes": manifest.genes.names}
    lists |= {f"condition {c.key}": c.categories for c in manifest.conditions}
    lists |= {f"covariate {c.key}": c.categories for c in manifest.covariates.categorical}
    lists |= {"continuous covariates": manifest.covariates.continuous}
    lists |= {"combinations": [" + ".join(c.values) for c in manifest.combinations]}
    lists |= {f"labels {level.key}": level.categories for level in manifest.labels}
    lists |= {"gene programs": [term.name for term in manifest.terms if term.active]}
    lists |= {"proteins": manifest.proteins.panel if manifest.proteins else ()}
    lists |= {"data sets": [_data(data) for data in ancestry.datasets(ancestry.walk(manifest, known))]}
    return {what: list(names) for what, names in lists.items()}


def _data(data: DatasetRecord) -> str:
    return f"{data.name} (sha256:{data.fingerprint[:12]})"


def _fields(manifest: Manifest) -> dict[str, Any]:
    """Return every other field, and what a newer format states that this one does not know."""
    return manifest.model_dump(mode="json", exclude=NOT_FIELDS) | manifest.unknown


def _brief(change: Change) -> Change:
    """Return a change of a list in short; any other as it is."""
    return change.shown() if isinstance(change.before, list) and isinstance(change.after, list) else change


def _metrics(manifest: Manifest, known: Sequence[Manifest]) -> dict[str, float]:
    """Return the figures of a release, or of the nearest one that it was grown from and that has some."""
    measured = next((one.metrics for one in ancestry.walk(manifest, known) if one.metrics), ())
    return {f"{metric.name} on {metric.dataset}, {metric.split}": metric.value for metric in measured}

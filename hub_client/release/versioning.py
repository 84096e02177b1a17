"""Which part of a version has to rise: what changed between two releases, by their manifests and their weights.

patch
    The same weights and axes; only what is said about them changed.
minor
    Names were appended, and every weight that belongs to the names before is the same bit for bit: old cells keep their
    latent. Surgery does exactly this. Prototypes and test vectors do not move cells, so they may change.
major
    Anything else: another latent space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hub_client import errors
from hub_client.manifest.v1 import Manifest, TensorSpec
from hub_client.release.folder import WEIGHTS, Release
from hub_client.release.names import semver

LEVELS = ("major", "minor", "patch")
GROWING = {
    "constrained_extensions",
    "unconstrained_extensions",
    "soft_extension_mask",
    "hsic",
    "hsic_one_vs_all",
}
"""What surgery changes of an expiMap's hyperparameters when it adds terms."""


def check(old: Release, new: Release, *, taken: Iterable[str]) -> None:
    """Refuse a version that rises less than the change needs.

    Parameters
    ----------
    old
        The release whose version comes before.
    new
        The one that shall be released.
    taken
        All versions that are released.

    Raises
    ------
    InvalidInput
        If a higher part of the version has to rise.
    """
    level, reason = needed(old, new)
    before, after = old.manifest.version, new.manifest.version
    if LEVELS.index(raised(before, after)) <= LEVELS.index(level):
        return
    raise errors.InvalidInput(
        f"{after} after {before} is a {raised(before, after)} release, but {reason}, which needs a {level} one: push "
        f"with version={_next(level, before, taken)!r}.",
        facts={"version": after, "previous": before, "needed": level},
    )


def raised(before: str, after: str) -> str:
    """Return the highest part in which two versions differ."""
    return next(level for level, b, a in zip(LEVELS, semver(before), semver(after), strict=True) if a != b)


def needed(old: Release, new: Release) -> tuple[str, str]:
    """Return the part of the version that has to rise, and why."""
    if changed := _changed_axis(old.manifest, new.manifest):
        return "major", f"{changed} changed otherwise than by appending"
    if _same_weights(old, new):
        return "patch", "the description changed"
    if moved := _moved_tensor(old, new):
        return "major", f"the tensor {moved} has other values for what was there before"
    return "minor", "weights were added"


def _same_weights(old: Release, new: Release) -> bool:
    """Return whether the weights are the same file; of a model that was not saved yet, whether all tensors are."""
    files = [{file.path: file.sha256 for file in release.manifest.files}.get(WEIGHTS) for release in (old, new)]
    if all(files):
        return files[0] == files[1]
    return old.tensors.keys() == new.tensors.keys() and all(
        torch.equal(tensor, new.tensors[name]) for name, tensor in old.tensors.items()
    )


def _changed_axis(old: Manifest, new: Manifest) -> str | None:
    """Return the first field in which ``new`` is more than ``old`` with names appended."""
    before, after = _fixed(old), _fixed(new)
    if changed := [field for field in before if before[field] != after[field]]:
        return changed[0]
    axes, grown = _named_axes(old), _named_axes(new)
    return next((name for name, names in axes.items() if not _begins(grown.get(name, ()), names)), None)


def _fixed(manifest: Manifest) -> dict[str, object]:
    """Return what no surgery changes."""
    return {
        "architecture": manifest.architecture.model_dump(exclude=GROWING),
        "input": manifest.input,
        "genes": (manifest.genes.id_type, manifest.genes.panel),
        "proteins": manifest.proteins and manifest.proteins.panel,
        "covariates": ([c.key for c in manifest.covariates.categorical], manifest.covariates.continuous),
    }


def _named_axes(manifest: Manifest) -> Mapping[str, Sequence[object]]:
    axes: dict[str, Sequence[object]] = {"condition keys": [(c.key, c.encoding) for c in manifest.conditions]}
    axes |= {f"condition {c.key!r}": c.categories for c in manifest.conditions}
    axes |= {f"covariate {c.key!r}": c.categories for c in manifest.covariates.categorical}
    axes |= {"combinations": [c.values for c in manifest.combinations]}
    axes |= {f"labels of {level.key!r}": level.categories for level in manifest.labels}
    return axes | {"terms": [(term.id, term.kind, term.genes) for term in manifest.terms]}


def _begins(longer: Sequence[object], shorter: Sequence[object]) -> bool:
    return list(longer[: len(shorter)]) == list(shorter)


def _moved_tensor(old: Release, new: Release) -> str | None:
    """Return the first tensor whose values for the old names are not the old ones."""
    sizes, grown = old.manifest.axes(), new.manifest.axes()
    before, after = ({spec.name: spec for spec in release.manifest.tensors} for release in (old, new))
    for name in sorted(before.keys() - _free(old.manifest)):
        same = name in after and after[name].shape == before[name].shape
        if not same or not _kept(old.tensors[name], new.tensors[name], after[name], sizes, grown):
            return name
    return None


def _free(manifest: Manifest) -> set[str]:
    """Return the tensors that say nothing about where a cell lies."""
    free = {"prototypes.unlabelled", *(manifest.test_vectors.tensors.values() if manifest.test_vectors else ())}
    free |= {level.means for level in manifest.prototypes.levels}
    return free | {level.covariances for level in manifest.prototypes.levels if level.covariances}


def _kept(old: Tensor, new: Tensor, spec: TensorSpec, sizes: Mapping[str, int], grown: Mapping[str, int]) -> bool:
    for dimension, axis in enumerate(spec.shape):
        new = new.index_select(dimension, torch.tensor(places(axis, sizes, grown), dtype=torch.int64))
    return new.shape == old.shape and bool((new == old).all())


def places(axis: str, sizes: Mapping[str, int], grown: Mapping[str, int]) -> list[int]:
    """Return where along a grown axis the old entries are; each part of the sum grew at its own end."""
    found: list[int] = []
    start = 0
    for part in axis.split("+"):
        width = int(part) if part.isdigit() else grown[part]
        kept = width if part.isdigit() else sizes.get(part, 0)
        found += range(start, start + kept)
        start += width
    return found


def _next(level: str, before: str, taken: Iterable[str]) -> str:
    """Return the lowest free version that raises this part."""
    major = semver(before)[0]
    if level == "major":
        return f"{max(semver(version)[0] for version in taken) + 1}.0.0"
    return f"{major}.{max(semver(version)[1] for version in taken if semver(version)[0] == major) + 1}.0"

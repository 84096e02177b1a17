"""Which part of a version has to rise: what changed between two releases, by their manifests and their weights.

patch
    The same weights and axes; only what is stated of them changed.
minor
    Names were appended, and every weight that belongs to the names before is the same bit for bit: old cells keep their
    latent. Surgery does exactly this. Prototypes and test vectors do not move cells, so they may change.
major
    Anything else: another latent space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hub_client import errors
from hub_client.manifest.v1 import Manifest
from hub_client.release.folder import WEIGHTS, Release
from hub_client.release.names import semver

LEVELS = ("major", "minor", "patch")


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
    before, after = old.fixed(), new.fixed()
    if changed := [field for field in before if before[field] != after[field]]:
        return changed[0]
    axes, grown = old.named_axes(), new.named_axes()
    return next((name for name, names in axes.items() if grown.get(name, ())[: len(names)] != names), None)


def _moved_tensor(old: Release, new: Release) -> str | None:
    """Return the first tensor whose values for the old names are not the old ones."""
    before, after = ({spec.name: spec for spec in release.manifest.tensors} for release in (old, new))
    axes, grown = old.manifest.axes(), new.manifest.axes()
    for name in sorted(before.keys() - _free(old.manifest)):
        if name not in after or after[name].shape != before[name].shape:
            return name
        if not _kept(old.tensors[name], new.tensors[name], after[name].places(grown, before=axes)):
            return name
    return None


def _free(manifest: Manifest) -> set[str]:
    """Return the tensors that do not move a cell."""
    free = {"prototypes.unlabelled", *manifest.vector_tensors, *(level.means for level in manifest.prototypes.levels)}
    return free | {level.covariances for level in manifest.prototypes.levels if level.covariances}


def _kept(old: Tensor, new: Tensor, places: Sequence[list[int]]) -> bool:
    for dimension, indices in enumerate(places):
        new = new.index_select(dimension, torch.tensor(indices, dtype=torch.int64))
    return new.shape == old.shape and bool((new == old).all())


def _next(level: str, before: str, taken: Iterable[str]) -> str:
    """Return the lowest free version that raises this part."""
    major = semver(before)[0]
    if level == "major":
        return f"{max(semver(version)[0] for version in taken) + 1}.0.0"
    return f"{major}.{max(semver(version)[1] for version in taken if semver(version)[0] == major) + 1}.0"

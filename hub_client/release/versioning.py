"""Which part of a version has to rise: what changed between two releases of all that decides results.

patch
    Only what is stated of the model changed: every query gets the same results.
minor
    Names were appended, or how new queries are taken in and trained on changed; all that decides results is for what
    was there before the same, bit for bit: old cells keep their latent and their labels. Surgery does exactly this.
major
    Anything else.

What decides results is listed in one place, :mod:`hub_client.manifest.results`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hub_client import errors
from hub_client.manifest import results
from hub_client.manifest.v1 import TensorSpec
from hub_client.release import atlas_file
from hub_client.release.changes import Change
from hub_client.release.folder import Release
from hub_client.release.names import semver

if TYPE_CHECKING:
    from anndata import AnnData

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
    fields = list(results.compare(old.manifest, new.manifest))
    if decisive := [found.field for found in fields if found.effect == "decides"]:
        return "major", f"{decisive[0]} changed otherwise than by appending, and results depend on it"
    if moved := _moved_tensor(old, new):
        return "major", f"the tensor {moved} has other values for what was there before"
    if changed := next(atlas_changes(old, new), None):
        return "major", f"{changed.field} changed in {atlas_file.FILE}, from which labels are transferred"
    if changed := next(tensor_changes(old, new), None):
        return "minor", f"the {changed.field} was added or grew, and nothing that was there before changed"
    if added := [found.field for found in fields if found.effect == "adds"]:
        return "minor", f"{added[0]} changed, and results of new queries or their check depend on it"
    return "patch", "the description changed"


def tensor_changes(old: Release, new: Release) -> Iterator[Change]:
    """Return the tensors in which two releases differ: dtype and shape, or by how much values differ at most."""
    for name in dict.fromkeys([*old.tensors, *new.tensors]):
        before, after = old.tensors.get(name), new.tensors.get(name)
        if before is None or after is None or (before.dtype, before.shape) != (after.dtype, after.shape):
            yield Change(f"tensor {name}", _described(before), _described(after))
        elif not torch.equal(before, after):
            off = float((before.double() - after.double()).abs().max())
            yield Change(f"tensor {name}", _described(before), f"{_described(after)}, values differ by up to {off:.3g}")


def atlas_changes(old: Release, new: Release) -> Iterator[Change]:
    """Return in what two releases' reference cells differ: how many they are, where they lie, and what each is."""
    if old.atlas != new.atlas:  # other bytes may still hold the same cells
        yield from _cell_changes(*(None if one.atlas is None else atlas_file.load(one.atlas) for one in (old, new)))


def _cell_changes(old: AnnData | None, new: AnnData | None) -> Iterator[Change]:
    if old is None or new is None or len(old) != len(new):
        yield Change("the number of cells", *(None if one is None else len(one) for one in (old, new)))
        return
    for kind, before, after in (("obs", old.obs, new.obs), ("obsm", old.obsm, new.obsm)):
        for key in dict.fromkeys([*before, *after]):
            field = f"{kind}[{key}]"
            if key not in before or key not in after:
                yield Change(field, *("there" if key in side else None for side in (before, after)))
            elif differing := _differing(np.asarray(before[key]), np.asarray(after[key])):
                yield Change(field, f"{len(old):,} cells", f"{differing:,} of them with other values")


def _differing(before: NDArray[Any], after: NDArray[Any]) -> int:
    """Return in how many rows two arrays differ: all, where they have not the same columns."""
    if before.shape != after.shape:
        return len(before)
    same = before == after if before.dtype.kind == "f" else before.astype(str) == after.astype(str)
    return int((~same).reshape(len(before), -1).any(axis=1).sum())


def _described(tensor: Tensor | None) -> str | None:
    return None if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _moved_tensor(old: Release, new: Release) -> str | None:
    """Return the first tensor that results depend on whose values for the old names are not the old ones."""
    before, after = ({spec.name: spec for spec in release.manifest.tensors} for release in (old, new))
    for name, spec in sorted(before.items()):
        if results.decides(spec) and (name not in after or not _kept(spec, after[name], old, new)):
            return name
    return None


def _kept(spec: TensorSpec, grown: TensorSpec, old: Release, new: Release) -> bool:
    """Return whether a tensor has, where the entries are that were there before, the same values."""
    before, after = old.tensors[spec.name], new.tensors[spec.name]
    if (spec.shape, spec.dtype, before.dtype) != (grown.shape, grown.dtype, after.dtype):
        return False
    for dimension, indices in enumerate(new.manifest.places(grown, before=old.manifest)):
        if indices and indices[-1] >= after.shape[dimension]:
            return False
        after = after.index_select(dimension, torch.tensor(indices, dtype=torch.int64))
    return torch.equal(before, after)


def _next(level: str, before: str, taken: Iterable[str]) -> str:
    """Return the lowest free version that raises this part."""
    major = semver(before)[0]
    if level == "major":
        return f"{max(semver(version)[0] for version in taken) + 1}.0.0"
    return f"{major}.{max(semver(version)[1] for version in taken if semver(version)[0] == major) + 1}.0"

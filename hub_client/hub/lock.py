"""``archzoo.lock``: the releases a pipeline uses, pinned by everything that names them, and pulls that insist on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from hub_client import errors
from hub_client.files import atomic
from hub_client.hub.client import Hub
from hub_client.manifest import _json
from hub_client.manifest._frozen import Frozen, as_json, problems
from hub_client.manifest.scalars import Commit, Doi, SemVer, Sha256
from hub_client.manifest.v1 import Manifest
from hub_client.release import ancestry
from hub_client.release.files import ListedFile
from hub_client.release.store import Ref

FILE = "archzoo.lock"
MAX_BYTES = 16 * 2**20


class LockedDataset(Frozen):
    """One data set a model was trained on, by the fingerprint of its genes and counts."""

    name: str
    fingerprint: Sha256
    doi: Doi | None = None


class LockedParent(Frozen):
    """A release that a locked one was grown from."""

    name: str
    version: SemVer | None = None
    digest: Sha256


class LockedModel(Frozen):
    """One release."""

    name: str
    version: SemVer | None
    commit: Commit
    digest: Sha256
    files: tuple[ListedFile, ...]
    datasets: tuple[LockedDataset, ...] = ()
    """What it was trained on; in format 2 also what the releases were that it was grown from, the root's first."""
    parents: tuple[LockedParent, ...] = ()
    """The release that it was grown from, that one's parent, and so on."""


class Lock(Frozen):
    """The file's content; where a hub is does not belong to it and would give away somebody's machine.

    Format 1 names no parents. It is still written where no release has one.
    """

    format: Literal[1, 2] = 1
    models: tuple[LockedModel, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(model.parents for model in self.models) != (self.format == 2):
            raise ValueError("a lock file is of format 2 where a release names its parents, and of format 1 elsewhere")
        return self

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of its format: sorted keys, UTF-8, newline at the end."""
        fields = self.model_dump(mode="json")
        for model in fields["models"] if self.format == 1 else ():
            del model["parents"]
        return as_json(fields)

    def entry(self, name: str) -> LockedModel:
        """Return the locked release of a name, full or its last part, whatever revision is written behind it.

        Raises
        ------
        NotFound
            If none, or several, are called so.
        """
        repo = name.partition("@")[0]
        exact = [model for model in self.models if model.name == repo]
        found = exact or [model for model in self.models if model.name.split("/")[-1] == repo]
        if len(found) == 1:
            return found[0]
        fault = "locks several releases called" if found else "does not lock"
        raise errors.NotFound(
            f"the lock file {fault} {repo!r}; it has {errors.names(model.name for model in self.models)}. Lock it with "
            "archzoo lock.",
            name=repo,
            suggestions=[model.name for model in found],
        )


def lock(names: Iterable[str], hub: Hub) -> Lock:
    """Return the lock of the releases that names mean now; errors as :func:`hub_client.pull`."""
    models = [_locked(hub.resolve(name), hub.manifest(name), hub.ancestors(name)) for name in names]
    number: Literal[1, 2] = 2 if any(model.parents for model in models) else 1
    return Lock(format=number, models=tuple(sorted(models, key=lambda model: model.name)))


def write_lock(path: Path, content: Lock) -> Path:
    """Write a lock file, whole or not at all; the same releases give the same bytes."""
    with atomic.writing(str(path), otherwise="choose another place"):
        atomic.write(path.absolute(), content.to_bytes())
    return path


def read_lock(path: Path) -> Lock:
    """Return the lock in a file.

    Raises
    ------
    NotFound
        If there is no such file.
    ManifestError
        If it is not a lock file.
    """
    try:
        return Lock.model_validate(_json.strict(path.read_bytes(), limit=MAX_BYTES))
    except FileNotFoundError:
        raise errors.NotFound(f"there is no lock file {path}; archzoo lock writes one.", name=str(path)) from None
    except ValidationError as error:
        raise errors.ManifestError(f"{path} is not a lock file:", path=str(path), problems=problems(error)) from None
    except ValueError as error:
        raise errors.ManifestError(f"{path} {error}. A lock file is one JSON object.", path=str(path)) from None


def locked(name: str, content: Lock, hub: Hub) -> str:
    """Return the name, with its digest, of the release that a lock pins, once the hub agrees with all of the lock.

    Parameters
    ----------
    name
        What to pull; a revision behind it has to mean the locked release, too.
    content
        The lock.
    hub
        Where it is looked for.

    Raises
    ------
    NotFound
        If the lock or the hub does not have it.
    IntegrityError
        If the hub's release differs in anything: version, commit, digest, files, data sets.
    """
    entry = content.entry(name)
    revision = name.partition("@")[2] or entry.version or f"sha256:{entry.digest}"
    ref = hub.resolve(f"{entry.name}@{revision}")
    pinned = f"{entry.name}@sha256:{ref.digest}"
    manifest = hub.manifest(pinned)
    ancestors = hub.ancestors(pinned) if entry.parents else []
    if different := list(_differences(entry, _locked(ref, manifest, ancestors))):
        raise errors.IntegrityError(
            f"{entry.name}@{revision} is not what the lock file says: {'; '.join(different)}. A release never changes: "
            "find out who moved it, or lock anew if you mean to use the other one.",
            file=FILE,
            expected=entry.digest,
            actual=ref.digest,
        )
    return pinned


def _locked(ref: Ref, manifest: Manifest, ancestors: Sequence[Manifest]) -> LockedModel:
    line = (manifest, *ancestors)
    parents = [one.lineage.parent for one in line if one.lineage and one.lineage.parent]
    return LockedModel(
        name=ref.repo,
        version=ref.version,
        commit=ref.commit,
        digest=ref.digest,
        files=tuple(ListedFile(path=file.path, size=file.size, sha256=file.sha256) for file in manifest.files),
        datasets=tuple(
            LockedDataset(name=data.name, fingerprint=data.fingerprint, doi=data.doi)
            for data in ancestry.datasets(line)
        ),
        parents=tuple(LockedParent(name=one.name, version=one.version, digest=one.digest) for one in parents),
    )


def _differences(expected: LockedModel, found: LockedModel) -> Iterator[str]:
    for field in ("version", "digest", "commit"):
        before, after = getattr(expected, field), getattr(found, field)
        if before != after:
            yield f"{field} is {after}, locked is {before}"
    if expected.files != found.files:
        yield "its files are others"
    # a parent that no hub at hand has ends the walk, here or where the lock was made: what both found has to agree
    both = min(len(expected.parents), len(found.parents))
    if expected.parents[:both] != found.parents[:both]:
        yield "its parents are others"
    if not _agree(expected, found):
        yield "its datasets are others"


def _agree(expected: LockedModel, found: LockedModel) -> bool:
    """Return whether the data sets are the same; of grown releases, whether one walk to the root found all of both."""
    if not expected.parents and not found.parents:
        return expected.datasets == found.datasets
    shorter, longer = sorted((expected.datasets, found.datasets), key=len)
    return set(shorter) <= set(longer)

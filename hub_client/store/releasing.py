"""From a release folder as somebody made it to the next release of a repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hub_client import errors
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.v1 import Manifest
from hub_client.store import bump, bundle, durable
from hub_client.store.protocol import SEMVER, Entry, Store, semver
from hub_client.store.ref import Ref
from hub_client.store.renaming import released_as


@dataclass(frozen=True)
class Draft:
    """What shall be released.

    Attributes
    ----------
    folder
        A release folder.
    version
        The version to release as; None is the manifest's own.
    message
        One line for the history; None says which version it is.
    parent
        The revision it follows, where the user names one.
    pulled
        The commit its model was pulled or grown from, in whichever hub.
    """

    folder: Path
    version: str | None = None
    message: str | None = None
    parent: str | None = None
    pulled: str | None = None


def release(draft: Draft, store: Store, repo: str, *, scratch: Path) -> Ref:
    """Check a draft, give it the repository's name and its version, and commit it.

    Parameters
    ----------
    draft
        What shall be released.
    store, repo
        Where to.
    scratch
        A folder for temporary files.

    Raises
    ------
    TransportError, InvalidInput, ManifestError, IntegrityError
        As :func:`hub_client.push`.
    """
    line = _history(store, repo)
    content = bundle.read(draft.folder)
    parent = _parent(draft, content.manifest, line, resolve=lambda revision: store.resolve(repo, revision))
    taken = {str(ref.version): ref for ref in store.releases(repo)} if line else {}
    created = _created(store, taken.get(_version(draft, content.manifest)))
    manifest = _named(draft, content.manifest, repo, created=created)
    folder = _written(content, manifest, scratch / "release")
    again = taken.get(manifest.version)
    if again and parent == line[0].commit:
        _check_same(folder, again, highest=max(taken, key=semver))
    _check_bump(store, folder, manifest.version, taken)
    return store.commit(repo, folder, message=draft.message or f"Release {manifest.version}", parent=parent)


def _check_bump(store: Store, folder: Path, version: str, taken: dict[str, Ref]) -> None:
    """Refuse a version that promises more than the weights keep, seen from the version before it."""
    before = max((other for other in taken if semver(other) < semver(version)), key=semver, default=None)
    if before is None or version in taken:
        return
    with store.opened(taken[before]) as previous:
        bump.check(bundle.read(previous), bundle.read(folder), taken=taken)


def head(store: Store, repo: str) -> str | None:
    """Return the newest commit of a repository, or None where there is none yet."""
    line = _history(store, repo)
    return line[0].commit if line else None


def _history(store: Store, repo: str) -> list[Entry]:
    return store.history(repo) if repo in store.repos() else []


def _parent(draft: Draft, manifest: Manifest, line: list[Entry], *, resolve: Callable[[str], Ref]) -> str | None:
    """Return the commit a draft follows: the one named, else the one it was made from if it is here, else the head."""
    if draft.parent is not None and line:
        return resolve(draft.parent).commit
    origin = manifest.lineage.parent.commit if manifest.lineage and manifest.lineage.parent else None
    commits = [entry.commit for entry in line]
    made_from = [commit for commit in (draft.pulled, origin) if commit in commits]
    return draft.parent or next(iter([*made_from, *commits]), None)


def _version(draft: Draft, manifest: Manifest) -> str:
    version = manifest.version if draft.version is None else draft.version
    if not SEMVER.fullmatch(version):
        raise errors.InvalidInput(
            f"version {version!r} is not a semantic version; expected three numbers, as in 1.2.0.",
            facts={"version": version},
        )
    return version


def _named(draft: Draft, manifest: Manifest, repo: str, *, created: datetime) -> Manifest:
    return released_as(manifest, name=repo.split("/")[-1], version=_version(draft, manifest), created=created)


def _created(store: Store, again: Ref | None) -> datetime:
    """Return the date of the release that has this version already, or now: pushing it again changes nothing."""
    if again is None:
        return datetime.now(UTC).replace(microsecond=0)
    earlier = read_manifest(store.read(again, bundle.MANIFEST), source=str(again))
    return earlier.created or datetime.now(UTC).replace(microsecond=0)


def _written(content: bundle.Release, manifest: Manifest, folder: Path) -> Path:
    """Return a folder with this manifest: the one that was read if nothing changed, so that not a byte does."""
    if manifest is content.manifest:
        return content.folder
    reference = content.folder / bundle.REFERENCE
    extra = {bundle.REFERENCE: reference} if reference.exists() else {}
    return bundle.write(folder, manifest, content.tensors, extra=extra)


def _check_same(folder: Path, again: Ref, *, highest: str) -> None:
    if durable.sha256(folder / bundle.MANIFEST) == again.digest:
        return
    major, minor, _ = semver(highest)
    raise errors.TransportError(
        f"{again} is released already and a released version never changes. Push this one as another version: the "
        f"next free minor one is version='{major}.{minor + 1}.0'.",
        ref=again,
    )

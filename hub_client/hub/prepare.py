"""From a release folder as somebody made it to the next release of a repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hub_client import errors
from hub_client.files import atomic
from hub_client.hub import delta
from hub_client.hub.lineage import Origins
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.v1 import Manifest
from hub_client.release import folder as release_folder
from hub_client.release import signing, versioning
from hub_client.release.names import document_name, is_version, semver
from hub_client.release.ref import Ref
from hub_client.release.renaming import released_as
from hub_client.release.store import Source, Store


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
    delta
        Whether the hub shall keep only what it adds to its parent.
    signer
        Who signs its manifest, if anybody does.
    """

    folder: Path
    version: str | None = None
    message: str | None = None
    parent: str | None = None
    pulled: str | None = None
    delta: bool = False
    signer: signing.Signer | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked release that only has to be committed: its folder, version, message, and the commit it follows."""

    folder: Path
    version: str
    message: str
    follows: str | None
    document: str = release_folder.MANIFEST


def prepare(draft: Draft, store: Store, repo: str, *, scratch: Path, origins: Origins) -> Prepared:
    """Check a draft, and give it the repository's name and its version.

    Parameters
    ----------
    draft
        What shall be released.
    store, repo
        Where to.
    scratch
        A folder for temporary files.
    origins
        Where parents of deltas are looked for.

    Raises
    ------
    TransportError, InvalidInput, ManifestError, IntegrityError
        As :func:`hub_client.push`.
    """
    content = release_folder.read(draft.folder)
    follows = parent(store, repo, named=draft.parent, made_from=(draft.pulled, _origin(content.manifest)))
    taken = {str(ref.version): ref for ref in store.releases(repo)} if store.holds(repo) else {}
    created = _created(store, taken.get(_version(draft, content.manifest)))
    manifest = _named(draft, content.manifest, repo, created=created)
    folder = _written(content, manifest, scratch / "release")
    kept = _kept(draft, folder, origins, scratch=scratch)
    again = taken.get(manifest.version)
    if again and follows == parent(store, repo):
        _check_same(kept, again, highest=max(taken, key=semver))
    _check_bump(delta.Whole(store, origins), folder, manifest.version, taken)
    return Prepared(kept, manifest.version, draft.message or f"Release {manifest.version}", follows)


def _kept(draft: Draft, folder: Path, origins: Origins, *, scratch: Path) -> Path:
    """Return the folder that the hub keeps: the release as it is, or what it adds to its parent; signed if asked for.

    A delta that is pushed on to another hub stays one, so that its digest is the same there.
    """
    manifest = read_manifest((folder / release_folder.MANIFEST).read_bytes(), source=str(folder))
    if draft.delta or manifest.delta:
        found = origins.find(delta.parent_of(manifest))
        with delta.Whole(found.source, origins).opened(found.ref) as before:
            folder = delta.stored_form(folder, before, scratch / "delta")
    return signing.signed_copy(folder, draft.signer, scratch / "signed") if draft.signer else folder


def _check_bump(store: Source, folder: Path, version: str, taken: dict[str, Ref]) -> None:
    """Refuse a version that promises more than the weights keep, seen from the version before it."""
    before = max((other for other in taken if semver(other) < semver(version)), key=semver, default=None)
    if before is None or version in taken:
        return
    with store.opened(taken[before]) as previous:
        versioning.check(release_folder.read(previous), release_folder.read(folder), taken=taken)


def parent(store: Store, repo: str, *, named: str | None = None, made_from: Iterable[str | None] = ()) -> str | None:
    """Return the commit the next release of a repository follows, as of now.

    Parameters
    ----------
    store, repo
        Where it goes.
    named
        The revision a user named, if any: it decides.
    made_from
        Commits, in whichever hub, the release was made from: else the first that is in this repository; else the head.
    """
    commits = [entry.commit for entry in store.history(repo)] if store.holds(repo) else []
    if named is not None and commits:
        return store.resolve(repo, named).commit
    here = [commit for commit in made_from if commit in commits]
    return named or next(iter([*here, *commits]), None)


def _origin(manifest: Manifest) -> str | None:
    """Return the commit of the release a model was grown from."""
    return manifest.lineage.parent.commit if manifest.lineage and manifest.lineage.parent else None


def _version(draft: Draft, manifest: Manifest) -> str:
    version = manifest.version if draft.version is None else draft.version
    if not is_version(version):
        raise errors.InvalidInput(
            f"version {version!r} is not a semantic version; expected three numbers, as in 1.2.0.",
            facts={"version": version},
        )
    return version


def _named(draft: Draft, manifest: Manifest, repo: str, *, created: datetime) -> Manifest:
    return released_as(manifest, name=document_name(repo), version=_version(draft, manifest), created=created)


def _created(store: Store, again: Ref | None) -> datetime:
    """Return the date of the release that has this version already, or now: pushing it again changes nothing."""
    if again is None:
        return datetime.now(UTC).replace(microsecond=0)
    earlier = read_manifest(store.read(again, release_folder.MANIFEST), source=str(again))
    return earlier.created or datetime.now(UTC).replace(microsecond=0)


def _written(content: release_folder.Release, manifest: Manifest, folder: Path) -> Path:
    """Return a folder with this manifest: the one that was read if nothing changed, so that not a byte does."""
    if manifest is content.manifest:
        return content.folder
    reference = content.folder / release_folder.REFERENCE
    extra = {release_folder.REFERENCE: reference} if reference.exists() else {}
    return release_folder.write(folder, manifest, content.tensors, extra=extra)


def _check_same(folder: Path, again: Ref, *, highest: str) -> None:
    if atomic.sha256(folder / release_folder.MANIFEST) == again.digest:
        return
    major, minor, _ = semver(highest)
    raise errors.TransportError(
        f"{again} is released already and a released version never changes. Push this one as another version: the "
        f"next free minor one is version='{major}.{minor + 1}.0'.",
        ref=again,
    )

"""From a release folder as somebody made it to the next release of a repository."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hub_client import errors
from hub_client.checks import validate
from hub_client.files import atomic
from hub_client.hub import delta
from hub_client.hub.lineage import Origins
from hub_client.hub.parent_check import refuse_worse
from hub_client.manifest.reading import read_header
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release import consent, signing, versioning
from hub_client.release import folder as release_folder
from hub_client.release.folder import Release
from hub_client.release.names import document_name, is_version, semver
from hub_client.release.store import Ref, Source, Store
from hub_client.store.network.remote import RemoteStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draft:
    """What shall be released."""

    model: Model | str | Path
    """A model, or a release folder."""
    version: str | None = None
    """The version to release as; None is the manifest's own."""
    message: str | None = None
    """One line for the history; None states the version."""
    parent: str | None = None
    """The revision it follows, where the user names one."""
    delta: bool = False
    """Whether the hub shall keep only what it adds to its parent."""
    signer: signing.Signer | None = None
    """Who signs its manifest, if anybody does."""
    worse_than_parent: bool = False
    """Whether it may be worse than the release it was made from; nobody looks then."""
    publish_donors: bool = False
    """Whether conditions that look like donors or patients may be published; the manifest states it then."""


@dataclass(frozen=True)
class Prepared:
    """A checked release that only has to be committed: its folder, version, message, and the commit it follows."""

    folder: Path
    version: str
    message: str
    follows: str | None


@contextmanager
def prepared(draft: Draft, store: Store, repo: str, *, origins: Origins) -> Iterator[Prepared]:
    """Check a draft, and give the release that only has to be committed, in a folder that is gone afterwards.

    Other names for the same weights are looked for in hubs that are folders, where reading all manifests is quick.

    Parameters
    ----------
    draft
        What shall be released.
    store, repo
        Where to.
    origins
        Where parents are looked for: those of deltas, and of what must not be worse than they are.

    Raises
    ------
    TransportError, InvalidInput, ManifestError, IntegrityError
        As :func:`hub_client.push`.
    """
    with TemporaryDirectory(prefix="archzoo-") as scratch:
        folder, pulled = _as_folder(draft.model, Path(scratch) / "draft")
        release = release_folder.read(folder)
        if draft.publish_donors:
            release = replace(release, manifest=consent.given(release.manifest))
        stores = [] if isinstance(store, RemoteStore) else [store]
        # what gives away donors, or does not compute what it states, is not released
        found = validate.check(release, stores=stores, name=repo)
        validate.refuse(found, what=repo)
        if not draft.worse_than_parent:
            refuse_worse(release, origins, what=repo)
        for finding in found.findings:
            if finding.check == "identity" or (finding.check, finding.severity) == ("privacy", "warning"):
                _log.warning("%s: %s", repo, finding.message)
        grown = release.manifest.lineage.parent if release.manifest.lineage else None
        made_from = (pulled, grown.commit if grown else None)
        follows = parent(store, repo, named=draft.parent, made_from=made_from)
        yield _next(draft, release, store, repo, follows=follows, scratch=Path(scratch), origins=origins)


def _as_folder(model: Model | str | Path, folder: Path) -> tuple[Path, str | None]:
    """Return a release folder of the model, and the commit it was pulled or grown from."""
    if isinstance(model, str | Path):
        return Path(model).expanduser(), None
    return model.save(folder), model.ref.commit if model.ref else None


def _next(
    draft: Draft, content: Release, store: Store, repo: str, *, follows: str | None, scratch: Path, origins: Origins
) -> Prepared:
    """Return a release under the repository's name and its own version, once its version rises as it has to."""
    taken = {str(ref.version): ref for ref in store.releases(repo)} if store.holds(repo) else {}
    version = _version(draft, content.manifest)
    created = _created(store, taken.get(version))
    named = content.manifest.renamed(name=document_name(repo), version=version, created=created)
    release = _written(content, named, scratch / "release")
    kept = _kept(draft, release, origins, scratch=scratch)
    again = taken.get(version)
    if again and follows == parent(store, repo):
        _check_same(kept, again, highest=max(taken, key=semver))
    _check_bump(delta.Whole(store, origins), release, taken)
    return Prepared(kept, version, draft.message or f"Release {version}", follows)


def _kept(draft: Draft, release: Release, origins: Origins, *, scratch: Path) -> Path:
    """Return the folder that the hub keeps: the release as it is, or what it adds to its parent; signed if asked for.

    A delta that is pushed on to another hub stays one, so that its digest is the same there.
    """
    folder = release.folder
    if draft.delta or release.manifest.delta:
        found = origins.find(delta.parent_of(release.manifest))
        with delta.Whole(found.source, origins).opened(found.ref) as before:
            folder = delta.stored_form(folder, before, scratch / "delta")
    return signing.signed_copy(folder, draft.signer, scratch / "signed") if draft.signer else folder


def _check_bump(store: Source, release: Release, taken: dict[str, Ref]) -> None:
    """Refuse a version that promises more than the weights keep, seen from the version before it."""
    version = release.manifest.version
    before = max((other for other in taken if semver(other) < semver(version)), key=semver, default=None)
    if before is None or version in taken:
        return
    with store.opened(taken[before]) as previous:
        versioning.check(release_folder.read(previous), release, taken=taken)


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


def _version(draft: Draft, manifest: Manifest) -> str:
    version = manifest.version if draft.version is None else draft.version
    if not is_version(version):
        raise errors.InvalidInput(
            f"version {version!r} is not a semantic version; expected three numbers, as in 1.2.0.",
            facts={"version": version},
        )
    return version


def _created(store: Store, again: Ref | None) -> datetime:
    """Return the date of the release that has this version already, or now: pushing it again changes nothing."""
    if again is None:
        return datetime.now(UTC).replace(microsecond=0)
    earlier = read_header(store.read(again, release_folder.MANIFEST), source=str(again))
    return earlier.created or datetime.now(UTC).replace(microsecond=0)


def _written(content: Release, manifest: Manifest, folder: Path) -> Release:
    """Return the release with this manifest: the one that was read if nothing changed, so that not a byte does."""
    if manifest is content.manifest and manifest.as_read:
        return content
    extra = {} if content.atlas is None else {release_folder.REFERENCE: bytes(content.atlas)}
    release_folder.write(folder, manifest, content.tensors, extra=extra)
    return replace(content, manifest=release_folder.manifest_in(folder), folder=folder)


def _check_same(folder: Path, again: Ref, *, highest: str) -> None:
    if atomic.sha256(folder / release_folder.MANIFEST) == again.digest:
        return
    major, minor, _ = semver(highest)
    raise errors.TransportError(
        f"{again} is released already and a released version never changes. Push this one as another version: the "
        f"next free minor one is version='{major}.{minor + 1}.0'.",
        ref=again,
    )

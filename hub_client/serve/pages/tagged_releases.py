"""The releases of a repository as its pages show them: what is tagged, withdrawn, and stated in manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hub_client import errors
from hub_client.release import yanks
from hub_client.release.listing import DatasetListing, Listing, dataset_listing, listing
from hub_client.release.names import semver
from hub_client.release.store import DOCUMENT, Ref
from hub_client.serve import commit_tree, revisions
from hub_client.serve.repository_names import Place
from hub_client.store.folder import git


def yanked(repository: git.Repository) -> Mapping[str, str]:
    """Return the versions that were withdrawn, and why."""
    commit = repository.branches().get(yanks.BRANCH)
    data = commit_tree.file(repository, commit, yanks.FILE) if commit else None
    try:
        return yanks.reasons(yanks.read(data, source="this repository")) if data else {}
    except errors.IntegrityError:
        return {}


def newest(repository: git.Repository) -> tuple[str | None, str | None]:
    """Return the commit to show first, and its version: the highest that was not yanked, or the main branch's head."""
    withdrawn = yanked(repository)
    versions = {name: commit for name, commit in revisions.versions(repository).items() if name not in withdrawn}
    highest = max(versions, key=semver, default=None)
    return (versions[highest], highest) if highest else (repository.head(), None)


def sorted_versions(repository: git.Repository) -> list[str]:
    """Return the released versions, the highest first."""
    return sorted(revisions.versions(repository), key=semver, reverse=True)


def version(repository: git.Repository, place: Place, name: str, *, yanked: Mapping[str, str]) -> dict[str, str]:
    """Return what a list shows of a version: its date, its manifest's digest, why it was yanked if it was."""
    commit = repository.tags()[name]
    return {
        "name": name,
        "date": next(repository.line(commit)).date.date().isoformat(),
        "digest": revisions.digest(repository, place, commit) or "",
        "yanked": yanked.get(name, ""),
    }


def about(
    repository: git.Repository, place: Place, commit: str, version: str | None
) -> Listing | DatasetListing | None:
    """Return what a manifest states of itself; None where there is none, or it cannot be read."""
    data = document(repository, place, commit)
    if data is None:
        return None
    ref = Ref(str(place), commit, version, hashlib.sha256(data).hexdigest())
    try:
        return listing(ref, data) if place.kind == "models" else dataset_listing(ref, data)
    except errors.ManifestError:
        return None


def document(repository: git.Repository, place: Place, commit: str) -> bytes | None:
    """Return the manifest of a commit; None where there is none."""
    return commit_tree.file(repository, commit, DOCUMENT[place.kind])

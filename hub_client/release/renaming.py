"""A manifest under the name and version it is released as."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hub_client.manifest.v1 import Manifest


def released_as(manifest: Manifest, *, name: str, version: str, created: datetime) -> Manifest:
    """Return the manifest with the name, version and date of its release.

    What the manifest states its own version added, this version adds: the categories, combinations, labels and gene
    programs that surgery brought move along with it, or they would count as the reference's.

    Parameters
    ----------
    manifest
        The manifest as surgery or a recipe left it.
    name
        The repository's last part.
    version
        The version it is released as.
    created
        When, if the manifest does not state it.
    """
    changes: dict[str, Any] = {"name": name, "created": manifest.created or created}
    if version != manifest.version:
        changes |= {"version": version, **_moved(manifest, version)}
    unchanged = all(getattr(manifest, field) == value for field, value in changes.items())
    return manifest if unchanged else manifest.changed(**changes)


def _moved(manifest: Manifest, version: str) -> dict[str, Any]:
    """Return every field that states which version added something, the manifest's own version replaced."""
    own = manifest.version

    def named(record: Any) -> Any:
        added = {key: version if value == own else value for key, value in record.added_in.items()}
        return record.model_copy(update={"added_in": added})

    def whole(record: Any) -> Any:
        return record.model_copy(update={"added_in": version}) if record.added_in == own else record

    covariates = manifest.covariates
    return {
        "conditions": tuple(map(named, manifest.conditions)),
        "labels": tuple(map(named, manifest.labels)),
        "combinations": tuple(map(whole, manifest.combinations)),
        "terms": tuple(map(whole, manifest.terms)),
        "covariates": covariates.model_copy(update={"categorical": tuple(map(named, covariates.categorical))}),
    }

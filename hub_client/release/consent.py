"""Whether the donors that a release names may be published: what its manifest states of that, under ``extensions``.

Surgery notes the obs column that new categories came from where that looks like donors, because the manifest does not
state it otherwise; a push with ``publish_donors=True`` notes which conditions may be published. What surgery adds later
has to be stated anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub_client.data.donors import looks_like_donors, named_like_donors
from hub_client.manifest.v1 import Manifest

COLUMNS = "x-donor-columns"
"""Condition key to the obs column its categories came from, where that is named like donors."""
PUBLISHED = "x-donors-published"
"""Keys of conditions that look like donors and may be published."""


def donor_like(manifest: Manifest) -> dict[str, str]:
    """Return the conditions that look like donors or patients, and why; see :func:`.donors.looks_like_donors`."""
    columns = _columns(manifest)
    found = {c.key: looks_like_donors(c.key, c.categories, column=columns.get(c.key)) for c in manifest.categorical}
    return {key: why for key, why in found.items() if why is not None}


def published(manifest: Manifest) -> frozenset[str]:
    """Return the keys of conditions of which the manifest states that they may be published."""
    stated = manifest.extensions.get(PUBLISHED)
    return frozenset(key for key in stated if isinstance(key, str)) if isinstance(stated, list) else frozenset()


def given(manifest: Manifest) -> Manifest:
    """Return the manifest with the statement that all its conditions that look like donors may be published."""
    keys = published(manifest) | donor_like(manifest).keys()
    return manifest if keys == published(manifest) else _changed(manifest, {PUBLISHED: sorted(keys)})


def with_columns(grown: Manifest, columns: Mapping[str, str], *, before: Manifest) -> Manifest:
    """Return a grown manifest with the obs columns of new donors, which it no longer states may be published.

    Parameters
    ----------
    grown
        What surgery made of ``before``.
    columns
        Condition key to the obs column of the query.
    before
        The manifest that was grown.
    """
    known = {c.key: set(c.categories) for c in before.categorical}
    new = {c.key: [name for name in c.categories if name not in known.get(c.key, ())] for c in grown.categorical}
    noted = {key: column for key, column in columns.items() if new.get(key) and named_like_donors(column)}
    fresh = {key for key, names in new.items() if names and looks_like_donors(key, names, column=noted.get(key))}
    stated = published(grown)
    changes: dict[str, Any] = {COLUMNS: _columns(grown) | noted} if noted else {}
    if fresh & stated:
        changes[PUBLISHED] = sorted(stated - fresh)
    return _changed(grown, changes) if changes else grown


def _columns(manifest: Manifest) -> dict[str, str]:
    stated = manifest.extensions.get(COLUMNS)
    pairs = stated.items() if isinstance(stated, dict) else ()
    return {key: column for key, column in pairs if isinstance(column, str)}


def _changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    return manifest.changed(extensions={**manifest.extensions, **changes})

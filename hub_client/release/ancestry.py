"""The data and figures of a release, also of those it was grown from: a grown release states its query's alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hub_client.manifest.provenance import DatasetRecord
from hub_client.manifest.v1 import Manifest


def walk(manifest: Manifest, known: Iterable[Manifest]) -> Iterator[Manifest]:
    """Return a manifest, its parent's, and so on, as far as they are among those known; they are found by digest.

    A manifest that was not read from a release is nobody's parent.
    """
    by_digest: dict[str, Manifest] | None = None
    while True:
        yield manifest
        parent = manifest.lineage.parent if manifest.lineage else None
        if parent is None:
            return
        if by_digest is None:
            by_digest = {one.digest: one for one in known if one.as_read}
        if parent.digest not in by_digest:
            return
        manifest = by_digest.pop(parent.digest)


def datasets(manifests: Iterable[Manifest]) -> tuple[DatasetRecord, ...]:
    """Return the data of a release and of those it was grown from, the root's first, each once by its fingerprint.

    Parameters
    ----------
    manifests
        The release's manifest, its parent's, and so on.
    """
    found: dict[str, DatasetRecord] = {}
    for manifest in reversed(list(manifests)):
        for data in manifest.training.datasets:
            found.setdefault(data.fingerprint, data)
    return tuple(found.values())

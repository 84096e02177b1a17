"""Where a release comes from: its parents, found by digest in whichever hub has them, up to the root."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from hub_client import errors
from hub_client.manifest.header import Header
from hub_client.manifest.provenance import Parent
from hub_client.manifest.reading import read_header
from hub_client.release.store import DOCUMENT, Store
from hub_client.store.catalogue import Found


@dataclass(frozen=True)
class Data:
    """One data set that a release was trained on, beside those of its parents."""

    name: str
    cells: int
    fingerprint: str
    doi: str | None = None


@dataclass(frozen=True)
class Step:
    """One release on the way to the root."""

    name: str
    version: str | None
    digest: str
    """Name, version and digest are as it calls itself, or as its child calls it."""
    relation: str | None = None
    """How it came to be: ``surgery``, ``retrain``, ``import``; None for a root, or where it was not found."""
    created: str | None = None
    """When, RFC 3339."""
    hub: str | None = None
    """Where it was found; None where no hub at hand has it, and the walk ends."""
    message: str = ""
    """The message of the push that released it."""
    yanked: str | None = None
    """Why it was yanked, if it was."""
    data: tuple[Data, ...] = ()
    """What it was trained on; after surgery the query alone."""


@dataclass(frozen=True)
class Origins:
    """The stores in which parents are looked for, in this order; they are opened when the first parent is."""

    opened: Callable[[], Sequence[Store]]

    @cached_property
    def stores(self) -> Sequence[Store]:
        """The stores."""
        return self.opened()

    def find(self, parent: Parent) -> Found:
        """Return the release that is a parent, whatever version or commit it has where it is found.

        Raises
        ------
        NotFound
            If none of the stores has it.
        """
        last = parent.name.split("/")[-1]
        for store in self.stores:
            held = (repo for repo in store.repos() if repo.split("/")[-1] == last)
            for repo in sorted(held, key=lambda repo: repo != parent.name):  # of this full name, then of its last part
                with suppress(errors.NotFound, errors.Restricted):
                    ref = store.resolve(repo, f"sha256:{parent.digest}")
                    return Found(ref, store, store.yanked(repo).get(str(ref.version)))
        version = f"@{parent.version}" if parent.version else ""
        raise errors.NotFound(
            f"the parent {parent.name}{version} (sha256:{parent.digest[:12]}) is in none of the hubs "
            f"{errors.names(store.address for store in self.stores)}. Push it to one of them, or choose the hub that "
            "has it with hub=.",
            name=parent.name,
        )


def walk(found: Found, origins: Origins) -> Iterator[Step]:
    """Return a release, its parent, and so on to the root, or to the first that no hub at hand has."""
    parent: Parent | None = None
    for here, header in releases(found, origins):
        yield _step(here, header, origins)
        parent = header.lineage.parent if header.lineage else None
    if parent is not None:
        yield Step(parent.name, parent.version, parent.digest)


def releases(found: Found, origins: Origins) -> Iterator[tuple[Found, Header]]:
    """Return a release and its header, its parent's, and so on, as far as the hubs at hand have them."""
    while True:
        header = read_header(found.source.read(found.ref, DOCUMENT["models"]), source=str(found.ref))
        yield found, header
        parent = header.lineage.parent if header.lineage else None
        if parent is None:
            return
        try:
            found = origins.find(parent)
        except errors.NotFound:
            return


def _step(found: Found, header: Header, origins: Origins) -> Step:
    ref = found.ref
    store = next((store for store in origins.stores if store is found.source), None)
    entries = store.history(ref.repo) if store else []  # none of a folder that a user named by its path
    return Step(
        ref.repo,
        ref.version,
        ref.digest,
        relation=header.lineage.relation if header.lineage else None,
        created=header.created.isoformat() if header.created else None,
        hub=ref.hub,
        message=next((entry.message for entry in entries if entry.commit == ref.commit), ""),
        yanked=found.yanked,
        data=tuple(Data(one.name, one.cells, one.fingerprint, one.doi) for one in header.training.datasets),
    )

"""newest(): the newest release of every model of some hubs, by manifests alone: what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hub_client import errors
from hub_client.hub.delta import Whole, parent_of
from hub_client.hub.lineage import Origins
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release.store import DOCUMENT, Ref, Store


@dataclass(frozen=True)
class Offered:
    """A release that can be pulled, and its manifest."""

    ref: Ref
    manifest: Manifest
    size: int
    """Bytes of its files, with those of the releases that it is a delta of."""
    whole: Whole

    def pull(self) -> Model:
        """Return the model, every hash and shape checked; errors as :func:`hub_client.pull`."""
        with self.whole.opened(self.ref) as folder:
            model = Model.load(folder, ref=self.ref)
        self.ref.check(model.manifest.digest, file=DOCUMENT["models"])
        return model


@dataclass(frozen=True)
class Broken:
    """A repository, or a whole hub, that could not be read, and why."""

    name: str
    hub: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} in {self.hub} is left out: {self.reason}" if self.name else self.reason


def newest(stores: Iterable[Store], origins: Origins) -> tuple[list[Offered], list[Broken]]:
    """Return the newest version of every model that was not yanked, and what could not be read.

    Manifests are read and no weights. The same release in two hubs is listed once.

    Parameters
    ----------
    stores
        Where models are looked for.
    origins
        Where the parents of deltas are looked for.
    """
    found: dict[tuple[str, str], Offered] = {}
    broken: list[Broken] = []
    for store in stores:
        for one in _offered(store, origins):
            if isinstance(one, Broken):
                broken.append(one)
            else:
                found.setdefault((one.ref.repo, one.ref.digest), one)
    return list(found.values()), broken


def _offered(store: Store, origins: Origins) -> Iterator[Offered | Broken]:
    try:
        repos = store.repos()
    except errors.TransportError as error:
        yield Broken("", store.address, f"the hub {store.address} is left out: {error}")
        return
    for repo in repos:
        try:
            ref = store.resolve(repo)
        except errors.NotFound:  # it holds no release, or each was yanked
            continue
        except errors.HubClientError as error:
            yield Broken(repo, store.address, str(error))
            continue
        yield _read(ref, Whole(store, origins), store)


def _read(ref: Ref, whole: Whole, store: Store) -> Offered | Broken:
    try:
        manifest = whole.manifest(ref)
        ref.check(manifest.digest, file=DOCUMENT["models"])
        return Offered(ref, manifest, _size(manifest, whole), whole)
    except errors.HubClientError as error:
        return Broken(ref.repo, store.address, str(error))


def _size(manifest: Manifest, whole: Whole) -> int:
    own = sum(file.size for file in manifest.files)
    if manifest.delta is None:
        return own
    parent = whole.origins.find(parent_of(manifest))
    above = Whole(parent.source, whole.origins)
    return own + _size(above.manifest(parent.ref), above)

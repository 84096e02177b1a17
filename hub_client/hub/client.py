"""pull(), push(), search(): what a user does with hubs."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

from hub_client import errors
from hub_client.files import atomic
from hub_client.release.listing import DatasetListing, Listing, dataset_listing, listing
from hub_client.release.names import document_name
from hub_client.release.store import DOCUMENT, Entry, Ref, Store, writable
from hub_client.store import addresses
from hub_client.store.addresses import Address, default_folder
from hub_client.store.catalogue import Catalogue, Found
from hub_client.store.network.remote import Proposal, WritableRemoteStore

if TYPE_CHECKING:
    from anndata import AnnData

    from hub_client.hub.delta import Whole
    from hub_client.hub.lineage import Origins, Step
    from hub_client.hub.newest import Broken, Offered
    from hub_client.hub.prepare import Prepared
    from hub_client.hub.preview import Preview
    from hub_client.manifest.v1 import Manifest
    from hub_client.models.model import Model
    from hub_client.release.signing import Signer

__all__ = ["Address", "Hub", "default_folder", "download", "pull", "pull_dataset", "push", "push_dataset", "resolve"]

_log = logging.getLogger(__name__)


class Asked(TypedDict, total=False):
    """What a push may be asked for, beside the model and where it goes; :func:`push` has what each means."""

    version: str | None
    message: str | None
    parent: str | None
    delta: bool
    signer: Signer | None
    publish_donors: bool
    worse_than_parent: bool


class Described(TypedDict):
    """What a data set is described by; :func:`push_dataset` has what each means."""

    version: str
    license: str
    source: str
    title: NotRequired[str]
    doi: NotRequired[str | None]


class Hub:
    """A place to pull from and push to.

    Parameters
    ----------
    address
        A folder, which is made on the first push; ``https://hub.lab.example``, a hub that speaks as the Hugging Face
        hub does; ``hf://``, that hub; ``static+https://lab.example/zoo``, an exported one; ``bundled``, the models that
        come with archzoo. None is the bundled models, then ``$ARCHZOO_HUB`` (or the hubs of the config file, or a
        folder in archzoo's user data folder), then what came as bundles. docs/hubs.md has the rest.
    token
        For a hub on the network. None is the one that the environment or the config file has for it; on the public hub,
        that of your Hugging Face login. It is sent to this hub and nowhere else.

    Raises
    ------
    Unsupported
        If it is the address of a kind of hub that this version does not reach.
    InvalidInput
        If it is no address, or the token would cross the network in the clear.

    Examples
    --------
    >>> hub = Hub("/data/our-hub")  # doctest: +SKIP
    >>> hub = Hub("https://hub.lab.example", token=token)  # doctest: +SKIP
    >>> hub.push(model, "my-lab/pbmc-scpoli-lupus")  # doctest: +SKIP
    """

    def __init__(self, address: Address | None = None, *, token: str | None = None) -> None:
        self._models = Catalogue.of(address, kind="models", token=token)
        self._datasets = Catalogue.of(address, kind="datasets", token=token)

    def __repr__(self) -> str:
        return f"Hub({' + '.join(store.address for store in self._models.stores)})"

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where models are looked for."""
        return self._models.stores

    # Models

    def resolve(self, name: Address) -> Ref:
        """Return the pinned release a name means; see :func:`resolve`."""
        return self._models.find(name).ref

    def pull(self, name: Address) -> Model:
        """Return the model a name means; see :func:`pull`."""
        from hub_client.models.model import Model

        found = _warned(self._models.find(name))
        with self._whole(found).opened(found.ref) as folder:
            model = Model.load(folder, ref=found.ref)
        found.ref.check(model.manifest.digest, file=DOCUMENT["models"])
        return model

    def manifest(self, name: Address) -> Manifest:
        """Return the manifest a name means, without the weights."""
        return self._manifest(self._models.find(name))

    def download(self, name: Address, into: Address) -> Path:
        """Write the release a name means into a new folder; see :func:`download`."""
        from hub_client.release import folder as release_folder

        found, folder = _warned(self._models.find(name)), Path(into).expanduser()
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise errors.InvalidInput(f"{folder} exists already. Choose another folder.", facts={"into": folder})
        self._manifest(found)  # what is wrong with it is reported under the name that was asked for
        with atomic.staged(folder) as stage:
            self._whole(found).fetch(found.ref, stage)
            found.ref.check(release_folder.verify(stage).digest, file=DOCUMENT["models"])
        return folder

    def push(self, model: Model | Address, name: str, *, private: bool | None = None, **asked: Unpack[Asked]) -> Ref:
        """Release a model; see :func:`push`."""
        store, repo = self._models.target(name)
        with self._prepared(model, store, repo, asked) as ready:
            if private is not None:
                _remote(store, "private repositories").create(repo, private=private)
            return store.commit(repo, ready.folder, message=ready.message, parent=ready.follows)

    def propose(self, model: Model | Address, name: str, **asked: Unpack[Asked]) -> Proposal:
        """Open a pull request with what :meth:`push` would release, and return it; its commit can be pulled.

        Raises
        ------
        Unsupported
            If the hub is a folder, which has no pull requests.
        NotFound
            If the hub has no such repository.
        TransportError, InvalidInput, ManifestError, IntegrityError
            As :func:`push`.
        """
        store, repo = self._models.target(name)
        remote = _remote(store, "pull requests")
        with self._prepared(model, remote, repo, asked) as ready:
            return remote.propose(repo, ready.folder, message=ready.message, parent=ready.follows)

    def preview(self, model: Model | Address, name: str, **asked: Unpack[Asked]) -> Preview:
        """Return which files and which fields of the manifest :meth:`push` would change; errors as there."""
        from hub_client.hub.preview import preview

        store, repo = self._models.target(name)
        with self._prepared(model, store, repo, asked) as ready:
            return preview(ready, store, repo)

    def bundle(self, name: Address, into: Address) -> Path:
        """Write the release a name means as one file, to carry to a machine without a network, and return its path.

        Of a release that its hub keeps as a delta it is the delta: a warning names the parent, which has to come along.

        Raises
        ------
        InvalidInput
            If something lies at ``into`` already.
        NotFound, IntegrityError, ManifestError, TransportError
            As :func:`download`.
        """
        from hub_client.manifest.reading import read_header
        from hub_client.store.network import bundles

        found = self._models.find(name)
        header = read_header(found.source.read(found.ref, DOCUMENT["models"]), source=str(found.ref))
        if header.delta and header.lineage and (parent := header.lineage.parent):
            _log.warning(
                "%s is a delta: bundle its parent too, %s@sha256:%s, and pull both where they are needed",
                *(found.ref, parent.name, parent.digest[:12]),
            )
        return bundles.write(found.source, found.ref, Path(into).expanduser(), kind="models")

    def names(self) -> list[str]:
        """Return the full names of all models, sorted, without reading any of them."""
        return sorted({repo for store in self._models.stores for repo in store.repos()})

    def search(self, query: str = "", *, kind: str | None = None, all_versions: bool = False) -> list[Listing]:
        """Return what the hub holds; see :func:`search`."""
        found = self._models.listings(listing, all_versions=all_versions)
        return [one for one in found if one.matches(query) and kind in (None, one.architecture)]

    def newest(self) -> tuple[list[Offered], list[Broken]]:
        """Return the newest version of every model that was not yanked, without weights, and what could not be read."""
        from hub_client.hub.newest import newest

        return newest(self._models.stores, self._origins())

    def history(self, name: str) -> list[Entry]:
        """Return every commit of a model's repository, the newest first."""
        store, repo, _ = self._models.store_of(name)
        return store.history(repo)

    def yank(self, name: str, *, reason: str) -> Ref:
        """Yank a released version: the name alone no longer means it.

        Nothing is taken away: by version, commit or digest it is still found, with a warning that gives the reason.

        Parameters
        ----------
        name
            ``owner/name@version``.
        reason
            What is wrong with it and what to use instead, in a sentence.

        Raises
        ------
        InvalidInput
            If the name has no version, or there is no reason.
        NotFound
            If no such version is released.
        TransportError
            If the hub cannot be written.
        """
        store, repo, version = self._models.store_of(name)
        if version is None:
            raise errors.InvalidInput(
                f"{name!r} names no version; one version is yanked at a time, as in {repo}@1.0.0.", facts={"name": name}
            )
        return writable(store, repo).yank(repo, version, reason=reason)

    def lineage(self, name: Address) -> list[Step]:
        """Return a release, its parent, and so on to the root, in whichever hub each of them is.

        Parents are looked for in this hub, in the bundled zoo and in the default folder hub, by their digest.
        """
        from hub_client.hub import lineage

        return list(lineage.walk(self._models.find(name), self._origins()))

    def ancestors(self, name: Address) -> list[Manifest]:
        """Return the manifests of a release's parent, that one's parent, and so on, as far as hubs at hand have them.

        They are looked for as in :meth:`lineage`; where a hub cannot be asked, the walk ends, with a warning.
        """
        from hub_client.hub import lineage

        found = self._models.find(name)
        manifests: list[Manifest] = []
        try:
            line = islice(lineage.releases(found, self._origins()), 1, None)
            manifests.extend(self._manifest(one) for one, _ in line)
        except (errors.TransportError, errors.NotFound) as error:
            _log.warning("%s: the release it was grown from was not read: %s", found.ref, error)
        return manifests

    def _manifest(self, found: Found) -> Manifest:
        manifest = self._whole(found).manifest(found.ref)
        found.ref.check(manifest.digest, file=DOCUMENT["models"])
        return manifest

    def _whole(self, found: Found) -> Whole:
        """Return where to get the whole of a release, also where its hub keeps only what it adds to its parent."""
        from hub_client.hub.delta import Whole

        return Whole(found.source, self._origins())

    def _prepared(
        self, model: Model | Address, store: Store, repo: str, asked: Asked
    ) -> AbstractContextManager[Prepared]:
        from hub_client.hub.prepare import Draft, prepared

        return prepared(Draft(model, **asked), store, repo, origins=self._origins())

    def _origins(self) -> Origins:
        from hub_client.hub.lineage import Origins

        def stores() -> list[Store]:
            by_address: dict[str, Store] = {}
            for store in (*self._models.stores, *addresses.places(None, kind="models").stores):
                by_address.setdefault(store.address, store)
            return list(by_address.values())

        return Origins(stores)

    # Data sets

    def pull_dataset(self, name: Address) -> AnnData:
        """Return the data set a name means; see :func:`pull_dataset`."""
        from hub_client.data.fingerprint import fingerprint
        from hub_client.release import dataset

        found = self._datasets.find(name)
        with found.source.opened(found.ref) as folder:
            record, adata = dataset.read(folder, digest=found.ref.digest)
        if (actual := fingerprint(adata)) != record.fingerprint:
            raise errors.IntegrityError(
                f"the genes and counts of {found.ref} have fingerprint {actual}, but its record states "
                f"{record.fingerprint}. Ask whoever released it for an intact one.",
                file=dataset.DATA,
                expected=record.fingerprint,
                actual=actual,
            )
        return adata

    def push_dataset(
        self,
        adata: AnnData,
        name: str,
        *,
        message: str | None = None,
        parent: str | None = None,
        private: bool | None = None,
        **described: Unpack[Described],
    ) -> Ref:
        """Release a data set; see :func:`push_dataset`."""
        from hub_client.data.fingerprint import fingerprint
        from hub_client.hub import prepare
        from hub_client.release import dataset

        store, repo = self._datasets.target(name)
        follows = prepare.parent(store, repo, named=parent)
        found = {"cells": adata.n_obs, "genes": adata.n_vars, "fingerprint": fingerprint(adata)}
        record = dataset.describe(name=document_name(repo), **described, **found)
        with TemporaryDirectory(prefix="archzoo-") as scratch:
            folder = dataset.write(Path(scratch) / "release", adata, record)
            if private is not None:
                _remote(store, "private repositories").create(repo, private=private)
            return store.commit(repo, folder, message=message or f"Release {record.version}", parent=follows)

    def search_datasets(self, query: str = "") -> list[DatasetListing]:
        """Return the newest version of every data set with all words of the query in its name, title or source."""
        found = self._datasets.listings(dataset_listing)
        return [one for one in found if one.matches(query)]


def pull(name: Address, *, hub: Hub | Address | None = None) -> Model:
    """Return the model a name means, every hash and shape checked.

    Parameters
    ----------
    name
        ``pbmc-scpoli``, ``pbmc-scpoli@1.2.0``, ``owner/name@<commit>``, ``name@sha256:<digest>``,
        ``hf://owner/name``, a release folder, or a bundle (``kidney.tar``).
    hub
        Where to look; None is as for :class:`Hub`.

    Raises
    ------
    NotFound
        If nothing has this name, or several things have it; ``suggestions`` has close or full names.
    IntegrityError
        If a file is not the one its manifest names, or the manifest is not the one the digest names.
    ManifestError
        If the manifest is of a format this version does not read.
    TransportError
        If a hub cannot be reached or refuses.

    Examples
    --------
    >>> model = hub_client.pull("pbmc-scpoli")  # doctest: +SKIP
    """
    return _hub(hub).pull(name)


def push(
    model: Model | Address,
    name: str,
    *,
    hub: Hub | Address | None = None,
    version: str | None = None,
    message: str | None = None,
    parent: str | None = None,
    private: bool | None = None,
    delta: bool = False,
    signer: Signer | None = None,
    publish_donors: bool = False,
    worse_than_parent: bool = False,
) -> Ref:
    """Release a model and return where it is.

    The manifest takes the repository's name and, where it has none, the date; it is otherwise released as it is.
    Pushing the same release again changes nothing and returns the same place.

    Parameters
    ----------
    model
        A model, or a release folder.
    name
        The repository, ``owner/name``; made on the first push. ``hf://owner/name`` is on the public hub.
    hub
        Where to; None is ``$ARCHZOO_HUB``, or the hub that the config file names, or the default folder hub.
    version
        The semantic version to release as; None is the manifest's own.
    message
        One line for the history.
    parent
        The commit, version or branch this release follows. None is the commit the model was pulled or grown from where
        that is in this repository, else the repository's newest.
    private
        On a hub on the network: whether a repository that is new is private. None is the hub's default; True also makes
        sure that one that exists is.
    delta
        Keep in the hub only what surgery added, kilobytes, and the digest of the release it was grown from. Whoever
        pulls it gets the whole release, provided that the parent is in this hub, the bundled zoo or their own.
    signer
        Who signs the manifest: :class:`hub_client.release.signing.Signer`.
    publish_donors
        State, in the manifest, that conditions that look like donors or patients may be published. Without it a release
        with such conditions is refused.
    worse_than_parent
        Push a release also where it is worse than the one it was made from: it does not reproduce that one's test
        vectors, though surgery grew it, or a figure on the same data is worse by more than 0.01. Without it the parent
        is looked for in the hubs at hand and compared, which reads its weights; with it nobody looks.

    Raises
    ------
    TransportError
        If somebody else pushed since (``ref`` is their release), the version is released already with other bytes, or
        the hub cannot be written.
    InvalidInput
        If the name is not ``owner/name``, the version is smaller than the change needs, a delta has no parent, the
        release is worse than the one it was made from, or it holds barcodes, donors' rows, file paths or e-mail
        addresses.
    NotFound
        If the parent of a delta is in none of the hubs at hand.
    ManifestError, IntegrityError
        If the release does not hold together, or its test vectors are not reproduced.

    Examples
    --------
    >>> hub_client.push(model, "my-lab/pbmc-scpoli-lupus")  # doctest: +SKIP
    """
    asked = Asked(
        version=version,
        message=message,
        parent=parent,
        delta=delta,
        signer=signer,
        publish_donors=publish_donors,
        worse_than_parent=worse_than_parent,
    )
    return _hub(hub).push(model, name, private=private, **asked)


def search(
    query: str = "", *, hub: Hub | Address | None = None, kind: str | None = None, all_versions: bool = False
) -> list[Listing]:
    """Return the models a hub holds, the newest version of each.

    Parameters
    ----------
    query
        Words that must all be in the name, the description or the labels, in any case; also ontology ids of organism,
        tissue, assay, disease and labels, and what labels are part of.
    hub
        Where to look; None is as for :class:`Hub`.
    kind
        An architecture, as in ``scpoli``.
    all_versions
        Whether to list every version, the newest last.

    Examples
    --------
    >>> [release.name for release in hub_client.search("pbmc")]  # doctest: +SKIP
    ['pbmc-scpoli']
    """
    return _hub(hub).search(query, kind=kind, all_versions=all_versions)


def resolve(name: Address, *, hub: Hub | Address | None = None) -> Ref:
    """Return the pinned release a name means, without reading its weights.

    Raises
    ------
    NotFound
        As :func:`pull`.
    """
    return _hub(hub).resolve(name)


def download(name: Address, into: Address, *, hub: Hub | Address | None = None) -> Path:
    """Write the release a name means into a folder, every hash and shape checked, and return the folder.

    Raises
    ------
    InvalidInput
        If something lies in ``into``.
    TransportError
        If ``into`` cannot be written; nothing is left behind.
    NotFound, IntegrityError, ManifestError
        As :func:`pull`.
    """
    return _hub(hub).download(name, into)


def pull_dataset(name: Address, *, hub: Hub | Address | None = None) -> AnnData:
    """Return the data set a name means, as it was pushed: every hash and the fingerprint are checked.

    Raises
    ------
    NotFound
        As :func:`pull`.
    IntegrityError
        If a file is not the one that was pushed, or holds anything but plain arrays.
    """
    return _hub(hub).pull_dataset(name)


def push_dataset(
    adata: AnnData,
    name: str,
    *,
    version: str,
    license: str,
    source: str,
    hub: Hub | Address | None = None,
    title: str = "",
    doi: str | None = None,
    message: str | None = None,
    parent: str | None = None,
    private: bool | None = None,
) -> Ref:
    """Release a data set and return where it is; ``adata`` is not written to.

    Parameters
    ----------
    adata
        The cells; counts in ``X`` are what the fingerprint is of.
    name
        The repository, ``owner/name``.
    version
        The semantic version to release as.
    license
        The SPDX id of what others may do with it.
    source
        Where the cells come from: an accession, a URL, a sentence.
    hub
        Where to; None is the default folder hub.
    title, doi
        What it is, and what to cite.
    message, parent, private
        As :func:`push`.

    Raises
    ------
    TransportError
        As :func:`push`.
    InvalidInput
        If ``adata`` holds something that cannot be stored as plain arrays.
    """
    described = Described(version=version, license=license, source=source, title=title, doi=doi)
    return _hub(hub).push_dataset(adata, name, message=message, parent=parent, private=private, **described)


def _hub(hub: Hub | Address | None) -> Hub:
    return hub if isinstance(hub, Hub) else Hub(hub)


def _remote(store: Store, what: str) -> WritableRemoteStore:
    if isinstance(store, WritableRemoteStore):
        return store
    raise errors.Unsupported(
        f"{store.address} is a folder and has no {what}: its permissions state who may read and write it. Push to a "
        "hub on the network, with hub=.",
        kind="folder hub",
        verb=what,
    )


def _warned(found: Found) -> Found:
    """Return what was found, after a warning if it was yanked."""
    if found.yanked:
        _log.warning("%s was yanked: %s", found.ref, found.yanked)
    return found

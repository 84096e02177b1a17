"""pull(), push(), search(): what a user does with hubs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from hub_client import errors
from hub_client.files import atomic
from hub_client.release.listing import DatasetListing, Listing, dataset_listing, listing
from hub_client.release.names import document_name
from hub_client.release.ref import Ref
from hub_client.release.store import DOCUMENT, Entry, Kind, Source, Store
from hub_client.store import addresses, catalogue
from hub_client.store.addresses import Address, default_folder
from hub_client.store.catalogue import Catalogue, Found
from hub_client.store.network.remote import Proposal, RemoteStore

if TYPE_CHECKING:
    from anndata import AnnData

    from hub_client.hub.lineage import Origins, Step
    from hub_client.hub.prepare import Prepared
    from hub_client.hub.preview import Preview
    from hub_client.manifest.v1 import Manifest
    from hub_client.models.model import Model
    from hub_client.release.signing import Signer

__all__ = ["Address", "Hub", "default_folder", "download", "pull", "pull_dataset", "push", "push_dataset", "resolve"]

_Shown = TypeVar("_Shown", Listing, DatasetListing)
_Named = TypeVar("_Named", bound=Address)
Asked = dict[str, Any]
"""What a push asks for: fields of :class:`hub_client.hub.prepare.Draft`."""
_log = logging.getLogger(__name__)
_DATASETS = "datasets/"


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
        self._models, self._target = _places(address, "models", token=token)
        self._datasets, self._dataset_target = _places(address, "datasets", token=token)

    def __repr__(self) -> str:
        return f"Hub({' + '.join(store.address for store in self._models.stores)})"

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where models are looked for."""
        return self._models.stores

    # Models

    def resolve(self, name: Address) -> Ref:
        """Return the pinned release a name means; see :func:`resolve`."""
        return _find(self._models, name).ref

    def pull(self, name: Address) -> Model:
        """Return the model a name means; see :func:`pull`."""
        from hub_client.models.model import Model

        found = _told(_find(self._models, name))
        with self._whole(found).opened(found.ref) as folder:
            model = Model.load(folder, ref=found.ref)
        _check_digest(model.manifest, found.ref)
        return model

    def manifest(self, name: Address) -> Manifest:
        """Return the manifest a name means, without the weights."""
        return _manifest(_find(self._models, name))

    def download(self, name: Address, into: Address) -> Path:
        """Write the release a name means into a new folder; see :func:`download`."""
        from hub_client.release import folder as release_folder

        found, folder = _told(_find(self._models, name)), _vacant(Path(into))
        _manifest(found)  # what is wrong with it is told under the name that was asked for
        with atomic.staged(folder) as stage:
            self._whole(found).fetch(found.ref, stage)
            _check_digest(release_folder.verify(stage), found.ref)
        return folder

    def push(
        self,
        model: Model | Address,
        name: str,
        *,
        version: str | None = None,
        message: str | None = None,
        parent: str | None = None,
        private: bool | None = None,
        delta: bool = False,
        signer: Signer | None = None,
    ) -> Ref:
        """Release a model; see :func:`push`."""
        store, repo = self._push_to(name, "models")
        asked: Asked = {"version": version, "message": message, "parent": parent, "delta": delta, "signer": signer}
        with self._prepared(model, store, repo, asked=asked) as ready:
            if private is not None:
                _remote(store, "private repositories").create(repo, private=private)
            return store.commit(repo, ready.folder, message=ready.message, parent=ready.follows)

    def propose(
        self,
        model: Model | Address,
        name: str,
        *,
        version: str | None = None,
        message: str | None = None,
        parent: str | None = None,
        delta: bool = False,
        signer: Signer | None = None,
    ) -> Proposal:
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
        store, repo = self._push_to(name, "models")
        remote = _remote(store, "pull requests")
        asked: Asked = {"version": version, "message": message, "parent": parent, "delta": delta, "signer": signer}
        with self._prepared(model, store, repo, asked=asked) as ready:
            return remote.propose(repo, ready.folder, message=ready.message, parent=ready.follows)

    def preview(
        self,
        model: Model | Address,
        name: str,
        *,
        version: str | None = None,
        parent: str | None = None,
        delta: bool = False,
    ) -> Preview:
        """Return which files and which fields of the manifest :meth:`push` would change; errors as there."""
        from hub_client.hub import preview as push_preview

        store, repo = self._push_to(name, "models")
        with self._prepared(model, store, repo, asked={"version": version, "parent": parent, "delta": delta}) as ready:
            return push_preview.preview(ready, store, repo)

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
        from hub_client.store.network import bundles

        found = _find(self._models, name)
        manifest = _manifest(found)
        if manifest.delta and manifest.lineage and (parent := manifest.lineage.parent):
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
        found = _shown(self._models, listing, all_versions=all_versions)
        return [one for one in found if one.matches(query) and kind in (None, one.architecture)]

    def history(self, name: str) -> list[Entry]:
        """Return every commit of a model's repository, the newest first."""
        place, name = _placed(self._models, name)
        return place.history(name)

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
        place, name = _placed(self._models, name)
        store, repo, version = place.store_of(name)
        if version is None:
            raise errors.InvalidInput(
                f"{name!r} names no version; one version is yanked at a time, as in {repo}@1.0.0.", facts={"name": name}
            )
        return store.yank(repo, version, reason=reason)

    def lineage(self, name: Address) -> list[Step]:
        """Return a release, its parent, and so on to the root, in whichever hub each of them is.

        Parents are looked for in this hub, in the bundled zoo and in the default folder hub, by their digest.
        """
        from hub_client.hub import lineage

        return list(lineage.walk(_find(self._models, name), self._origins()))

    def _whole(self, found: Found) -> Source:
        """Return where to get the whole of a release, also where its hub keeps only what it adds to its parent."""
        from hub_client.hub.delta import Whole

        return Whole(found.source, self._origins())

    @contextmanager
    def _prepared(self, model: Model | Address, store: Store, repo: str, *, asked: Asked) -> Iterator[Prepared]:
        """Give a release that only has to be committed, in a folder that is gone afterwards."""
        from hub_client.hub import prepare

        with TemporaryDirectory(prefix="archzoo-") as scratch:
            folder, pulled = _as_folder(model, Path(scratch) / "draft")
            _check_fit(folder, store, repo)
            draft = prepare.Draft(folder, pulled=pulled, **asked)
            yield prepare.prepare(draft, store, repo, scratch=Path(scratch), origins=self._origins())

    def _origins(self) -> Origins:
        from hub_client.hub.lineage import Origins

        stores: dict[str, Store] = {}
        for store in (*self._models.stores, *addresses.places(None, kind="models").stores):
            stores.setdefault(store.address, store)
        return Origins(tuple(stores.values()))

    # Data sets

    def pull_dataset(self, name: Address) -> AnnData:
        """Return the data set a name means; see :func:`pull_dataset`."""
        from hub_client.data.fingerprint import fingerprint
        from hub_client.release import dataset

        found = _find(self._datasets, name)
        with found.source.opened(found.ref) as folder:
            record, adata = dataset.read(folder, digest=found.ref.digest)
        if (actual := fingerprint(adata)) != record.fingerprint:
            raise errors.IntegrityError(
                f"the genes and counts of {found.ref} have fingerprint {actual}, but its record says "
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
        version: str,
        license: str,
        source: str,
        title: str = "",
        doi: str | None = None,
        message: str | None = None,
        parent: str | None = None,
        private: bool | None = None,
    ) -> Ref:
        """Release a data set; see :func:`push_dataset`."""
        from hub_client.data.fingerprint import fingerprint
        from hub_client.hub import prepare
        from hub_client.release import dataset

        store, repo = self._push_to(name, "datasets")
        follows = prepare.parent(store, repo, named=parent)
        record = dataset.describe(
            name=document_name(repo),
            version=version,
            title=title,
            license=license,
            source=source,
            doi=doi,
            cells=adata.n_obs,
            genes=adata.n_vars,
            fingerprint=fingerprint(adata),
        )
        with TemporaryDirectory(prefix="archzoo-") as scratch:
            folder = dataset.write(Path(scratch) / "release", adata, record)
            if private is not None:
                _remote(store, "private repositories").create(repo, private=private)
            return store.commit(repo, folder, message=message or f"Release {version}", parent=follows)

    def search_datasets(self, query: str = "") -> list[DatasetListing]:
        """Return the newest version of every data set with all words of the query in its name, title or source."""
        found = _shown(self._datasets, dataset_listing, all_versions=False)
        return [one for one in found if one.matches(query)]

    def _push_to(self, name: str, kind: Kind) -> tuple[Store, str]:
        """Return the store a push goes to and the repository there; a name that begins with ``hf://`` says both."""
        if isinstance(name, str) and name.startswith(addresses.PUBLIC):
            return addresses.public(kind), catalogue.repository(_on_public(name, kind))
        store = {"models": self._target, "datasets": self._dataset_target}[kind]
        return store, catalogue.repository(name)


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

    Raises
    ------
    TransportError
        If somebody else pushed since (``ref`` is their release), the version is released already with other bytes, or
        the hub cannot be written.
    InvalidInput
        If the name is not ``owner/name``, the version is smaller than the change needs, a delta has no parent, or the
        release holds barcodes, donors' rows, file paths or e-mail addresses.
    NotFound
        If the parent of a delta is in none of the hubs at hand.
    ManifestError, IntegrityError
        If the release does not hold together, or its test vectors are not reproduced.

    Examples
    --------
    >>> hub_client.push(model, "my-lab/pbmc-scpoli-lupus")  # doctest: +SKIP
    """
    settings: dict[str, Any] = {"version": version, "message": message, "parent": parent, "private": private}
    return _hub(hub).push(model, name, **settings, delta=delta, signer=signer)


def search(
    query: str = "", *, hub: Hub | Address | None = None, kind: str | None = None, all_versions: bool = False
) -> list[Listing]:
    """Return the models a hub holds, the newest version of each.

    Parameters
    ----------
    query
        Words that must all be in the name, the description or the labels, in any case.
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
    return _hub(hub).push_dataset(
        adata,
        name,
        version=version,
        license=license,
        source=source,
        title=title,
        doi=doi,
        message=message,
        parent=parent,
        private=private,
    )


def _hub(hub: Hub | Address | None) -> Hub:
    return hub if isinstance(hub, Hub) else Hub(hub)


def _places(address: Address | None, kind: Kind, *, token: str | None) -> tuple[Catalogue, Store]:
    """Return where names are looked for, and the store that is pushed to."""
    places = addresses.places(address, kind=kind, token=token)
    return Catalogue(places.stores, kind=kind, ordered=places.ordered), places.target


def _find(place: Catalogue, name: Address) -> Found:
    place, name = _placed(place, name)
    return place.find(name)


def _placed(place: Catalogue, name: _Named) -> tuple[Catalogue, _Named | str]:
    """Return where a name is looked for, and the name there: ``hf://owner/name`` is on the public hub."""
    if not isinstance(name, str) or not name.startswith(addresses.PUBLIC):
        return place, name
    return Catalogue([addresses.public(place.kind)], kind=place.kind), _on_public(name, place.kind)


def _on_public(name: str, kind: Kind) -> str:
    """Return a name of the public hub without its beginning; InvalidInput if it is a name of the other kind."""
    rest = name.removeprefix(addresses.PUBLIC)
    is_dataset = rest.startswith(_DATASETS)
    if is_dataset != (kind == "datasets"):
        verb, other = ("pull", "pull_dataset") if kind == "models" else ("pull_dataset", "pull")
        raise errors.InvalidInput(
            f"{name!r} names a {'data set' if is_dataset else 'model'}: use {other} instead of {verb}. On the "
            "public hub models are hf://owner/name and data sets hf://datasets/owner/name.",
            facts={"name": name},
        )
    return rest.removeprefix(_DATASETS)


def _remote(store: Store, what: str) -> RemoteStore:
    if isinstance(store, RemoteStore):
        return store
    raise errors.Unsupported(
        f"{store.address} is a folder and has no {what}: its permissions say who may read and write it. Push to a "
        "hub on the network, with hub=.",
        kind="folder hub",
        verb=what,
    )


def _shown(place: Catalogue, show: Callable[[Ref, bytes], _Shown], *, all_versions: bool) -> list[_Shown]:
    """Return what each release says about itself; a release or a hub that cannot be read is left out with a warning."""
    found: list[_Shown] = []
    for store in place.stores:
        try:
            repos = store.repos()
        except errors.TransportError as error:
            if len(place.stores) == 1:
                raise
            _log.warning("the hub %s is left out: %s", store.address, error)
            continue
        for repo in repos:
            found += _shown_of(store, repo, show, all_versions=all_versions)
    return found


def _check_fit(folder: Path, store: Store, repo: str) -> None:
    """Refuse to release what gives away donors, or does not compute what it states: :mod:`hub_client.checks.validate`.

    Other names for the same weights are looked for in hubs that are folders, where reading all manifests is quick.
    """
    from hub_client.checks import validate

    stores = [] if isinstance(store, RemoteStore) else [store]
    found = validate.validate(folder, stores=stores, name=repo, load=False)
    validate.refuse(found, what=repo)
    for finding in found.findings:
        if finding.check == "identity" or (finding.check, finding.severity) == ("privacy", "warning"):
            _log.warning("%s: %s", repo, finding.message)


def _told(found: Found) -> Found:
    """Return what was found once it is told that it was yanked, if it was."""
    if found.yanked:
        _log.warning("%s was yanked: %s", found.ref, found.yanked)
    return found


def _shown_of(store: Store, repo: str, show: Callable[[Ref, bytes], _Shown], *, all_versions: bool) -> list[_Shown]:
    try:
        refs = store.releases(repo) if all_versions else [store.resolve(repo)]
        return [show(ref, store.read(ref, DOCUMENT[store.kind])) for ref in refs]
    except (errors.IntegrityError, errors.ManifestError) as error:
        _log.warning("%s in %s is left out: %s", repo, store.address, error)
    except errors.NotFound:
        _log.info("%s in %s holds no release", repo, store.address)
    return []


def _manifest(found: Found) -> Manifest:
    from hub_client.manifest.reading import read_manifest

    manifest = read_manifest(found.source.read(found.ref, DOCUMENT["models"]), source=str(found.ref))
    _check_digest(manifest, found.ref)
    return manifest


def _as_folder(model: Model | Address, folder: Path) -> tuple[Path, str | None]:
    """Return a release folder of the model, and the commit it was pulled or grown from."""
    if isinstance(model, str | Path):
        return Path(model).expanduser(), None
    return model.save(folder), model.ref.commit if model.ref else None


def _check_digest(manifest: Manifest, ref: Ref) -> None:
    if manifest.digest != ref.digest:
        raise errors.IntegrityError(
            f"the manifest has sha256 {manifest.digest}, but {ref} was asked for. Pull it again.",
            file=DOCUMENT["models"],
            expected=ref.digest,
            actual=manifest.digest,
        )


def _vacant(folder: Path) -> Path:
    folder = folder.expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise errors.InvalidInput(f"{folder} exists already. Choose another folder.", facts={"into": folder})
    return folder

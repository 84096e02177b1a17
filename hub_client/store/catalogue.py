"""Names to pinned releases. A name that could mean two things is an error with suggestions, never a guess.

=============================  =====================================================================
``pbmc-scpoli``                the newest version, in whichever hub has it
``my-lab/pbmc-scpoli``         the same by its full name
``name@1.2.0``                 a version
``name@main``                  a tag or a branch
``name@3f2a91c``               a commit, by 7 or more of its 40 hex digits
``name@sha256:8c41d0e2b7aa``   a digest, by 12 or more of its 64 hex digits
``./mapped-model``             a release folder: a path that begins with ``.``, ``/`` or ``~`` or ends with ``/``
``kidney.tar``                 a release in one file, as ``archzoo bundle`` writes it
``hf://owner/name@1.2.0``      the same names on the public Hugging Face hub; ``hf://datasets/owner/name`` of data sets
=============================  =====================================================================

A full name wins over a last part: what comes with archzoo has no owner, so ``pbmc-scpoli`` is its full name, and
somebody's ``my-lab/pbmc-scpoli`` does not make it ambiguous. Where the user put the hubs in an order, the first
that has a full name is meant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from hub_client import errors
from hub_client.release.names import REVISION, check_new, is_part, is_repository
from hub_client.release.store import DOCUMENT, Ref, RepoType, Source, Store, WritableStore, writable
from hub_client.store import addresses, settings
from hub_client.store.addresses import PUBLIC, Address
from hub_client.store.folder.plain import PlainFolder
from hub_client.store.network.bundles import SUFFIX, BundleFile

_DATASETS = "datasets/"
_Shown = TypeVar("_Shown")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Name:
    """A repository, as far as it was named, and a revision or None for the newest version."""

    repo: str
    revision: str | None = None


@dataclass(frozen=True)
class Found:
    """A release, where to get it from, and why it was yanked if it was."""

    ref: Ref
    source: Source
    yanked: str | None = None


def parse(text: str) -> Name:
    """Return the parts of a name, as a user writes it.

    Raises
    ------
    InvalidInput
        If it is not written as one.
    Unsupported
        If it is an address and not a name.
    """
    refuse_address(text)
    repo, at, revision = text.partition("@")
    if not is_part(repo) and not is_repository(repo):
        raise errors.InvalidInput(
            f"{text!r} is not a release's name: expected name or owner/name, each 1 to 96 letters, digits, - _ . "
            "without -- or .., then optionally @version. A folder is written with ./ in front.",
            facts={"name": text},
        )
    if at and not REVISION.fullmatch(revision):
        raise errors.InvalidInput(
            f"{text!r}: after @ comes a version (1.2.0), a tag, a branch, a commit (7 to 40 hex digits) or sha256: and "
            f"12 to 64 digits of a digest; {revision!r} is none of these.",
            facts={"name": text, "revision": revision},
        )
    return Name(repo, revision or None)


def repository(text: str) -> str:
    """Return the repository a push goes to: ``owner/name`` and nothing more.

    Raises
    ------
    InvalidInput
        If the owner is missing or there is a revision.
    """
    name = parse(text)
    if "/" not in name.repo or name.revision:
        raise errors.InvalidInput(
            f"a push goes to owner/name, as in my-lab/{name.repo.split('/')[-1]}; {text!r} was given. A version is "
            "passed as version=.",
            facts={"name": text},
        )
    return name.repo


def refuse_address(text: str) -> None:
    """Raise Unsupported if the text is an address where a name or a folder is expected."""
    scheme, separator, _ = text.partition("://")
    if separator:
        raise errors.Unsupported(
            f"{text!r}: archzoo does not reach a {scheme}:// address here. A name is owner/name, or hf://owner/name on "
            "the public hub; the address of a hub is given apart from the name, with hub= or ARCHZOO_HUB.",
            kind=f"{scheme} hub",
            verb="connect",
        )


class Catalogue:
    """What several stores of one kind hold, by name.

    Parameters
    ----------
    stores
        Where to look.
    kind
        What they hold.
    ordered
        Whether the user put them in this order: then the first that has a full name is meant, and not all are asked.
    target
        The store that is pushed to; None is the first.
    """

    def __init__(
        self, stores: Sequence[Store], *, kind: RepoType, ordered: bool = False, target: Store | None = None
    ) -> None:
        self.stores = tuple(stores)
        self.kind: RepoType = kind
        self._ordered = ordered
        self._target = target or self.stores[0]

    @classmethod
    def of(cls, address: Address | None, *, kind: RepoType, token: str | None = None) -> Self:
        """Return the catalogue of a hub, or of all hubs of the user; errors as :func:`.addresses.places`."""
        places = addresses.places(address, kind=kind, token=token)
        return cls(places.stores, kind=kind, ordered=places.ordered, target=places.target)

    def find(self, name: Address) -> Found:
        """Return the release a name or a path means.

        Raises
        ------
        NotFound
            If nothing has this name, with close names; or if several things have it, with their full names.
        InvalidInput
            If it is not written as a name.
        """
        if not isinstance(name, str | Path):
            raise errors.InvalidInput(
                f"a {_NOUN[self.kind]} is named by text or a path, not by a {type(name).__name__}.",
                facts={"name": name},
            )
        if isinstance(name, Path) or name.startswith((".", "/", "~", "\\")) or name.endswith(("/", "\\", SUFFIX)):
            return self._at(Path(name).expanduser())
        if name.startswith(PUBLIC):
            return self._public().find(_on_public(name, self.kind))
        wanted = parse(name)
        places = self._places(wanted.repo)
        if not places and wanted.revision is None and (Path(name) / DOCUMENT[self.kind]).is_file():
            return self._at(Path(name))
        store, repo = self._one(wanted, places)
        try:
            ref = store.resolve(repo, wanted.revision)
        except errors.NotFound as error:
            raise self._with_namesakes(error, repo) from None
        return Found(ref, store, store.yanked(repo).get(str(ref.version)))

    def store_of(self, name: str) -> tuple[Store, str, str | None]:
        """Return the store of the repository a name means, its full name and the revision; errors as :meth:`find`."""
        if name.startswith(PUBLIC):
            return self._public().store_of(_on_public(name, self.kind))
        wanted = parse(name)
        return *self._one(wanted, self._places(wanted.repo)), wanted.revision

    def target(self, name: str) -> tuple[WritableStore, str]:
        """Return the store a push goes to and the repository there; a name that begins with ``hf://`` gives both.

        Raises
        ------
        InvalidInput
            If the name is not ``owner/name``, or none that a new repository can have on every kind of hub.
        TransportError
            If the store is read-only.
        """
        if isinstance(name, str) and name.startswith(PUBLIC):
            return self._public().target(_on_public(name, self.kind))
        repo = repository(name)
        store = writable(self._target, repo)
        try:
            check_new(repo)
        except errors.InvalidInput:
            if not store.holds(repo):  # what somebody made by other means can be pushed to
                raise
        return store, repo

    def listings(self, show: Callable[[Ref, bytes], _Shown], *, all_versions: bool = False) -> list[_Shown]:
        """Return what every release states of itself; one that cannot be read, or a hub, is left out with a warning."""
        listed: list[_Shown] = []
        for store in self.stores:
            try:
                repos = store.repos()
            except errors.TransportError as error:
                if len(self.stores) == 1:
                    raise
                _log.warning("the hub %s is left out: %s", store.address, error)
                continue
            for repo in repos:
                listed += _listed(store, repo, show, all_versions=all_versions)
        return listed

    def _public(self) -> Catalogue:
        return Catalogue([addresses.public(self.kind)], kind=self.kind)

    def _at(self, path: Path) -> Found:
        if path.suffix == SUFFIX and not path.is_dir():
            bundle = BundleFile(path, self.kind)
            return Found(bundle.ref(), bundle)
        folder = PlainFolder(path, self.kind)
        return Found(folder.ref(), folder)

    def _places(self, repo: str) -> list[tuple[Store, str]]:
        """Return every repository with this full name, else every one whose last part it is."""
        exact = ((store, repo) for store in self.stores if store.holds(repo))
        if found := list(islice(exact, 1 if self._ordered else None)):
            return found
        if "/" in repo:
            return []
        held = [(store, full) for store in self.stores for full in store.repos() if full.split("/")[-1] == repo]
        return list({full: (store, full) for store, full in reversed(held)}.values()) if self._ordered else held

    def _one(self, wanted: Name, places: list[tuple[Store, str]]) -> tuple[Store, str]:
        if len(places) == 1:
            return places[0]
        hubs = errors.names(store.address for store in self.stores)
        if not places:
            raise errors.NotFound(
                f"no {_NOUN[self.kind]} is called {wanted.repo!r} in {hubs}.{self._hint()}",
                name=wanted.repo,
                suggestions=_close(wanted.repo, (full for store in self.stores for full in store.repos())),
            )
        where = errors.names(f"{full} in {store.address}" for store, full in places)
        raise errors.NotFound(
            f"{wanted.repo!r} is ambiguous: it could be {where}. Write the full name, or choose one hub with hub=.",
            name=wanted.repo,
            suggestions=sorted({full for _, full in places}),
        )

    def _hint(self) -> str:
        """Return what else may be the reason that a hub on the network does not show something."""
        if not any("://" in store.address for store in self.stores):
            return ""
        if settings.offline():
            return f" {settings.OFFLINE} is set: of hubs on the network, only what is in the cache is known."
        return " What is private on a hub on the network is found with a token that may read it."

    def _with_namesakes(self, error: errors.NotFound, repo: str) -> errors.NotFound:
        """Return the error with the versions that repositories of the same last part have."""
        last = repo.split("/")[-1]
        others = [
            f"{full}@{store.releases(full)[-1].version}"
            for store in self.stores
            for full in store.repos()
            if full != repo and full.split("/")[-1] == last
        ]
        if not others:
            return error
        message = f"{error} Of the same last name there is {errors.names(others)}."
        return errors.NotFound(message, name=error.name)


_NOUN = {"models": "model", "datasets": "data set"}


def _on_public(name: str, kind: RepoType) -> str:
    """Return a name of the public hub without its beginning; InvalidInput if it is a name of the other kind."""
    rest = name.removeprefix(PUBLIC)
    is_dataset = rest.startswith(_DATASETS)
    if is_dataset != (kind == "datasets"):
        verb, other = ("pull", "pull_dataset") if kind == "models" else ("pull_dataset", "pull")
        raise errors.InvalidInput(
            f"{name!r} names a {'data set' if is_dataset else 'model'}: use {other} instead of {verb}. On the "
            "public hub models are hf://owner/name and data sets hf://datasets/owner/name.",
            facts={"name": name},
        )
    return rest.removeprefix(_DATASETS)


def _listed(store: Store, repo: str, show: Callable[[Ref, bytes], _Shown], *, all_versions: bool) -> list[_Shown]:
    try:
        refs = store.releases(repo) if all_versions else [store.resolve(repo)]
        return [show(ref, store.read(ref, DOCUMENT[store.kind])) for ref in refs]
    except (errors.IntegrityError, errors.ManifestError, errors.Restricted) as error:
        _log.warning("%s in %s is left out: %s", repo, store.address, error)
    except errors.NotFound:
        _log.info("%s in %s holds no release", repo, store.address)
    return []


def _close(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that are nearly this one, by full name or by last part."""
    full = {candidate: candidate for candidate in known}
    last = {candidate.split("/")[-1]: candidate for candidate in full}
    matches = get_close_matches(name, [*full, *last], n=3, cutoff=0.6)
    return list(dict.fromkeys(full.get(match) or last[match] for match in matches))

"""Turn a hub's address into a store, with the token that belongs to it.

============================  ===========================================================================
``/data/our-hub``             a folder hub
``bundled``                   the models that come with archzoo
``https://hub.lab.example``   a hub that speaks as the Hugging Face hub does
``hf://``                     the public Hugging Face hub, or the mirror that ``HF_ENDPOINT`` names
``static+https://lab.example/zoo``  a folder that ``archzoo export-static`` wrote, on any web server
============================  ===========================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from hub_client import errors
from hub_client.release.store import RepoType, Store
from hub_client.store import settings
from hub_client.store.cache.downloads import Cache
from hub_client.store.folder.folder_store import FolderStore
from hub_client.store.folder.plain import ADDRESS, BundledStore
from hub_client.store.network.bundles import BundlesWire
from hub_client.store.network.remote import RemoteStore, WritableRemoteStore

PUBLIC = "hf://"
"""The address of the public hub, and the beginning of names on it."""

Address = str | Path
"""A hub's folder, its address on the network, or ``bundled``."""


@dataclass(frozen=True)
class Places:
    """Where names are looked for, in order or all alike; and the one that is pushed to."""

    stores: tuple[Store, ...]
    target: Store
    ordered: bool = False


def default_folder() -> Path:
    """Return the folder hub that is used when none is named: ``$ARCHZOO_HUB``, or one in the user's data folder."""
    named = os.environ.get(settings.HUB)
    if named and "://" not in named:
        return Path(named).expanduser()
    return platformdirs.user_data_path("archzoo") / "hub"


def places(address: Address | None, *, kind: RepoType, token: str | None = None) -> Places:
    """Return where to look for releases of one kind.

    Parameters
    ----------
    address
        A hub; None for what comes with archzoo, then ``$ARCHZOO_HUB``, else the hubs of the config file, else the
        default folder, and last what came as bundles.
    kind
        What is looked for.
    token
        For a hub on the network; None is the one that the environment or the config file has for it.

    Raises
    ------
    InvalidInput
        If it is no address, or a token is given where none belongs.
    Unsupported
        If this version cannot reach that kind of hub.
    """
    if address is not None:
        store = store_at(address, kind=kind, token=token)
        return Places((store,), store)
    if token is not None:
        raise errors.InvalidInput("a token belongs to one hub: give its address too, as in Hub('https://...', token=).")
    hubs, ordered = _hubs()
    stores = {hub: store_at(hub, kind=kind) for hub in hubs}
    target = stores[settings.config().push_to or hubs[0]] if ordered else stores[hubs[0]]
    cache = Cache.default()
    bundles = RemoteStore(BundlesWire(kind=kind, cache=cache), kind=kind, cache=cache)
    came = (bundles,) if bundles.repos() else ()  # what came as bundles, if any did
    return Places((BundledStore(kind=kind), *stores.values(), *came), target, ordered or bool(came))


def store_at(address: Address, *, kind: RepoType, token: str | None = None) -> Store:
    """Return the store at an address; errors as :func:`places`."""
    scheme, separator, _ = str(address).partition("://")
    if separator:
        return _remote(str(address), scheme, kind=kind, token=token)
    if token is not None:
        raise errors.InvalidInput(
            f"{address} is a hub in a folder and takes no token; its permissions state who may read."
        )
    if address == ADDRESS:
        return BundledStore(kind=kind)
    return FolderStore(Path(address).expanduser().absolute(), kind=kind)


def public(kind: RepoType) -> Store:
    """Return the public hub."""
    return store_at(PUBLIC, kind=kind)


def _hubs() -> tuple[list[str], bool]:
    """Return the addresses of the user's hubs, and whether the config file puts them in an order."""
    named = os.environ.get(settings.HUB)
    configured = [] if named else [hub.address for hub in settings.config().hubs]
    if configured:
        return list(dict.fromkeys(configured)), True
    return [named if named and "://" in named else str(default_folder().absolute())], False


def _remote(address: str, scheme: str, *, kind: RepoType, token: str | None) -> Store:
    if scheme not in _HUBS:
        raise errors.Unsupported(
            f"{address!r}: this version of archzoo does not reach {scheme}:// hubs. It reaches folders, https:// (hubs "
            "that speak as the Hugging Face hub does), hf:// (the public one) and static+https:// (exported ones).",
            kind=f"{scheme} hub",
            verb="connect",
        )
    return _HUBS[scheme](address, kind, token)


def _huggingface(address: str, kind: RepoType, token: str | None) -> Store:
    from hub_client.store.network import huggingface

    own = _own_token(address) or huggingface.public_token(address.rstrip("/"))
    wire = huggingface.HuggingFaceWire(address, kind=kind, token=own if token is None else token)
    return WritableRemoteStore(wire, kind=kind, cache=Cache.default())


def _public(address: str, kind: RepoType, token: str | None) -> Store:
    from hub_client.store.network import huggingface

    if address != PUBLIC:
        raise errors.InvalidInput(
            f"{address!r} is a name on the public hub and not a hub: pull it as it is, or name it with hub='hf://'.",
            facts={"hub": address},
        )
    return _huggingface(huggingface.public_address(), kind, token)


def _static(address: str, kind: RepoType, token: str | None) -> Store:
    from hub_client.store.network.static import StaticWire

    wire = StaticWire(address, kind=kind, token=_own_token(address) if token is None else token)
    return RemoteStore(wire, kind=kind, cache=Cache.default())


_HUBS: Mapping[str, Callable[[str, RepoType, str | None], Store]] = {
    "hf": _public,
    "http": _huggingface,
    "https": _huggingface,
    "static+http": _static,
    "static+https": _static,
}


def _own_token(address: str) -> str | None:
    """Return the token that the user keeps for a hub: ``$ARCHZOO_TOKEN`` for ``$ARCHZOO_HUB``, or the config file's."""
    named = os.environ.get(settings.HUB, "").rstrip("/")
    token = os.environ.get(settings.TOKEN)
    if token and named == address.rstrip("/"):
        return token
    hubs = settings.config().hubs
    entry = next((hub for hub in hubs if hub.address.rstrip("/") == address.rstrip("/")), None)
    return entry.token() if entry else None

"""One hub of each kind to push to and pull from, behind the interface of :class:`hub_client.Hub`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub_client.hub.client import Hub
from hub_client.release.store import Ref
from hub_client.store.folder.folder_store import FolderStore
from hub_client.store.network import static
from tests import hubs, served


@contextmanager
def folder(place: Path) -> Iterator[Hub]:
    """A folder."""
    yield Hub(place / "folder")


@contextmanager
def network(place: Path) -> Iterator[Hub]:
    """``archzoo serve`` in a process of its own."""
    with served.served(place / "root") as server:
        yield Hub(server.url, token=server.token("atlas", "write", "atlas", "my-lab"))


@contextmanager
def exported(place: Path) -> Iterator[Hub]:
    """A folder that is pushed to, and exported after every push; all reading is from the web server over the export."""
    with hubs.served(hubs.FolderServer(place / "www")) as server:
        yield Exported(place, f"static+{server.url}")


class Exported(Hub):
    """Pushes to a folder and reads from its static export."""

    def __init__(self, place: Path, address: str) -> None:
        super().__init__(address)
        self._place = place

    def push(self, *arguments: Any, **options: Any) -> Ref:
        ref = Hub(self._place / "folder").push(*arguments, **options)
        static.export([FolderStore(self._place / "folder", kind="models")], self._place / "www")
        return self.resolve(f"{ref.repo}@{ref.commit}")

    def yank(self, name: str, *, reason: str) -> Ref:
        ref = Hub(self._place / "folder").yank(name, reason=reason)
        static.export([FolderStore(self._place / "folder", kind="models")], self._place / "www")
        return ref


KINDS: Mapping[str, Callable[[Path], Any]] = {"folder": folder, "served": network, "static": exported}

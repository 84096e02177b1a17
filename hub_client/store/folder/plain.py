"""Releases that lie about as plain folders: the bundled zoo, and any folder a user names.

Nobody committed them, so the commit id of such a release is the first 40 hex digits of its digest: as unique, and the
same wherever the folder lies.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hub_client import errors
from hub_client.release.ref import Ref
from hub_client.release.store import DOCUMENT, RepoType, stated_version


@dataclass(frozen=True)
class PlainFolder:
    """One release folder that a user names by its path."""

    path: Path
    kind: RepoType

    def ref(self) -> Ref:
        """Return what the folder holds; NotFound if that is no release."""
        document = self.path / DOCUMENT[self.kind]
        if not document.is_file():
            raise errors.NotFound(
                f"{self.path} holds no {document.name}: it is not a release folder.", name=str(self.path)
            )
        return plain_ref(self.path, kind=self.kind, repo=_stated_name(document), hub=str(self.path.absolute()))

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one file of the release."""
        return (self.path / path).read_bytes()

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Copy the release into an empty folder and return it."""
        return copy(self.path, folder)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give the folder itself."""
        yield self.path


def plain_ref(folder: Path, *, kind: RepoType, repo: str, hub: str) -> Ref:
    """Return a ref to a release folder that nobody committed."""
    document = (folder / DOCUMENT[kind]).read_bytes()
    digest = hashlib.sha256(document).hexdigest()
    return Ref(repo, digest[:40], stated_version(document), digest, hub)


def copy(source: Path, folder: Path) -> Path:
    """Copy the plain files of a folder into an empty folder and return that; whoever reads it checks them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, folder / path.name)
    return folder


def _stated_name(document: Path) -> str:
    try:
        return str(json.loads(document.read_bytes())["name"])
    except (ValueError, TypeError, KeyError):
        return document.parent.name

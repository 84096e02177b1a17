"""Releases that lie about as plain folders: the bundled zoo, and any folder a user names.

Nobody committed them, so the commit id of such a release is the first 40 hex digits of its digest: as unique, and the
same wherever the folder lies, or the package is installed. A bundled release lies at ``<root>/<name>/<version>/`` and
has no owner.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hub_client import _resources, errors
from hub_client.release import yanks
from hub_client.release.names import is_version, semver
from hub_client.release.repository import Repository
from hub_client.release.store import DOCUMENT, Entry, Logged, Ref, RepoType, stated_version

ADDRESS = "bundled"


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


class BundledStore:
    """The bundled zoo, read-only: a :class:`~hub_client.release.store.Store` over plain release folders."""

    def __init__(self, root: Path | None = None, *, kind: RepoType = "models") -> None:
        self.kind: RepoType = kind
        self.address = ADDRESS
        self._root = root or _resources.released()

    def repos(self) -> list[str]:
        """Return the names of all bundled models, sorted."""
        return sorted({path.parent.name for path in self._folders("*")})

    def holds(self, repo: str) -> bool:
        """Return whether a model of this name comes with archzoo."""
        return repo in self.repos()

    def releases(self, repo: str) -> list[Ref]:
        """Return every bundled version, the newest last."""
        return self._repository(repo).releases()

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several."""
        return self._repository(repo).resolve(revision)

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one file of a release."""
        return (self._folder(ref) / path).read_bytes()

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Copy a release's files into a new or empty folder and return it."""
        return copy(self._folder(ref), folder)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give the folder itself."""
        yield self._folder(ref)

    def history(self, repo: str) -> list[Entry]:
        """Return every bundled version, the newest first."""
        return self._repository(repo).history()

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        path = self._root / repo / yanks.FILE
        return yanks.reasons(yanks.read(path.read_bytes(), source=repo)) if path.is_file() else {}

    def private(self, repo: str) -> bool:
        """Return False: everybody who has archzoo has these."""
        return False

    def _repository(self, repo: str) -> Repository:
        refs = [plain_ref(folder, repo=repo, hub=ADDRESS, kind=self.kind) for folder in self._folders(repo)]
        if not refs:
            raise errors.NotFound(f"no model {repo!r} comes with archzoo.", name=repo, suggestions=self.repos())
        newest_first = sorted(refs, key=lambda ref: semver(str(ref.version)), reverse=True)
        digests = {ref.commit: ref.digest for ref in refs}
        return Repository(
            repo,
            ADDRESS,
            self.kind,
            branches={},
            tags={str(ref.version): ref.commit for ref in refs},
            document=lambda commit: None,
            digest=digests.get,
            line=lambda tip: [Logged(ref.commit) for ref in newest_first],
            yanked=lambda: self.yanked(repo),
        )

    def _folders(self, name: str) -> list[Path]:
        documents = self._root.glob(f"{name}/*/{DOCUMENT[self.kind]}")
        return [path.parent for path in documents if is_version(path.parent.name)]

    def _folder(self, ref: Ref) -> Path:
        return self._root / ref.repo / str(ref.version)

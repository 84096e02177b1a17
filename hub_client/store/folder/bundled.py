"""The bundled zoo: the releases that come with this package, read-only.

A bundled release lies at ``<root>/<name>/<version>/`` and has no owner. Its commit id is that of any plain folder: the
first 40 hex digits of its digest, the same wherever the package is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hub_client import _resources, errors
from hub_client.release import yanks
from hub_client.release.names import is_version, semver
from hub_client.release.ref import Ref
from hub_client.release.repository import Repository
from hub_client.release.store import DOCUMENT, Entry, Logged, RepoType
from hub_client.store.folder import plain

ADDRESS = "bundled"


class BundledStore:
    """A :class:`~hub_client.release.store.Store` over plain release folders."""

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
        return plain.copy(self._folder(ref), folder)

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

    def _repository(self, repo: str) -> Repository:
        refs = [plain.plain_ref(folder, repo=repo, hub=ADDRESS, kind=self.kind) for folder in self._folders(repo)]
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

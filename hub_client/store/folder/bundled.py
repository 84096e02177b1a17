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
from hub_client.release.store import DOCUMENT, Entry, Kind, choose
from hub_client.store.folder import plain

ADDRESS = "bundled"


class BundledStore:
    """A :class:`~hub_client.release.store.Store` over plain release folders."""

    def __init__(self, root: Path | None = None, *, kind: Kind = "models") -> None:
        self.kind: Kind = kind
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
        folders = sorted(self._folders(repo), key=lambda folder: semver(folder.name))
        if not folders:
            raise errors.NotFound(f"no model {repo!r} comes with archzoo.", name=repo, suggestions=self.repos())
        return [plain.plain_ref(folder, repo=repo, hub=ADDRESS, kind=self.kind) for folder in folders]

    def resolve(self, repo: str, revision: str | None = None) -> Ref:
        """Return the release a revision names, or the newest; NotFound if there is none, or several."""
        refs = {ref.commit: ref for ref in self.releases(repo)}
        versions = {str(ref.version): ref.commit for ref in refs.values()}
        return refs[
            choose(
                repo,
                revision,
                versions=versions,
                names={},
                history=lambda: self.history(repo),
                yanked=self.yanked(repo),
            )
        ]

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

    def commit(self, repo: str, folder: Path, *, message: str, parent: str | None) -> Ref:
        """Refuse: the bundled zoo changes only with the package."""
        raise errors.TransportError(
            f"{repo!r} cannot be pushed to the bundled zoo, which is read-only. Push to a folder hub as owner/name, "
            f"for example my-lab/{repo.split('/')[-1]}."
        )

    def history(self, repo: str) -> list[Entry]:
        """Return every bundled version, the newest first."""
        return [Entry(ref.commit, ref.version, ref.digest, "", None) for ref in reversed(self.releases(repo))]

    def yanked(self, repo: str) -> Mapping[str, str]:
        """Return the versions that were yanked, and why."""
        path = self._root / repo / yanks.FILE
        return yanks.reasons(yanks.read(path.read_bytes(), source=repo)) if path.is_file() else {}

    def yank(self, repo: str, version: str, *, reason: str) -> Ref:
        """Refuse: the bundled zoo changes only with the package."""
        raise errors.TransportError(f"{repo}@{version} is in the bundled zoo, which is read-only: it cannot be yanked.")

    def _folders(self, name: str) -> list[Path]:
        documents = self._root.glob(f"{name}/*/{DOCUMENT[self.kind]}")
        return [path.parent for path in documents if is_version(path.parent.name)]

    def _folder(self, ref: Ref) -> Path:
        return self._root / ref.repo / str(ref.version)

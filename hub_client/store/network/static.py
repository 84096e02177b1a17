"""The static hub: a folder that any web server or bucket publishes, and how it is read over plain HTTP.

::

    archzoo.json                        the repositories there are
    <models|datasets>/<owner>/<name>.json  a repository's versions and history; see cache/repositories.py
    blobs/<aa>/<sha256>                 every file of every release, once

Nobody pushes to it: :func:`export` writes it from other hubs, again whenever they have changed. A file of it is never
changed, but for the lists, and these come last: whoever reads meanwhile gets the old state or the new one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hub_client import errors
from hub_client.files import atomic
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release.files import Wanted, files_of
from hub_client.release.store import DOCUMENT, Entry, Logged, RepoType, Store
from hub_client.store.cache.repositories import RepositoryRecord, read
from hub_client.store.network import http
from hub_client.store.network.http import Answer, Client
from hub_client.store.network.remote import Heads
from hub_client.store.network.stream import Stream

_log = logging.getLogger(__name__)

SCHEME = "static+"
"""Before ``https://`` in the address of a static hub."""
INDEX = "archzoo.json"
_LARGEST = 64 << 20
_Model = TypeVar("_Model", bound=BaseModel)


class Index(BaseModel):
    """The repositories of a static hub, by full name."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    def of(self, kind: RepoType) -> tuple[str, ...]:
        """Return the repositories of one kind."""
        return {"models": self.models, "datasets": self.datasets}[kind]


class StaticWire:
    """A :class:`~hub_client.store.network.remote.Wire` to a static hub."""

    def __init__(self, address: str, *, kind: RepoType, token: str | None) -> None:
        self._client = Client(address.removeprefix(SCHEME), token=token)
        self.address = SCHEME + self._client.url
        self._kind: RepoType = kind

    def repos(self) -> list[str]:
        """Return the repositories that the index names."""
        answer = self._client.get(INDEX, limit=_LARGEST)
        if answer.status != 200:
            raise errors.TransportError(
                f"there is no static hub at {self.address}: {INDEX} is answered with {answer.status}. Its address is "
                "that of the folder that archzoo export-static wrote."
            )
        return list(_validated(Index, answer, source=f"{self.address}/{INDEX}").of(self._kind))

    def heads(self, repo: str) -> Heads | None:
        """Return where the repository's names point."""
        record = self._record(repo)
        return Heads(record.branches, record.tags, {}, record.yanked) if record else None

    def log(self, repo: str) -> list[Logged]:
        """Return the commits of the main branch."""
        record = self._record(repo)
        return list(record.log) if record else []

    def private(self, repo: str) -> bool:
        """Return False: what was exported is published."""
        return False

    def document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document, if it has the digest that the repository's list states."""
        record = self._record(repo)
        digest = record.digests.get(commit) if record else None
        if digest is None:
            return None
        answer = self._client.get(_blob(digest), limit=MAX_BYTES, elsewhere=True)
        actual = hashlib.sha256(answer.body).hexdigest()
        if answer.status != 200 or actual != digest:
            found = "is missing" if answer.status != 200 else f"has sha256 {actual}"
            raise errors.IntegrityError(
                f"{_blob(digest)} in {self.address}, the document of {repo}, commit {commit[:12]}, {found}."
                " The folder is not whole: export it again.",
                file=DOCUMENT[self._kind],
                expected=digest,
                actual=actual,
            )
        return answer.body

    def stream(self, repo: str, commit: str, file: Wanted, start: int) -> AbstractContextManager[Stream]:
        """Give a file."""
        return self._client.stream(_blob(file.sha256), start=start, size=file.size)

    def _record(self, repo: str) -> RepositoryRecord | None:
        answer = self._client.get(f"{self._kind}/{repo}.json", limit=_LARGEST)
        if answer.status in (403, 404):  # a bucket that may not be listed answers 403 for what is not there
            return None
        return _validated(RepositoryRecord, answer, source=f"{self.address}/{self._kind}/{repo}.json")


@dataclass(frozen=True)
class Exported:
    """What an export wrote: repositories and releases in the folder now, bytes that are new in it, and what is not."""

    repositories: int
    releases: int
    written: int
    private: tuple[str, ...] = ()
    """Repositories that were left out because their hub shows them to some only."""


def export(
    stores: Iterable[Store], folder: Path, *, only: Iterable[str] = (), include_private: bool = False
) -> Exported:
    """Write or refresh a static hub in a folder.

    Parameters
    ----------
    stores
        Where to take repositories from.
    folder
        A new folder, or one that was exported to before: files that are there already are not written again.
    only
        Full names; none means all.
    include_private
        Whether to publish also what its hub shows to some only. Else it is left out, and no longer listed where an
        earlier export has it.

    Raises
    ------
    NotFound
        If no store has a repository of a name in ``only``, or what it tags as a version is no release.
    InvalidInput
        If a repository of a name in ``only`` is private.
    IntegrityError
        If a release is damaged.
    TransportError
        If the folder cannot be written.
    """
    wanted, releases, written = set(only), 0, 0
    found: dict[RepoType, list[str]] = {"models": [], "datasets": []}
    with atomic.writing(f"the folder {folder}", otherwise="choose another one"):
        held = [(store, repo) for store in stores for repo in store.repos() if not wanted or repo in wanted]
        hidden = [] if include_private else [(store, repo) for store, repo in held if store.private(repo)]
        _leave_out(hidden, folder, named=bool(wanted))
        for store, repo in held:
            if (store, repo) not in hidden and (done := _exported(store, repo, folder, named=bool(wanted))):
                _replace(folder / store.kind / f"{repo}.json", done.record.model_dump_json(indent=1).encode())
                found[store.kind].append(repo)
                releases += len(done.record.digests)
                written += done.written
        if missing := wanted.difference(*found.values()):
            name = sorted(missing)[0]
            raise errors.NotFound(f"no hub that is exported has {errors.names(sorted(missing))}.", name=name)
        for kind, names in found.items():  # and what earlier exports wrote
            names += [known.repo for path in (folder / kind).glob("*/*.json") if (known := read(path))]
        kept = {kind: tuple(sorted(set(names))) for kind, names in found.items()}
        _replace(folder / INDEX, Index.model_validate(kept).model_dump_json(indent=1).encode())
    return Exported(sum(map(len, kept.values())), releases, written, tuple(sorted({repo for _, repo in hidden})))


def _leave_out(hidden: Iterable[tuple[Store, str]], folder: Path, *, named: bool) -> None:
    """Refuse private repositories that were named; take others out of what an earlier export lists."""
    for store, repo in hidden:
        if named:
            raise errors.InvalidInput(
                f"{repo} is private in {store.address}, and a static hub shows what it has to everybody. Make it "
                "public there first; or, where only those may read the folder who may read this, pass "
                "include_private=True (archzoo export-static --include-private).",
                facts={"only": repo},
            )
        listed = folder / store.kind / f"{repo}.json"
        if listed.exists():
            listed.unlink()
            _log.warning(
                "%s is private now and is no longer listed; its files are still in %s, for whoever knows their hashes. "
                "Export to a new folder to be rid of them.",
                *(repo, folder / "blobs"),
            )


@dataclass(frozen=True)
class _Done:
    record: RepositoryRecord
    written: int


def _exported(store: Store, repo: str, folder: Path, *, named: bool) -> _Done | None:
    """Write the releases of a repository, and return what there is; None where it has none that can be read.

    Anybody may commit to a served hub by other means: a commit that is no whole release is left out, but not one that
    is tagged as a version, whose damage is an error.
    """
    try:
        record, written = _record(store, repo), 0
        versions, lost = set(record.tags.values()), set()
        for commit in sorted(record.digests, key=lambda commit: commit not in versions):
            try:
                written += _export_release(store, record, commit, folder)
            except (errors.IntegrityError, errors.ManifestError) as error:
                if commit in versions:
                    raise
                lost.add(commit)
                _log.warning("commit %s of %s is left out: %s", commit[:12], repo, error)
    except (errors.ManifestError, errors.NotFound) as error:
        if named:
            raise
        _log.warning("%s in %s is left out: %s", repo, store.address, error)
        return None
    return _Done(_without(record, lost), written)


def _without(record: RepositoryRecord, lost: Container[str]) -> RepositoryRecord:
    log = tuple(one for one in record.log if one.commit not in lost)
    digests = {commit: digest for commit, digest in record.digests.items() if commit not in lost}
    return record.model_copy(update={"log": log, "digests": digests, "branches": _main(log)})


def _main(log: Sequence[Logged | Entry]) -> dict[str, str]:
    return {"main": log[0].commit} if log else {}


def _record(store: Store, repo: str) -> RepositoryRecord:
    """Return what a store knows of a repository, as a static hub states it."""
    entries = [entry for entry in store.history(repo) if entry.digest]  # a served hub begins with one that has none
    releases = store.releases(repo)
    digests = {entry.commit: entry.digest for entry in entries} | {ref.commit: ref.digest for ref in releases}
    return RepositoryRecord(
        hub="",
        kind=store.kind,
        repo=repo,
        branches=_main(entries),
        tags={str(ref.version): ref.commit for ref in releases},
        yanked=store.yanked(repo),
        log=tuple(Logged(commit=entry.commit, message=entry.message, date=entry.date) for entry in entries),
        digests=digests,
    )


def _export_release(store: Store, record: RepositoryRecord, commit: str, folder: Path) -> int:
    """Write the files of a release that are not there yet, and return their bytes."""
    digest = record.digests[commit]
    if (folder / _blob(digest)).exists():  # the document comes last
        return 0
    ref = store.resolve(record.repo, commit)
    with store.opened(ref) as release:
        document = (release / DOCUMENT[store.kind]).read_bytes()
        wanted = files_of(document, source=str(ref))
        written = sum(_export_file(folder, file, release / file.name) for file in wanted)
    _replace(folder / _blob(digest), document)
    return written + len(document)


def _export_file(folder: Path, file: Wanted, source: Path) -> int:
    target = folder / _blob(file.sha256)
    if target.exists():
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = atomic.stage(atomic.chunks(source), staging=target.parent)
    actual = atomic.sha256(staged)
    if actual != file.sha256:
        staged.unlink()
        raise errors.IntegrityError(
            f"{file.name} should have sha256 {file.sha256} but has {actual}. Nothing of this release was exported.",
            file=file.name,
            expected=file.sha256,
            actual=actual,
        )
    atomic.publish(staged, target)
    return file.size


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        atomic.write(path, content)


def _blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _validated(model: type[_Model], answer: Answer, *, source: str) -> _Model:
    found = http.parsed(answer, limit=_LARGEST, source=source)
    try:
        return model.model_validate(found)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise errors.IntegrityError(
            f"{source}, {where}: {error.errors()[0]['msg']}. It was not used.",
            file=source,
        ) from None

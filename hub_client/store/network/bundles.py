"""Releases as one file, to carry to machines without a network: a plain tar, and the hub they are kept in there.

::

    archzoo.json         which release it is
    manifest.json        the document (of a data set: dataset.json)
    model.safetensors    the files that the document names, and no others

A tar from somewhere is read as 512-byte headers of plain files with plain names, each of the size that the document
names; a link, a device, a path or a header of any other kind ends the reading before anything is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, Field, ValidationError

from hub_client import errors
from hub_client.files import atomic
from hub_client.manifest import _json
from hub_client.manifest.reading import MAX_BYTES
from hub_client.manifest.scalars import Commit, Sha256
from hub_client.release import files as release_files
from hub_client.release.files import Wanted
from hub_client.release.names import is_file, is_repository
from hub_client.release.store import DOCUMENT, Logged, Ref, RepoType, Source, stated_version
from hub_client.store.cache.downloads import Cache
from hub_client.store.cache.repositories import RepositoryCache
from hub_client.store.network.remote import Heads
from hub_client.store.network.stream import Stream

SUFFIX = ".tar"
ADDRESS = "bundles"
"""The hub of what came as bundles, in the cache."""
RECORD = "archzoo.json"

_BLOCK = 512
_MOST_RECORD = 1 << 16
_CHUNK = 1 << 20


class Record(BaseModel):
    """Which release a bundle holds."""

    format: Literal[1] = 1
    kind: RepoType
    repo: Annotated[str, Field(max_length=200)]
    commit: Commit
    version: str | None = None
    digest: Sha256
    hub: str = ""


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, where its bytes begin, and how many they are."""

    name: str
    offset: int
    size: int


def write(source: Source, ref: Ref, target: Path, *, kind: RepoType) -> Path:
    """Write a release as a bundle, which appears whole or not at all, and return its path.

    Raises
    ------
    IntegrityError
        If the release is damaged.
    InvalidInput
        If something lies at ``target`` already.
    TransportError
        If it cannot be written.
    """
    if target.exists():
        raise errors.InvalidInput(f"{target} exists already. Choose another file.", facts={"out": target})
    record = Record(kind=kind, **asdict(ref))
    with source.opened(ref) as folder, atomic.staged_file(target) as staged:
        document = (folder / DOCUMENT[kind]).read_bytes()
        with tarfile.open(staged, "w", format=tarfile.GNU_FORMAT) as tar:
            _add(tar, RECORD, io.BytesIO((json.dumps(record.model_dump(), indent=1) + "\n").encode()))
            _add(tar, DOCUMENT[kind], io.BytesIO(document))
            for file in release_files.files_of(document, source=str(ref)):
                if not (folder / file.name).exists():  # a whole release that hubs keep as a delta has no delta
                    raise errors.InvalidInput(
                        f"{ref} is kept as a delta, and the folder {folder} holds the whole of it. Bundle it by its "
                        "name in a hub, and its parent too.",
                        facts={"name": str(folder)},
                    )
                with (folder / file.name).open("rb") as content:
                    _add(tar, file.name, content)
    return target


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO) -> None:
    """Add a file; undated and nobody's, so that the same release gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    tar.addfile(info, content)


@dataclass(frozen=True)
class BundleFile:
    """One bundle that a user names by its path; a :class:`~hub_client.release.store.Source`."""

    path: Path
    kind: RepoType

    def ref(self) -> Ref:
        """Return which release it holds, as its document states; the commit is what the bundle states.

        Raises
        ------
        NotFound
            If there is no such file.
        IntegrityError
            If it is no bundle.
        """
        if not self.path.is_file():
            raise errors.NotFound(f"there is no file {self.path}.", name=str(self.path))
        with self._members() as (file, members):
            record, document = self._record(file, members), self._document(file, members)
        digest = hashlib.sha256(document).hexdigest()
        stated = (self.kind, digest, stated_version(document) or record.version)
        if (record.kind, record.digest, record.version or stated[2]) != stated:
            raise self._broken("is not the release that its record names")
        return Ref(record.repo, record.commit, record.version, digest, str(self.path.absolute()))

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one file of the release."""
        with self._members() as (file, members):
            if path == DOCUMENT[self.kind]:
                return self._document(file, members)
            wanted = {one.name: one for one in self._wanted(file, members)}.get(path)
            if wanted is None:
                raise errors.NotFound(f"{self.path} has no file {path!r}.", name=path)
            return b"".join(_pieces(file, members[path]))

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write the release into a new or empty folder, every hash checked, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._members() as (file, members):
            document = self._document(file, members)
            for wanted in self._wanted(file, members):
                self._extract(file, members[wanted.name], wanted, folder / wanted.name)
        atomic.create(folder / DOCUMENT[self.kind], [document])
        return folder

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give a folder to read the release from while the context lasts."""
        with TemporaryDirectory(prefix="archzoo-") as folder:
            yield self.fetch(ref, Path(folder) / "release")

    def keep(self, cache: Cache) -> Ref:
        """Put the release into the cache, where it is found by its name, and return it.

        Raises
        ------
        IntegrityError
            If a file is not the one that the release names.
        """
        ref = self.ref()
        repo = ref.repo if "/" in ref.repo else f"bundled/{ref.repo}"
        if not is_repository(repo):
            raise self._broken("names no repository")
        with self._members() as (file, members):
            for wanted in self._wanted(file, members):
                cache.fill(wanted, partial(_streamed, file, members[wanted.name]))
            cache.put(self._document(file, members))
        known = RepositoryCache(cache, ADDRESS, self.kind)
        before = known.known(repo)
        named = {ref.version: ref.commit} if ref.version else {f"bundle-{ref.commit[:12]}": ref.commit}
        tags = (dict(before.tags) if before else {}) | named
        log = (Logged(commit=ref.commit), *(one for one in (before.log if before else ()) if one.commit != ref.commit))
        known.note(repo, tags=tags, log=log, digests={ref.commit: ref.digest})
        return Ref(repo, ref.commit, ref.version, ref.digest, ADDRESS)

    @contextmanager
    def _members(self) -> Iterator[tuple[BinaryIO, dict[str, Member]]]:
        with self.path.open("rb") as file:
            yield file, self._listed(file)

    def _listed(self, file: BinaryIO) -> dict[str, Member]:
        """Return the members of a tar, read header by header; whatever is not a plain file ends it."""
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        found: dict[str, Member] = {}
        while (header := file.read(_BLOCK)).strip(b"\0"):
            member = self._member(header, file.tell(), end)
            if member.name in found or len(found) > release_files.MOST_FILES:
                raise self._broken(f"holds {member.name!r} twice, or too many files")
            found[member.name] = member
            file.seek(member.offset + -(-member.size // _BLOCK) * _BLOCK)
        return found

    def _member(self, header: bytes, offset: int, end: int) -> Member:
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.TarError, ValueError):
            raise self._broken("is not a bundle that archzoo wrote") from None
        plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.linkname
        if not plain or not is_file(info.name) or not 0 <= info.size <= end - offset:
            raise self._broken(f"holds {info.name!r:.80}, which is not a whole plain file with a plain name")
        return Member(info.name, offset, info.size)

    def _record(self, file: BinaryIO, members: dict[str, Member]) -> Record:
        data = self._small(file, members, RECORD, limit=_MOST_RECORD)
        try:
            return Record.model_validate(_json.strict(data, limit=_MOST_RECORD))
        except (ValidationError, ValueError):
            raise self._broken(f"has a {RECORD} that names no release") from None

    def _document(self, file: BinaryIO, members: dict[str, Member]) -> bytes:
        return self._small(file, members, DOCUMENT[self.kind], limit=MAX_BYTES)

    def _small(self, file: BinaryIO, members: dict[str, Member], name: str, *, limit: int) -> bytes:
        member = members.get(name)
        if member is None or member.size > limit:
            kinds = {"models": "model", "datasets": "data set"}
            raise self._broken(f"holds no {name}: it is no bundle of a {kinds[self.kind]}")
        return b"".join(_pieces(file, member))

    def _wanted(self, file: BinaryIO, members: dict[str, Member]) -> tuple[Wanted, ...]:
        """Return the files that the document names, after checking that the tar holds these and no others."""
        wanted = release_files.files_of(self._document(file, members), source=str(self.path))
        sizes = {name: member.size for name, member in members.items() if name not in (RECORD, DOCUMENT[self.kind])}
        if sizes != {one.name: one.size for one in wanted}:
            raise self._broken(f"holds {errors.names(sorted(sizes))}, which are not the files of the release")
        return wanted

    def _extract(self, file: BinaryIO, member: Member, wanted: Wanted, target: Path) -> None:
        digest = hashlib.sha256()
        with target.open("xb") as out:
            for piece in _pieces(file, member):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != wanted.sha256:
            target.unlink()
            raise self._broken(f"has a damaged {wanted.name}")

    def _broken(self, fault: str) -> errors.IntegrityError:
        return errors.IntegrityError(
            f"{self.path} {fault}. Nothing of it was used; bundle the release again with archzoo bundle.",
            file=str(self.path),
        )


class BundlesWire:
    """The releases that came as bundles, as a :class:`~hub_client.store.network.remote.Wire` that ends in the cache."""

    address = ADDRESS

    def __init__(self, *, kind: RepoType, cache: Cache) -> None:
        self._known = RepositoryCache(cache, ADDRESS, kind)

    def repos(self) -> list[str]:
        """Return the repositories of which a bundle came."""
        return self._known.repos()

    def heads(self, repo: str) -> Heads | None:
        """Return the versions that came."""
        record = self._known.known(repo)
        return Heads(record.branches, record.tags, {}, {}) if record else None

    def log(self, repo: str) -> list[Logged]:
        """Return the commits that came, the last first."""
        record = self._known.known(repo)
        return list(record.log) if record else []

    def private(self, repo: str) -> bool:
        """Return False: whoever has the files has them."""
        return False

    def document(self, repo: str, commit: str) -> bytes | None:
        """Return None: what is not in the cache has not come."""
        return None

    def stream(self, repo: str, commit: str, file: Wanted, start: int) -> AbstractContextManager[Stream]:
        """Refuse: what is not in the cache has not come."""
        raise errors.TransportError(
            f"{file.name} of {repo}, commit {commit[:12]}, came as a bundle and is no longer whole in the cache. Pull "
            "the bundle again: archzoo pull file.tar."
        )


def _pieces(file: BinaryIO, member: Member, start: int = 0) -> Iterator[bytes]:
    file.seek(member.offset + start)
    left = member.size - start
    while left and (piece := file.read(min(left, _CHUNK))):
        left -= len(piece)
        yield piece


def _streamed(file: BinaryIO, member: Member, start: int) -> AbstractContextManager[Stream]:
    return nullcontext(Stream(start, {}, _pieces(file, member, start)))

"""What a push would change, without pushing: files, and the manifest field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hub_client.hub.prepare import Prepared
from hub_client.manifest import _json
from hub_client.manifest.inheritance import comparable
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release import files as release_files
from hub_client.release.changes import Change, changes
from hub_client.release.folder import MANIFEST
from hub_client.release.store import Ref, Store


@dataclass(frozen=True)
class FileChange:
    """A file that a push would send, keep or remove, and its bytes."""

    name: str
    what: Literal["new", "changed", "same", "removed"]
    size: int


@dataclass(frozen=True)
class Preview:
    """What a push would do: where it would go, and which files and fields of the manifest it would change."""

    repo: str
    version: str
    hub: str
    parent: Ref | None
    """The release it would follow, which files and fields are compared with; None for the first of a repository."""
    files: tuple[FileChange, ...]
    fields: tuple[Change, ...]


def preview(prepared: Prepared, store: Store, repo: str) -> Preview:
    """Return what releasing a prepared folder would change in a repository."""
    after = (prepared.folder / MANIFEST).read_bytes()
    parent = store.resolve(repo, prepared.follows) if prepared.follows else None
    before = store.read(parent, MANIFEST) if parent else b"{}"
    return Preview(
        repo,
        prepared.version,
        store.address,
        parent,
        tuple(_files(prepared.folder, before, after)),
        tuple(change.shown() for change in changes(*comparable(before, after, parsed=_parsed))),
    )


def _parsed(document: bytes) -> dict[str, Any]:
    found = _json.strict(document, limit=MAX_BYTES)
    return {key: value for key, value in found.items() if key != "files"}  # which are listed apart


def _files(folder: Path, before: bytes, after: bytes) -> Iterator[FileChange]:
    old = {file.name: file for file in release_files.files_of(before, source="the release before")}
    new = {file.name: file for file in release_files.files_of(after, source=str(folder))}
    yield FileChange(MANIFEST, "changed" if old else "new", len(after))
    for name, file in sorted(new.items()):
        same = name in old and old[name].sha256 == file.sha256
        yield FileChange(name, "same" if same else "changed" if name in old else "new", file.size)
    for name in sorted(old.keys() - new.keys()):
        yield FileChange(name, "removed", old[name].size)

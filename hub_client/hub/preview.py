"""What a push would change, without pushing: files, and the manifest field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hub_client import errors
from hub_client.hub.prepare import Prepared
from hub_client.manifest import _json
from hub_client.manifest.reading import MAX_BYTES
from hub_client.release import files as release_files
from hub_client.release.ref import Ref
from hub_client.release.store import Store

_LONGEST = 60


@dataclass(frozen=True)
class FileChange:
    """A file that a push would send, keep or remove, and its bytes."""

    name: str
    what: Literal["new", "changed", "same", "removed"]
    size: int


@dataclass(frozen=True)
class FieldChange:
    """A field of the manifest, by its path; before and after as short text, None where it is absent."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Preview:
    """What a push would do.

    Attributes
    ----------
    repo, version, hub
        Where it would go.
    parent
        The release it would follow, which files and fields are compared with; None for the first of a repository.
    files, fields
        What would change.
    """

    repo: str
    version: str
    hub: str
    parent: Ref | None
    files: tuple[FileChange, ...]
    fields: tuple[FieldChange, ...]


def preview(prepared: Prepared, store: Store, repo: str) -> Preview:
    """Return what releasing a prepared folder would change in a repository."""
    after = (prepared.folder / prepared.document).read_bytes()
    parent = store.resolve(repo, prepared.follows) if prepared.follows else None
    before = store.read(parent, prepared.document) if parent else b"{}"
    return Preview(
        repo,
        prepared.version,
        store.address,
        parent,
        tuple(_files(prepared.folder, before, after, document=prepared.document)),
        tuple(fields(_parsed(before), _parsed(after))),
    )


def fields(before: Any, after: Any, *, path: str = "") -> Iterator[FieldChange]:
    """Return the fields in which two documents differ, in the order of their paths.

    Tables are compared field by field; of lists it is told how long they are and what came or went.
    """
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from fields(before.get(key), after.get(key), path=f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and (both := _named(before, after)):
        yield from fields(*both, path=path)
    elif isinstance(before, list) and isinstance(after, list):
        yield FieldChange(path, *_lists(before, after))
    else:
        yield FieldChange(path, _short(before), _short(after))


def _named(before: list[Any], after: list[Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return two short lists of tables by the names of their entries, in one order; None for other lists."""
    for name in ("key", "path", "name"):
        if len(before) + len(after) <= 2 * release_files.MOST_FILES and _has(name, [*before, *after]):
            left, right = ({entry[name]: entry for entry in entries} for entries in (before, after))
            if len(left) == len(before) and len(right) == len(after) and left != right:
                return left, right
    return None


def _has(name: str, entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and isinstance(entry.get(name), str) for entry in entries)


def _lists(before: list[Any], after: list[Any]) -> tuple[str, str]:
    texts = [
        [json.dumps(entry, sort_keys=True, ensure_ascii=False) for entry in entries] for entries in (before, after)
    ]
    old, new = set(texts[0]), set(texts[1])
    gone = [text for text in texts[0] if text not in new]
    came = [text for text in texts[1] if text not in old]
    if not gone and not came:
        return f"{len(before):,} entries", f"{len(after):,} entries, in another order or number"
    return _told(len(before), gone, "gone"), _told(len(after), came, "new")


def _told(count: int, which: list[str], what: str) -> str:
    shown = f", {what}: {errors.names((text[:_LONGEST] for text in which), shown=3)}" if which else ""
    return f"{count:,} {'entry' if count == 1 else 'entries'}{shown}"


def _short(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        return f"{len(value):,} {'entry' if len(value) == 1 else 'entries'}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 2 * _LONGEST else text[: 2 * _LONGEST - 1] + "…"


def _parsed(document: bytes) -> dict[str, Any]:
    found = _json.strict(document, limit=MAX_BYTES)
    return {key: value for key, value in found.items() if key != "files"}  # files are told apart


def _files(folder: Path, before: bytes, after: bytes, *, document: str) -> Iterator[FileChange]:
    old = {file.name: file for file in release_files.files_of(before, source="the release before")}
    new = {file.name: file for file in release_files.files_of(after, source=str(folder))}
    yield FileChange(document, "changed" if old else "new", len(after))
    for name, file in sorted(new.items()):
        same = name in old and old[name].sha256 == file.sha256
        yield FileChange(name, "same" if same else "changed" if name in old else "new", file.size)
    for name in sorted(old.keys() - new.keys()):
        yield FileChange(name, "removed", old[name].size)

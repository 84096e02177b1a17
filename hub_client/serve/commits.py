"""A commit as the client sends it: one JSON object a line, applied to a branch in one step."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from dulwich.objects import Blob

from hub_client.release.names import SHA256
from hub_client.serve import commit_tree, repository_names
from hub_client.serve.quota import LARGEST_REGULAR, MOST_FILES
from hub_client.serve.refusals import Refused
from hub_client.serve.request import parsed_json
from hub_client.store.folder import git, lfs

_LONGEST_LINE = 4 * LARGEST_REGULAR // 3 + 8192
_LONGEST_MESSAGE = 64 * 2**10
_BATCH = 32 * 2**20
"""Bytes of files that are held in memory before they are written."""
_ESCAPED = re.compile(r"([\\*?\[\]!#\"])")


@dataclass(frozen=True)
class Header:
    """What a commit states of itself: its message, and the commit it must follow or None."""

    message: str
    parent: str | None


@dataclass
class Draft:
    """A commit in the making: path to object, and the files not yet written."""

    repository: git.Repository
    paths: dict[str, str]
    waiting: list[Blob] = field(default_factory=list)
    held: int = 0
    large: set[str] = field(default_factory=set)

    def put(self, path: str, data: bytes) -> None:
        """Add a file."""
        blob = Blob.from_string(data)
        self.waiting.append(blob)
        self.held += len(data)
        self.paths[path] = blob.id.decode()
        self.large.discard(path)
        if self.held >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the files that wait."""
        self.repository.put_all(self.waiting)
        self.waiting, self.held = [], 0


def header(lines: Iterator[dict[str, Any]]) -> Header:
    """Return the first line of a commit."""
    first = next(lines, {})
    value = first.get("value")
    if first.get("key") != "header" or not isinstance(value, dict):
        raise Refused(400, "a commit begins with a line whose key is header.")
    summary, description = value.get("summary") or "", value.get("description") or ""
    parent = value.get("parentCommit")
    if not isinstance(summary, str) or not isinstance(description, str) or not isinstance(parent, str | None):
        raise Refused(400, "summary, description and parentCommit of a commit should be text.")
    message = f"{summary.strip() or 'Update'}\n\n{description.strip()}".strip().replace("\0", "")
    if len(message) > _LONGEST_MESSAGE:
        raise Refused(400, f"a commit's message may have {_LONGEST_MESSAGE:,} characters.")
    return Header(message, parent or None)


def lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Return the lines of a commit's request, read one at a time."""
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise Refused(
                413, f"a file of over {LARGEST_REGULAR:,} bytes is uploaded as a large file, not within the commit."
            )
        if line.strip():
            yield parsed_json(line, what="a line of the commit")


def apply(repository: git.Repository, base: str | None, operations: Iterator[dict[str, Any]]) -> bytes:
    """Store what the operations make of a commit's files, and return the id of the new tree.

    Raises
    ------
    Refused
        If an operation is malformed, names a file that is not there or a large file that was never received here, or
        the files could not lie in one folder.
    """
    draft = Draft(repository, commit_tree.files(repository, base) if base else {})
    for count, operation in enumerate(operations, start=1):
        if count > MOST_FILES:
            raise Refused(413, f"a commit may change {MOST_FILES:,} files; make several.")
        _applied(draft, operation)
    repository_names.check_together(draft.paths)
    _attribute(draft)
    draft.flush()
    return commit_tree.write(repository, draft.paths)


def _applied(draft: Draft, operation: dict[str, Any]) -> None:
    key, value = operation.get("key"), operation.get("value")
    action = OPERATIONS.get(str(key))
    if action is None or not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise Refused(400, f"a line of the commit should have one of the keys {', '.join(OPERATIONS)} and a path.")
    action(draft, value["path"], value)


def _file(draft: Draft, path: str, value: dict[str, Any]) -> None:
    try:
        data = base64.b64decode(value.get("content", ""), validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refused(400, f"the content of {path!r} is not base64.") from None
    if value.get("encoding", "base64") != "base64" or len(data) > LARGEST_REGULAR:
        raise Refused(400, f"{path!r} should be base64 of at most {LARGEST_REGULAR:,} bytes.")
    repository_names.check_path(path)
    draft.put(path, data)
    if pointer := lfs.Pointer.parse(data):
        _check_received(draft, path, pointer.sha256, size=pointer.size)
        draft.large.add(path)


def _large_file(draft: Draft, path: str, value: dict[str, Any]) -> None:
    sha256, size = value.get("oid"), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise Refused(400, f"{path!r} should be named by its sha256, 64 hex digits.")
    repository_names.check_path(path)
    actual = _check_received(draft, path, sha256, size=size)
    draft.put(path, lfs.Pointer(sha256, actual).to_bytes())
    draft.large.add(path)


def _check_received(draft: Draft, path: str, sha256: str, *, size: object) -> int:
    """Return the size of a large file; Refused unless this very repository received its bytes."""
    actual = draft.repository.large.size(sha256)
    if actual is None:
        raise Refused(400, f"{path!r} names sha256 {sha256}, whose bytes this repository never received. Upload it.")
    if size is not None and size != actual:
        raise Refused(400, f"{path!r} should have {size} bytes, but what was uploaded has {actual:,}.")
    return actual


def _deleted_file(draft: Draft, path: str, value: dict[str, Any]) -> None:
    _drop(draft, [path] if path in draft.paths else [], what=f"file with this name doesn't exist: {path}")


def _deleted_folder(draft: Draft, path: str, value: dict[str, Any]) -> None:
    prefix = f"{path.strip('/')}/" if path.strip("/") else ""
    gone = [name for name in draft.paths if name.startswith(prefix)]
    _drop(draft, gone, what=f"folder with this name doesn't exist: {path}")


def _drop(draft: Draft, gone: list[str], *, what: str) -> None:
    if not gone:
        raise Refused(404, f"A {what}", code="EntryNotFound")
    for name in gone:
        del draft.paths[name]
        draft.large.discard(name)


OPERATIONS: dict[str, Callable[[Draft, str, dict[str, Any]], None]] = {
    "file": _file,
    "lfsFile": _large_file,
    "deletedFile": _deleted_file,
    "deletedFolder": _deleted_folder,
}


def _attribute(draft: Draft) -> None:
    """Let git know the new large files, so that a clone with git-lfs gets their bytes."""
    draft.flush()
    if not draft.large and commit_tree.ATTRIBUTES in draft.paths:
        return
    blob = draft.paths.get(commit_tree.ATTRIBUTES)
    now = commit_tree.read(draft.repository, blob) if blob else lfs.attributes([])
    known = {line.split()[0] for line in now.decode(errors="replace").splitlines() if "filter=lfs" in line}
    named = [path for path in sorted(draft.large) if not path.endswith(lfs.SUFFIXES)]
    missing = [pattern for pattern in map(_pattern, named) if pattern not in known]
    added = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in missing)
    separator = b"" if not now or now.endswith(b"\n") else b"\n"
    if added or blob is None:
        draft.put(commit_tree.ATTRIBUTES, now + separator + added.encode())


def _pattern(path: str) -> str:
    """Return a path as git's attributes match it, and nothing else."""
    return "/" + _ESCAPED.sub(r"\\\1", path).replace(" ", "[[:space:]]")

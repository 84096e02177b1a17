"""A release as a folder of plain files: every hash, name and shape checked before anything is loaded.

A file is read once, and the bytes that were hashed are the bytes that are parsed.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hub_client import errors
from hub_client.files import atomic, safetensors, zarr_zip
from hub_client.manifest.header import INHERITED, FileSpec
from hub_client.manifest.reading import MAX_BYTES, read_manifest
from hub_client.manifest.v1 import Manifest
from hub_client.release import card

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
WEIGHTS = safetensors.FILE
CARD = "README.md"
REFERENCE = "reference.zarr.zip"
ROLES = {WEIGHTS: "weights", CARD: "card", REFERENCE: "reference", INHERITED: "inherited"}
"""Every file a release may hold beside its manifest, and the role it has there."""


Content = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Release:
    """A release that was read."""

    manifest: Manifest
    """The contract, as it was read."""
    tensors: dict[str, Tensor]
    """Tensor name to tensor, on the CPU; empty when they were not asked for."""
    folder: Path
    """Where it lies."""
    contents: Mapping[str, bytearray] = field(default_factory=dict)
    """File name to its bytes, as they were hashed; empty when the tensors were not asked for."""

    @property
    def atlas(self) -> bytearray | None:
        """The content of ``reference.zarr.zip``, if it has one."""
        return self.contents.get(REFERENCE)

    @cached_property
    def card(self) -> str:
        """The card as it was read."""
        return self.contents[CARD].decode("utf-8", errors="replace")

    @cached_property
    def rendered_card(self) -> str:
        """The card that this archzoo makes of the manifest."""
        return card.render(self.manifest)


def read(folder: str | Path, *, load_tensors: bool = True, beside: Container[str] = ()) -> Release:
    """Return the release in a folder, after every check of :func:`verify`.

    Parameters
    ----------
    folder
        A release folder.
    load_tensors
        Whether to make tensors of the weights; they are checked either way.
    beside
        Names of files that may lie in the folder though they are no part of the release; they are not read.

    Raises
    ------
    NotFound
        If there is no release in the folder.
    ManifestError
        If the manifest cannot be read.
    IntegrityError
        If a file is missing, uninvited, a link, or not what the manifest states.
    """
    folder = Path(folder)
    manifest = manifest_in(folder)
    _check_listing(folder, manifest, beside=beside)
    tensors: dict[str, Tensor] = {}
    contents: dict[str, bytearray] = {}
    for file in manifest.files:
        content = _checked(folder, file)
        if file.path == WEIGHTS and load_tensors:
            tensors = safetensors.load(content, manifest)
        else:
            _CHECKS[file.path](content, manifest)
        if load_tensors:
            contents[file.path] = content
    return Release(manifest, tensors, folder, contents)


def verify(folder: str | Path) -> Manifest:
    """Return the manifest of a release folder once all of its files are what the manifest states.

    Checked are: no file missing, uninvited or a link; size and sha256 of each; names, dtypes and shapes of the weights;
    that the reference holds plain arrays and no counts.

    Raises
    ------
    NotFound, ManifestError, IntegrityError
        As :func:`read`.
    """
    return read(folder, load_tensors=False).manifest


def write(
    folder: str | Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    *,
    extra: Mapping[str, Path | bytes] | None = None,
    overwrite: bool = False,
    beside: Container[str] = (),
) -> Path:
    """Write a release folder that appears whole or not at all, and return its path.

    The card is rendered, unless one is given, and ``manifest.files`` filled in; :func:`read` returns the manifest with
    them.

    Parameters
    ----------
    folder
        Where the release shall lie.
    manifest
        The contract; its ``files`` are ignored.
    tensors
        Every tensor of ``manifest.tensors``, finite.
    extra
        Further files by name, as bytes or a path: ``reference.zarr.zip``, and a card other than the one that is
        rendered. Files of an earlier release are not kept.
    overwrite
        Whether to replace a release that is there already; anything else that lies there is never replaced.
    beside
        Names of files that may lie in that release's folder though they are no part of it; they stay there.

    Raises
    ------
    InvalidInput
        If something lies at ``folder`` that may not be replaced, or ``extra`` names a file no release has.
    ManifestError
        If the manifest contradicts itself, or is of a newer format than this archzoo writes.
    IntegrityError
        If the tensors are not the manifest's, or hold NaN or an infinity.
    TransportError
        If the folder cannot be written; nothing has changed then.
    """
    folder = Path(folder)
    check_target(folder, overwrite=overwrite, beside=beside)
    contents = _contents(manifest, tensors, extra or {})
    sealed = _sealed(manifest, contents).to_bytes()
    read_manifest(sealed, source=str(folder / MANIFEST), inherited=b"".join(contents.get(INHERITED, [])))
    with atomic.staged(folder) as stage:
        for path, content in contents.items():
            atomic.create(stage / path, content)
        atomic.create(stage / MANIFEST, [sealed])
        for name in _listing(folder) - {MANIFEST, *ROLES} if folder.is_dir() else ():
            atomic.carry(folder / name, stage / name)
    return folder


def seal(manifest: Manifest, folder: str | Path) -> Manifest:
    """Return the manifest with ``files`` describing what lies in the folder.

    Raises
    ------
    IntegrityError
        If the folder holds a file that no release has, or lacks the weights or the card.
    """
    folder = Path(folder)
    present = _listing(folder) - {MANIFEST}
    if strangers := sorted(present - ROLES.keys()):
        raise _broken(strangers[0], "is not a file of a release", actual=strangers)
    if missing := sorted({WEIGHTS, CARD} - present):
        raise _broken(missing[0], "is missing", expected=missing)
    files = tuple(_describe(path, [_content(folder, path, limit=None)]) for path in sorted(present))
    return manifest.changed(files=files)


def manifest_in(folder: Path) -> Manifest:
    """Return the manifest in a folder, whatever the other files there are.

    Raises
    ------
    NotFound
        If there is none.
    ManifestError
        If it cannot be read.
    """
    if not (folder / MANIFEST).exists():
        raise errors.NotFound(
            f"{folder} holds no {MANIFEST}: it is not a release folder. Give the folder that Model.save or pull wrote.",
            name=str(folder),
        )
    document = bytes(_content(folder, MANIFEST, limit=MAX_BYTES))
    inherited = bytes(_content(folder, INHERITED, limit=MAX_BYTES)) if (folder / INHERITED).exists() else b""
    return read_manifest(document, source=str(folder / MANIFEST), inherited=inherited)


def _check_listing(folder: Path, manifest: Manifest, *, beside: Container[str]) -> None:
    listed = {file.path: file.role for file in manifest.files}
    for path, role in listed.items():
        if ROLES.get(path) != role:
            raise _broken(path, f"is listed as {role}, which a release does not have", expected=ROLES, actual=role)
    present = _listing(folder) - {MANIFEST}
    if missing := sorted({WEIGHTS, CARD, *listed} - present):
        raise _broken(missing[0], "is missing", expected=missing)
    if strangers := sorted(name for name in present - listed.keys() if name not in beside):
        raise _broken(strangers[0], "is not in the manifest; a release holds nothing else", actual=strangers)


def _listing(folder: Path) -> set[str]:
    """Return the names in a folder, all of them plain files."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_file(follow_symlinks=False):
            raise _broken(entry.name, "is a link, a folder or a device; a release holds plain files only")
    return {entry.name for entry in found}


def _checked(folder: Path, file: FileSpec) -> bytearray:
    content = _content(folder, file.path, limit=file.size)
    if len(content) != file.size:
        raise _broken(file.path, f"has {len(content):,} bytes", expected=file.size, actual=len(content))
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise _broken(file.path, "has another sha256", expected=file.sha256, actual=digest)
    return content


def _content(folder: Path, name: str, *, limit: int | None) -> bytearray:
    """Return the bytes of a plain file, one more than ``limit`` at most; a link is not followed."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / name, flags)
    except OSError as error:
        raise _broken(name, f"cannot be opened ({error.strerror})") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _broken(name, "is not a plain file")
        content = bytearray(found.st_size if limit is None else min(found.st_size, limit + 1))
        del content[file.readinto(content) :]
        return content


def _broken(file: str, fault: str, *, expected: object = None, actual: object = None) -> errors.IntegrityError:
    facts = f": expected {expected}" if isinstance(expected, int | str) else ""
    facts += f", found {actual}" if facts and actual is not None else ""
    return errors.IntegrityError(
        f"{file} {fault}{facts}. The release is not the one its manifest names: fetch it again.",
        file=file,
        expected=expected,
        actual=actual,
    )


def check_target(folder: Path, *, overwrite: bool, beside: Container[str] = ()) -> None:
    """Raise InvalidInput if :func:`write` would: something lies there that may not be replaced."""
    if not folder.exists() and not folder.is_symlink():
        return
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else None
    if present == set():
        return
    if not overwrite:
        raise errors.InvalidInput(
            f"{folder} exists already. Choose another folder, or pass overwrite=True to replace the release in it.",
            facts={"folder": folder, "overwrite": overwrite},
        )
    ours = present is not None and all(name in {MANIFEST, *ROLES} or name in beside for name in present)
    if present is None or MANIFEST not in present or not ours:
        raise errors.InvalidInput(
            f"{folder} is not a release folder, so overwrite=True does not replace it. Choose another folder.",
            facts={"folder": folder, "overwrite": overwrite},
        )


def _contents(
    manifest: Manifest, tensors: Mapping[str, Tensor], extra: Mapping[str, Path | bytes]
) -> dict[str, list[Content]]:
    """Return the parts of each file."""
    if strangers := sorted(extra.keys() - {REFERENCE, CARD}):
        raise errors.InvalidInput(
            f"a release cannot hold {errors.names(strangers)}; the extra files it may hold are {REFERENCE} and {CARD}.",
            facts={"extra": strangers},
        )
    whole = {name: value if isinstance(value, bytes) else value.read_bytes() for name, value in extra.items()}
    if REFERENCE in whole:
        zarr_zip.check(io.BytesIO(whole[REFERENCE]), name=REFERENCE)
    contents: dict[str, list[Content]] = {name: [content] for name, content in whole.items()}
    contents[WEIGHTS] = [*safetensors.dump(tensors, manifest)]
    contents.setdefault(CARD, [card.render(manifest).encode()])
    return contents


def _sealed(manifest: Manifest, contents: dict[str, list[Content]]) -> Manifest:
    """Return the manifest with its files; a signature holds for what was read, a delta for the very files it gives.

    To the ``contents`` of a delta the manifest that it inherits from is added.
    """
    files = {path: _describe(path, content) for path, content in contents.items()}
    before = {file.path: file for file in manifest.files}
    composed = {WEIGHTS, *manifest.delta.inherited} - {INHERITED} if manifest.delta else set()
    same = all(path in files and files[path] == before.get(path) for path in composed)
    if same and manifest.inherited_document and manifest.delta and manifest.delta.inherits:
        contents[INHERITED] = [manifest.inherited_document]
        files[INHERITED] = _describe(INHERITED, contents[INHERITED])
    kept = manifest.delta if same else None
    sealed = manifest.changed(files=tuple(files[path] for path in sorted(files)), delta=kept)
    return sealed if sealed.as_read or sealed.signature is None else sealed.changed(signature=None)


def _describe(path: str, parts: list[Content]) -> FileSpec:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    size = sum(map(len, parts))
    return FileSpec.model_validate({"path": path, "size": size, "sha256": digest.hexdigest(), "role": ROLES[path]})


def _check_weights(content: bytearray, manifest: Manifest) -> None:
    safetensors.check(content, manifest)


def _check_card(content: bytearray, manifest: Manifest) -> None:
    """The card is text that nothing reads back: its hash is all there is to check."""


def _check_atlas(content: bytearray, manifest: Manifest) -> None:
    zarr_zip.check(io.BytesIO(content), name=REFERENCE)


def _check_inherited(content: bytearray, manifest: Manifest) -> None:
    if content != manifest.inherited_document:
        raise _broken(INHERITED, "is in a release that inherits nothing, or was changed while it was read")


_CHECKS: dict[str, Callable[[bytearray, Manifest], None]] = {
    WEIGHTS: _check_weights,
    CARD: _check_card,
    REFERENCE: _check_atlas,
    INHERITED: _check_inherited,
}

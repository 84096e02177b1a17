"""Deltas: hubs keep of a release that surgery grew only what it adds to its parent.

What is pulled, checked and cited is the whole release: its manifest, which every hub keeps as it is, names the sha256
of the whole weights, and the parent by its digest. A hub keeps ``delta.safetensors`` in the place of the weights:

``header``
    The header of the whole ``model.safetensors``, so that the same bytes come out whichever library writes such files.
``<tensor>``
    The entries that are not the parent's, flat: for a tensor that grew along its named axes those beyond the parent's,
    for one with other values all of them. Tensors that are the parent's are not in it.

The manifest of a delta leaves the gene panel, and what it has of the terms and tensors, to the parent's, or to the one
that the parent's leaves it to. That earlier manifest is a file of the whole release, ``inherited.json``, so that a
pulled folder states everything; hubs have it already and do not keep it again.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hub_client import errors
from hub_client.files import safetensors
from hub_client.files.safetensors import ITEM_BYTES
from hub_client.hub.lineage import Origins
from hub_client.manifest.header import INHERITED, Delta, FileSpec, Header
from hub_client.manifest.inheritance import inherits
from hub_client.manifest.provenance import Parent
from hub_client.manifest.reading import read_header, read_manifest
from hub_client.manifest.v1 import Manifest
from hub_client.release import folder as release_folder
from hub_client.release.store import Ref, Source
from hub_client.store.folder.plain import PlainFolder

FILE = "delta.safetensors"
HEADER = "header"

Array = NDArray[np.uint8]
"""Entries of a tensor as bytes, the last axis those of one entry: deltas move numbers and never read them."""


@dataclass(frozen=True)
class Whole:
    """A source that gives whole releases, also where ``source`` keeps deltas."""

    source: Source
    """Where the release is."""
    origins: Origins
    """Where its parents are looked for."""

    def read(self, ref: Ref, path: str) -> bytes:
        """Return one small file of a release, checked."""
        return self.source.read(ref, path)

    def fetch(self, ref: Ref, folder: Path) -> Path:
        """Write a whole release into a new or empty folder, every hash checked, and return the folder.

        Raises
        ------
        NotFound
            If a parent is in none of the hubs at hand.
        IntegrityError
            If a file is not the one its manifest names, or the delta does not give the weights that it names.
        """
        self.source.fetch(ref, folder)
        if is_partial(folder):
            with TemporaryDirectory(prefix="archzoo-") as scratch:
                whole = self._composed(folder, Path(scratch) / "release")
                for name in (release_folder.WEIGHTS, *_delta(header_in(folder)).inherited):
                    shutil.copyfile(whole / name, folder / name)
            (folder / FILE).unlink()
        return folder

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        """Give a folder with the whole release while the context lasts; nobody may write to it."""
        with self.source.opened(ref) as folder:
            if not is_partial(folder):
                yield folder
                return
            with TemporaryDirectory(prefix="archzoo-") as scratch:
                yield self._composed(folder, Path(scratch) / "release")

    def manifest(self, ref: Ref) -> Manifest:
        """Return the manifest of a release, also of one whose hub keeps a delta.

        Raises
        ------
        NotFound
            If what it inherits from is in none of the hubs at hand.
        ManifestError
            If it cannot be read.
        """
        document = self.source.read(ref, release_folder.MANIFEST)
        header = read_header(document, source=str(ref))
        inherited = self._inherited(ref, header, header.inherited) if header.inherited else b""
        return read_manifest(document, source=str(ref), inherited=inherited)

    def _inherited(self, ref: Ref, header: Header, wanted: FileSpec) -> bytes:
        """Return the earlier manifest that a delta's inherits from: an ancestor's, or the file of it in a folder."""
        if isinstance(self.source, PlainFolder) and (self.source.path / INHERITED).exists():
            document = self.source.read(ref, INHERITED)
            if hashlib.sha256(document).hexdigest() != wanted.sha256:
                raise _bad("has another sha256", expected=wanted.sha256, file=INHERITED)
            return document
        found = self.origins.find(parent_of(header))
        document = found.source.read(found.ref, release_folder.MANIFEST)
        if hashlib.sha256(document).hexdigest() == wanted.sha256:
            return document
        parent = read_header(document, source=str(found.ref))
        if parent.inherited is None:
            raise _bad("is the manifest of no ancestor", expected=wanted.sha256, file=INHERITED)
        return Whole(found.source, self.origins)._inherited(found.ref, parent, wanted)

    def _composed(self, stored: Path, folder: Path) -> Path:
        found = self.origins.find(parent_of(header_in(stored)))
        with Whole(found.source, self.origins).opened(found.ref) as parent:
            return compose(stored, parent, folder)


def is_partial(folder: Path) -> bool:
    """Return whether a folder holds a release as hubs keep deltas: no weights, but what they add."""
    return (folder / FILE).exists() and not (folder / release_folder.WEIGHTS).exists()


def verify(folder: Path) -> Header:
    """Return the header of a release as a hub keeps it, a delta or whole, once every file there has its hash.

    Raises
    ------
    IntegrityError, ManifestError, NotFound
        As :func:`hub_client.release.folder.verify`.
    """
    header = header_in(folder)
    if is_partial(folder):
        _content(folder, header)
    else:
        release_folder.verify(folder)
    return header


def compose(stored: Path, parent: Path, folder: Path) -> Path:
    """Write the whole release that a delta and its parent make, and return its folder.

    Parameters
    ----------
    stored
        The release as a hub keeps it.
    parent
        The parent's whole release.
    folder
        A new folder.

    Raises
    ------
    IntegrityError
        If the parent is not the one the manifest names, or the result is not what the manifest states.
    """
    header = header_in(stored)
    before = release_folder.read(parent, load_tensors=False).manifest
    _check_parent(header, before)
    shutil.copytree(stored, folder, ignore=shutil.ignore_patterns(FILE))
    for name in _delta(header).inherited:
        shutil.copyfile(earliest(parent) if name == INHERITED else parent / name, folder / name)
    manifest = release_folder.manifest_in(folder)
    weights = _weights(_content(stored, manifest), manifest, parent, before)
    (folder / release_folder.WEIGHTS).write_bytes(weights)
    release_folder.verify(folder)
    return folder


def stored_form(folder: Path, parent: Path, into: Path) -> Path:
    """Write a whole release as hubs keep it, a delta to its parent, and return that folder.

    Raises
    ------
    InvalidInput
        If the release was not grown from the parent, or its old weights moved: there is little to leave out then.
    """
    from hub_client.release import versioning  # loads torch, which reading deltas does without

    new, old = release_folder.read(folder), release_folder.read(parent)
    _check_parent(new.manifest, old.manifest)
    level, reason = versioning.needed(old, new)
    if level == "major":
        raise errors.InvalidInput(
            f"a delta is for what surgery grew, and {reason}. Push the release whole, without delta=True.",
            facts={"delta": True, "reason": reason},
        )
    content = _added(folder, new.manifest, parent, old.manifest)
    manifest = _declared(new.manifest, old.manifest, content, earlier=earliest(parent))
    into.mkdir(parents=True)
    for file in manifest.files:
        if file.path not in (release_folder.WEIGHTS, *_delta(manifest).inherited):
            shutil.copyfile(folder / file.path, into / file.path)
    (into / FILE).write_bytes(content)
    (into / release_folder.MANIFEST).write_bytes(
        (folder / release_folder.MANIFEST).read_bytes() if manifest == new.manifest else manifest.to_bytes()
    )
    return into


def _declared(new: Manifest, old: Manifest, content: bytes, *, earlier: Path) -> Manifest:
    """Return the manifest that states how the release is kept; the same one if it does already.

    ``earlier`` is the manifest that it may inherit from; one that was a delta before goes on inheriting what it did.
    """
    known = {file.path: file for file in old.files}
    document = earlier.read_bytes()
    counts = inherits(new, read_manifest(document, source=str(earlier))) if new.delta is None else new.delta.inherits
    files = {file.path: file for file in new.files}
    if counts:
        sha256 = hashlib.sha256(document).hexdigest()
        files[INHERITED] = FileSpec(path=INHERITED, size=len(document), sha256=sha256, role="inherited")
    same = {path for path, file in files.items() if path != release_folder.WEIGHTS and known.get(path) == file}
    delta = Delta(
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        inherited=tuple(sorted(same | ({INHERITED} if counts else set()))),
        inherits=counts,
    )
    return (
        new
        if new.delta == delta
        else new.changed(files=tuple(files[path] for path in sorted(files)), delta=delta, signature=None)
    )


def earliest(folder: Path) -> Path:
    """Return the file with the whole manifest that what grew from a release inherits from."""
    return folder / (INHERITED if (folder / INHERITED).exists() else release_folder.MANIFEST)


def _added(folder: Path, new: Manifest, parent: Path, old: Manifest) -> bytes:
    """Return the content of ``delta.safetensors``."""
    from safetensors.numpy import save

    header, values = _read(folder, new)
    _, before = _read(parent, old)
    added = {HEADER: np.frombuffer(header, dtype=np.uint8)}
    for name, value in values.items():
        mask = _new_entries(name, value, new, old)
        if not mask.all() and not np.array_equal(value[~mask], before[name].reshape(-1, value.shape[-1])):
            mask = np.ones(value.shape[:-1], dtype=bool)
        if mask.any():
            added[name] = np.ascontiguousarray(value[mask]).reshape(-1)
    return bytes(save({name: added[name] for name in sorted(added)}))


def _weights(content: bytes, manifest: Manifest, parent: Path, old: Manifest) -> bytearray:
    """Return the bytes of the whole ``model.safetensors``."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        added = load(content)
        header = added.pop(HEADER).tobytes()
    except (SafetensorError, KeyError) as error:
        raise _bad(f"cannot be read ({error})") from error
    _, before = _read(parent, old)
    size = next(file.size for file in manifest.files if file.path == release_folder.WEIGHTS)
    if size - len(header) != _bytes(manifest):
        raise _bad("has a header that does not fit the weights' size", expected=size)
    whole = bytearray(header) + bytearray(_bytes(manifest))
    for entry in safetensors.check(whole, manifest):
        # the parent's entries where they were, the delta's in the other places
        width = ITEM_BYTES[entry.dtype]
        value, mask = np.zeros((*entry.shape, width), dtype=np.uint8), np.ones(entry.shape, dtype=bool)
        new = added.get(entry.name, np.zeros(0, dtype=np.uint8))
        if new.size != value.size:
            mask = _new_entries(entry.name, value, manifest, old)
            if not mask.all():
                value[~mask] = before[entry.name].reshape(-1, width)
        if new.dtype != np.uint8 or new.size != int(mask.sum()) * width:
            raise _bad(f"has {new.size:,} bytes for the tensor {entry.name}, where {int(mask.sum()) * width:,} are new")
        value[mask] = new.reshape(-1, width)
        whole[entry.start : entry.end] = value.tobytes()
    return whole


def _bytes(manifest: Manifest) -> int:
    """Return how many bytes all tensors take."""
    described = safetensors.described(manifest).values()
    return sum(ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in described)


def _new_entries(name: str, value: Array, manifest: Manifest, old: Manifest) -> NDArray[np.bool_]:
    """Return which entries of a tensor the parent cannot have, by its named axes: all where it has no such tensor."""
    mask = np.ones(value.shape[:-1], dtype=bool)
    spec, before = ({spec.name: spec for spec in both.tensors}.get(name) for both in (manifest, old))
    if spec is None or before is None or (spec.shape, spec.dtype) != (before.shape, before.dtype):
        return mask
    kept = manifest.places(spec, before=old)
    inside = all(not places or places[-1] < mask.shape[axis] for axis, places in enumerate(kept))
    if inside and all(map(len, kept)):
        mask[np.ix_(*kept)] = False
    return mask


def _read(folder: Path, manifest: Manifest) -> tuple[bytes, dict[str, Array]]:
    """Return the header of the weights, and the entries of each tensor."""
    content = (folder / release_folder.WEIGHTS).read_bytes()
    entries = safetensors.check(content, manifest)
    flat = np.frombuffer(content, dtype=np.uint8)
    values = {e.name: flat[e.start : e.end].reshape(*e.shape, ITEM_BYTES[e.dtype]) for e in entries}
    return content[: 8 + int.from_bytes(content[:8], "little")], values


def header_in(folder: Path) -> Header:
    """Return the header of the release in a folder."""
    return read_header((folder / release_folder.MANIFEST).read_bytes(), source=str(folder / release_folder.MANIFEST))


def _delta(manifest: Manifest | Header) -> Delta:
    if manifest.delta is None:
        raise _bad("lies in a release whose manifest does not name it")
    return manifest.delta


def parent_of(manifest: Manifest | Header) -> Parent:
    """Return what a delta adds to."""
    if manifest.lineage is None or manifest.lineage.parent is None:
        raise errors.InvalidInput(
            f"{manifest.name} names no parent in its lineage, so there is nothing that a delta could add to: push it "
            "whole, without delta=True.",
            facts={"delta": True},
        )
    return manifest.lineage.parent


def _check_parent(manifest: Manifest | Header, parent: Manifest) -> None:
    expected = parent_of(manifest)
    if parent.digest != expected.digest:
        raise errors.IntegrityError(
            f"{manifest.name} was grown from {expected.name} with digest {expected.digest}, and the release at hand "
            f"has {parent.digest}. Get the parent from another hub.",
            file=release_folder.MANIFEST,
            expected=expected.digest,
            actual=parent.digest,
        )


def _content(folder: Path, manifest: Manifest | Header) -> bytes:
    """Return the delta's bytes, checked."""
    delta, content = _delta(manifest), (folder / FILE).read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if (len(content), actual) != (delta.size, delta.sha256):
        raise _bad("has another sha256", expected=delta.sha256, actual=actual)
    return content


def _bad(fault: str, *, expected: object = None, actual: object = None, file: str = FILE) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file} {fault}. The release is not the one its manifest names: fetch it again.",
        file=file,
        expected=expected,
        actual=actual,
    )

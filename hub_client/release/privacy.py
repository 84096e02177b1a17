"""What must not leave a lab with a release: barcodes, donors, persons, text about cells, file paths, addresses.

Every file of a release is looked through: all text of the manifest; lines of the card that the manifest does not give;
names and notes in the weights, and tensors that spell text; and of the reference's cells, the names, the columns beyond
the manifest's, and whatever else is in the zip.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hub_client.data import persons
from hub_client.files import safetensors
from hub_client.manifest.v1 import Manifest
from hub_client.release import atlas_file, consent
from hub_client.release import folder as release_folder

if TYPE_CHECKING:
    from anndata import AnnData

PROSE = frozenset({"authors", "citation", "intended_use", "limitations", "summary", "title"})
"""Fields in which people write to people: an address there may be meant."""
_PERSON = (
    r"(?:(?:donor|patient|subject|participant|individual)(?:[_ ]?(?:id|no|number|name))?"
    r"|age|sex|gender|ethnicity|race|bmi|birth(?:day|date)?|date[_ ]of[_ ]birth|dob|mrn|diagnosis|smoking)"
)
_BESIDE = r"[\"'*]*(?:[;\t]|,(?! )| ?\| ?|, ?[\"'])[\"'*]*"
_UNIX = (
    r"(?<![\w.:/<-])/(?:home|Users|root|mnt|media|scratch|tmp|var|data\d*|gpfs|lustre|nfs|nas|work|projects?|groups?"
    r"|labs?|srv|opt|vol\d*|storage|net|private|etc|usr)/[^\s\"'<>|)`]+"
)
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "a cell barcode": re.compile(r"(?<![A-Za-z])[ACGT]{12,}(?:-\d+)?(?![A-Za-z])"),
    "a file path": re.compile(
        rf"{_UNIX}|file://\S+|(?<!\w)~(?:[A-Za-z][\w-]*)?/[\w.-]+|(?<!\w)[A-Za-z]:\\+\w[^\s\"'<>|]*|\\\\[\w.-]+\\[\w$.-]+"
    ),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b"),
    "a table of donors": re.compile(rf"(?i)(?<!\w){_PERSON}{_BESIDE}{_PERSON}(?!\w)"),
    **persons.PATTERNS,
}
_IN_A_WORD = {what: PATTERNS[what] for what in ("a cell barcode", "a record number")}
"""What can be in letters and digits alone, as most of a manifest's texts are: names of genes."""
_ROW_KEYS = re.compile(rf"(?i){_PERSON}")
_CATEGORY = re.compile(r"(?:conditions|covariates\.categorical)\[\d+\]\.categories\[\d+\]")
_SHOWN = 24
_MOST_CODES = 1_000_000


@dataclass(frozen=True)
class Leak:
    """Something that should not be in a release: the file, the place in it, what it is, and how sure that is bad."""

    file: str
    place: str
    what: str
    severity: Literal["error", "warning", "info"] = "error"

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.what}"


def leaks(release: release_folder.Release) -> Iterator[Leak]:
    """Return what should not be in a release, file by file."""
    yield from _in_manifest(release.manifest)
    yield from _in_card(release.card, known=release.rendered_card)
    yield from _in_weights(release.contents[release_folder.WEIGHTS], release.manifest)
    if release.atlas is not None:
        yield from _in_atlas(release.atlas, release.manifest)


def found_in(text: str) -> Iterator[str]:
    """Return what a text gives away, each with its beginning."""
    for what, pattern in (_IN_A_WORD if text.isalnum() else PATTERNS).items():
        if found := pattern.search(text):
            yield f"{what} ({_short(found[0])})"


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"


def _in_manifest(manifest: Manifest) -> Iterator[Leak]:
    for place, text in _texts(manifest.model_dump(mode="json"), ""):
        named = persons.named(text) if _CATEGORY.fullmatch(place) else None
        for what in [*found_in(text), *([f"a person ({_short(named)})"] if named else [])]:
            meant = what.startswith("an e-mail") and re.split(r"[.\[]", place)[0] in PROSE
            yield Leak(release_folder.MANIFEST, place, what, "warning" if meant else "error")
    for place in _donor_rows(manifest.extensions, "extensions"):
        yield Leak(release_folder.MANIFEST, place, "a table of donors")
    yield from _donors(manifest)


def _donors(manifest: Manifest) -> Iterator[Leak]:
    """Point out conditions that name donors: an error, unless somebody stated that these may be published."""
    told, why = consent.published(manifest), consent.donor_like(manifest)
    for condition in manifest.categorical:
        place = f"conditions.{condition.key}"
        if condition.key in why and condition.key not in told:
            what = (
                f"looks like donors or patients by {why[condition.key]}. Map again with names that mean nothing to "
                "others; or, if these may be published, push with publish_donors=True (--publish-donors), which the "
                "manifest then states"
            )
            yield Leak(release_folder.MANIFEST, place, what)
        elif condition.key in why or condition.role == "donor":
            stated = ", whom its maker stated may be published" if condition.key in told else ""
            what = f"names {len(condition.categories)} donors{stated}: make sure that nobody is recognised by them"
            yield Leak(release_folder.MANIFEST, place, what, "info")


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Return every text, keys too, with its dotted place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{place}.{key}".lstrip("."), key
            yield from _texts(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]")


def _donor_rows(value: Any, place: str) -> Iterator[str]:
    """Return where records, or columns, hold two or more facts about persons, or one that is nobody else's."""
    if isinstance(value, dict):
        if sum(bool(_ROW_KEYS.fullmatch(key)) for key in value) >= 2 or any(map(persons.OWN_FACT.fullmatch, value)):
            yield place
        for key, inner in value.items():
            yield from _donor_rows(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _donor_rows(inner, f"{place}[{index}]")


def _in_card(text: str, *, known: str) -> Iterator[Leak]:
    """Look at the lines that are not from the manifest, which is looked at itself."""
    rendered = set(known.splitlines())
    for number, line in enumerate(text.splitlines(), start=1):
        if line not in rendered:
            yield from (Leak(release_folder.CARD, f"line {number}", what) for what in found_in(line))


def _in_weights(content: bytearray, manifest: Manifest) -> Iterator[Leak]:
    entries = safetensors.check(content, manifest)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for place, text in _texts(header, ""):
        yield from (Leak(release_folder.WEIGHTS, f"its header, {place}", what) for what in found_in(text))
    for entry in entries:
        for text in _spelled(content[entry.start : entry.end], entry.dtype):
            yield from (Leak(release_folder.WEIGHTS, f"tensor {entry.name}", what) for what in found_in(text))


_NUMBERS = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "u1"}
_PRINTABLE = (9, 126)


def _spelled(content: bytearray, dtype: str) -> Iterator[str]:
    """Return the text whose letters' codes are the values of a tensor, if they can be such codes."""
    values = np.frombuffer(content, dtype=_NUMBERS[dtype])
    if not 0 < values.size <= _MOST_CODES:
        return
    low, high = _PRINTABLE
    if values.min() >= low and values.max() <= high and bool((values == np.round(values)).all()):
        yield bytes(values.astype(np.uint8)).decode("ascii")


def _in_atlas(content: bytes | bytearray, manifest: Manifest) -> Iterator[Leak]:
    file = release_folder.REFERENCE
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        yield from (Leak(file, place, what) for place, text in _notes(archive) for what in found_in(text))
        names = archive.namelist()
    atlas = atlas_file.load(content)
    yield from (Leak(file, name, "is no part of a reference") for name in _strangers(names, atlas))
    if list(atlas.obs_names) != [str(number) for number in range(atlas.n_obs)]:
        yield Leak(file, "obs", f"cells have names ({str(atlas.obs_names[0])[:_SHOWN]}), where numbers are enough")
    yield from _in_columns(atlas, manifest)


def _notes(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Return every text of a zip that is no array: names, comments, metadata."""
    yield "its comment", archive.comment.decode(errors="replace")
    for entry in archive.infolist():
        note = entry.comment + entry.extra
        yield entry.filename, f"{entry.filename} {note.decode(errors='replace')}"
        if entry.filename.rpartition("/")[2] == "zarr.json":
            yield from ((entry.filename, text) for _, text in _texts(json.loads(archive.read(entry)), ""))


def _strangers(names: Iterable[str], atlas: AnnData) -> list[str]:
    """Return entries of the zip beyond latent, obs and an empty var."""
    known = {("obs", str(column)) for column in (*atlas.obs.columns, "_index", atlas.obs.index.name or "index")}
    known |= {("var", "_index"), ("var", "index"), ("obsm", atlas_file.LATENT)}
    parts = [name.split("/") for name in names if name.rpartition("/")[2] != "zarr.json"]
    return sorted({"/".join(part[:2]) for part in parts if tuple(part[:2]) not in known})


def _in_columns(atlas: AnnData, manifest: Manifest) -> Iterator[Leak]:
    """Look at the columns of the reference's cells: they are conditions and labels, and hold the manifest's names."""
    known: dict[str, set[str | None]] = {c.key: set(c.categories) for c in manifest.conditions if c.role != "donor"}
    known |= {c.key: set(c.categories) for c in manifest.covariates.categorical if c.role != "donor"}
    known |= {level.key: {*level.categories, level.unlabelled} for level in manifest.labels}
    for column in map(str, atlas.obs.columns):
        place = f"obs column {column}"
        if column not in known:
            yield Leak(
                release_folder.REFERENCE, place, "is neither a condition nor a label of the manifest, or names donors"
            )
            continue
        strange = sorted({str(value) for value in atlas.obs[column].dropna().unique()} - known[column])
        if strange:
            what = f"holds text that the manifest does not know ({strange[0][:_SHOWN]})"
            yield Leak(release_folder.REFERENCE, place, what)
    if atlas.n_vars or len(atlas.var.columns) or len(atlas.uns):
        yield Leak(release_folder.REFERENCE, "var or uns", "is not empty, and no part of a reference")

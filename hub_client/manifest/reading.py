"""Bytes to a Manifest, whichever format version they are of."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hub_client import errors
from hub_client._version import __version__
from hub_client.manifest import _json
from hub_client.manifest._frozen import place, problems
from hub_client.manifest.header import INHERITED, Header, Inherited
from hub_client.manifest.inheritance import completed, inherited_counts
from hub_client.manifest.migrations import MIGRATIONS, migrated
from hub_client.manifest.v1 import SCHEMA_VERSION, Manifest

MAX_BYTES = 32 * 2**20
"""The largest manifest that is read: about 400,000 genes."""

Location = tuple[str | int, ...]
Record = TypeVar("Record", bound=BaseModel)


def read_manifest(data: bytes | str, *, source: str, inherited: bytes = b"") -> Manifest:
    """Return the manifest in ``data``, brought to the current format in memory.

    An older format is migrated. A newer minor of the same major loads: what this version does not know is kept in
    ``unknown``, and the manifest cannot be saved again. The digest is always that of ``data``.

    Parameters
    ----------
    data
        The whole file.
    source
        What to call it in errors: a path or a release's name.
    inherited
        The whole earlier manifest that a delta's inherits from; not read for one that states everything itself.

    Raises
    ------
    ManifestError
        If it is not JSON, is of a newer major format, or does not state what its format asks. Where its format is
        newer, the message states which archzoo reads it.
    """
    raw, version = _parse(data, source=source)
    counts = inherited_counts(raw)
    if counts:
        raw = _completed(raw, counts, inherited, source=source)
    unknown: dict[str, Any] = {}
    if _newer_minor(version):
        raw, unknown = _without_unknown(raw, Manifest)
    manifest = _validated(raw, version, source=source, model=Manifest)
    document = data.encode() if isinstance(data, str) else data
    return manifest.read_from(document, inherited=inherited if counts else b"", unknown=unknown)


def read_header(data: bytes, *, source: str) -> Header:
    """Return what a manifest states of its files and its origin, also of a delta's without what that inherits.

    Parameters
    ----------
    data, source
        As for :func:`read_manifest`.

    Raises
    ------
    ManifestError
        As :func:`read_manifest`, of these fields.
    """
    raw, version = _parse(data, source=source)
    kept = {name: raw[name] for name in Header.model_fields if name in raw}
    if _newer_minor(version):
        kept, _ = _without_unknown(kept, Header)
    return _validated(kept, version, source=source, model=Header)


def _completed(raw: dict[str, Any], counts: dict[Inherited, int], inherited: bytes, *, source: str) -> dict[str, Any]:
    """Return a delta's manifest with what it inherits."""
    if not inherited:
        raise errors.ManifestError(
            f"{source} is the manifest of a delta, whose {errors.names(counts)} are those of an earlier release: pull "
            "the release by its name, which gets the whole of it.",
            path=source,
        )
    earlier, _ = _parse(inherited, source=f"{INHERITED} of {source}")
    try:
        return completed(raw, earlier, counts)
    except ValueError as error:
        raise errors.ManifestError(f"{source} {error}. Get the release again.", path=source) from None


def _parse(data: bytes | str, *, source: str) -> tuple[dict[str, Any], str]:
    try:
        raw = _json.strict(data, limit=MAX_BYTES)
    except ValueError as error:
        raise errors.ManifestError(f"{source} {error}. A manifest is one JSON object.", path=source) from None
    if not isinstance(raw, dict):
        raise errors.ManifestError(f"{source} is a JSON {type(raw).__name__}, not an object.", path=source)
    version = _version(raw, source=source)
    return migrated(raw), version


def _version(raw: dict[str, Any], *, source: str) -> str:
    version = raw.get("schema_version")
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,4}\.\d{1,4}", version):
        raise errors.ManifestError(
            f"{source}: schema_version is {version!r}, expected a format version such as {SCHEMA_VERSION!r}.",
            path=source,
        )
    if _major(version) > _major(SCHEMA_VERSION):
        raise errors.ManifestError(
            f"{source} is of format {version}; this archzoo reads up to {_major(SCHEMA_VERSION)}.x. "
            f"A newer archzoo reads it: pip install --upgrade archzoo.",
            path=source,
        )
    if _major(version) < _major(SCHEMA_VERSION) and version not in MIGRATIONS:
        raise errors.ManifestError(
            f"{source} is of format {version}, which no archzoo reads; known are "
            f"{errors.names([*MIGRATIONS, SCHEMA_VERSION])}. Ask its authors for a current release.",
            path=source,
        )
    return version


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _newer_minor(version: str) -> bool:
    return tuple(map(int, version.split("."))) > tuple(map(int, SCHEMA_VERSION.split(".")))


def _validated(raw: dict[str, Any], version: str, *, source: str, model: type[Record]) -> Record:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        newer = _newer_minor(version)
        message = _needs_newer(raw, version) if newer else f"is not a valid manifest of format {version}:"
        raise errors.ManifestError(f"{source} {message}", path=source, problems=explained(error, model)) from None


def _needs_newer(raw: dict[str, Any], version: str) -> str:
    """Return which archzoo reads a manifest of a newer minor format that has values this one does not know."""
    trained_with = _newer_archzoo(raw)
    wanted = f"one that reads format {version}: pip install --upgrade archzoo"
    if trained_with:
        wanted = f'{trained_with}, which trained it, or newer: pip install --upgrade "archzoo>={trained_with}"'
    return (
        f"is of format {version} and needs a newer archzoo: this one, {__version__}, reads format {SCHEMA_VERSION} and "
        f"not what is listed below. Install {wanted}."
    )


def _newer_archzoo(raw: dict[str, Any]) -> str | None:
    """Return the version of archzoo in the training record if it is one newer than this."""
    record: Any = raw
    for key in ("training", "versions", "archzoo"):
        record = record.get(key) if isinstance(record, dict) else None
    if not isinstance(record, str) or not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){2}", record):
        return None
    return record if _numbers(record) > _numbers(__version__) else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _without_unknown(raw: dict[str, Any], model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest without the keys this format does not know, and these keys with their values."""
    try:
        model.model_validate(raw)
    except ValidationError as error:
        places = [found["loc"] for found in error.errors() if found["type"] == "extra_forbidden"]
        paths = [_path(raw, location) for location in places]
        unknown = {place(path): _at(raw, path) for path in paths}
        return _pruned(raw, set(paths)), unknown
    return raw, {}


def _path(raw: Any, location: Location) -> Location:
    """Return where in ``raw`` a problem is: pydantic's location without the tags of unions."""
    path: list[str | int] = []
    for part in location:
        inside = part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int)
        if inside:
            raw = raw[part]
            path.append(part)
    return tuple(path)


def _at(raw: Any, path: Location) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _pruned(raw: Any, paths: set[Location], here: Location = ()) -> Any:
    if isinstance(raw, dict):
        kept = {key: value for key, value in raw.items() if (*here, key) not in paths}
        return {key: _pruned(value, paths, (*here, key)) for key, value in kept.items()}
    if isinstance(raw, list):
        return [_pruned(value, paths, (*here, index)) for index, value in enumerate(raw)]
    return raw


def read_toml(path: Path, model: type[Record], *, what: str) -> Record:
    """Return the record in a TOML file.

    Parameters
    ----------
    path
        The file.
    model
        What it holds.
    what
        What to call that in errors, such as ``recipe``.

    Raises
    ------
    NotFound
        If there is no such file.
    ManifestError
        If it is not TOML, or does not state what the format asks; ``problems`` names each key.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, IsADirectoryError):
        raise errors.NotFound(f"there is no {what} at {path}; give a .toml file.", name=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ManifestError(f"{path} is not TOML: {error}.", path=str(path)) from None
    except ValidationError as error:
        lines = explained(error, model)
        raise errors.ManifestError(f"{path} is not a valid {what}:", path=str(path), problems=lines) from None


def explained(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one readable line for each problem; an unknown key comes with the known keys it may have meant."""
    schema = model.model_json_schema()
    lines = problems(error)
    for index, found in enumerate(error.errors(include_url=False)):
        if found["type"] == "extra_forbidden":
            close = get_close_matches(str(found["loc"][-1]), _known(schema, found["loc"][:-1]), cutoff=0.6)
            lines[index] += f" (did you mean {errors.names(close)}?)" if close else ""
    return lines


def _known(schema: dict[str, Any], location: Sequence[str | int]) -> list[str]:
    """Return the keys an object at this place may have, by the JSON Schema."""
    nodes = [schema]
    for part in location:
        nodes = [child for node in nodes for child in _children(node, part, schema)]
    return [key for node in nodes for choice in _choices(node, schema) for key in choice.get("properties", ())]


def _children(node: dict[str, Any], part: str | int, schema: dict[str, Any]) -> list[dict[str, Any]]:
    children = []
    for choice in _choices(node, schema):
        tagged = choice.get("properties", {}).get("kind", {}).get("const") == part
        child = choice if tagged else choice.get("properties", {}).get(part) or choice.get("items")
        child = child or choice.get("additionalProperties")
        children += [child] if isinstance(child, dict) else []
    return children


def _choices(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schema itself, or what its reference or alternatives stand for."""
    if "$ref" in node:
        return _choices(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    alternatives = node.get("anyOf") or node.get("oneOf")
    return [found for one in alternatives for found in _choices(one, schema)] if alternatives else [node]

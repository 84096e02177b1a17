"""Read what a repository of scvi-hub records beside its model, a JSON file and a card, for the facts in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hub_client import errors
from hub_client.interop import scarches_files
from hub_client.manifest.provenance import OriginalFile

METADATA, CARD = "_scvi_required_metadata.json", "README.md"
LONGEST = 1 << 20
"""Bytes of either file that are read."""
EXTENSION = "x-scvi-hub"
"""Where a manifest keeps what it has no field for."""
RECORDED = ("training_data_url", "anndata_version", "model_parent_module")
TAGS = ("modality", "tissue", "annotated")
"""The card's tags that are kept, as in ``tissue:lung``: words of the uploader, no terms of an ontology."""
UNFILLED = ("To be added...", "Not provided by uploader", "None")
"""What scvi-tools writes where the uploader gave nothing."""
LICENCES = {
    spdx.lower(): spdx
    for spdx in [
        *("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-4.0"),
        *("CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT", "MPL-2.0"),
    ]
}
"""The Hugging Face hub's names of licences that have one SPDX identifier, and that."""


@dataclass(frozen=True)
class HubMetadata:
    """What a repository records of its model."""

    fields: dict[str, Any]
    """Fields of a manifest."""
    lost: tuple[str, ...]
    """What has no place there, in words."""
    files: tuple[OriginalFile, ...]
    """The files it was read from."""


def metadata(folder: Path, *, model: str) -> HubMetadata:
    """Return what a repository of scvi-hub records of its model; nothing where it has no such files.

    Parameters
    ----------
    folder
        A checkout of it.
    model
        The class of the model in it.

    Raises
    ------
    IntegrityError
        If a file is damaged, or names another class.
    """
    contents = {name: _content(folder, name) for name in (METADATA, CARD) if (folder / name).is_file()}
    if METADATA not in contents:
        return HubMetadata({}, (), ())
    try:
        record = json.loads(contents[METADATA])
    except (ValueError, RecursionError) as error:
        raise _broken(METADATA, f"is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise _broken(METADATA, "does not hold names and values")
    if record.get("model_cls_name") not in (None, model):
        raise _broken(METADATA, f"names a {str(record['model_cls_name'])!r:.60}, and the model is a {model}")
    card = _card(contents.get(CARD, b""))
    kept = {name: record[name] for name in RECORDED if _is_filled(record.get(name))} | _tags(card)
    licence = str(card.get("license", "")).lower()
    fields = {"extensions": {EXTENSION: kept}} | ({"license": LICENCES[licence]} if licence in LICENCES else {})
    lost = [f"{CARD}: its text"] if CARD in contents else []
    if licence and licence not in LICENCES:
        lost.append(f"{CARD}: the licence {licence!r:.60}, which is no identifier of SPDX")
    return HubMetadata(fields, tuple(lost), scarches_files.originals(contents))


def _tags(card: Mapping[str, Any]) -> dict[str, list[str]]:
    tags = card.get("tags")
    pairs = [tag.partition(":") for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    kept = {name: [value for key, _, value in pairs if key == name and _is_filled(value)] for name in TAGS}
    return {name: values for name, values in kept.items() if values}


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and value not in UNFILLED


def _content(folder: Path, name: str) -> bytes:
    if (folder / name).stat().st_size > LONGEST:
        raise _broken(name, f"has more than {LONGEST:,} bytes")
    return (folder / name).read_bytes()


def _card(content: bytes) -> dict[str, Any]:
    """Return a card's metadata, the YAML between its first two ``---``; nothing where they are not plain."""
    matter = re.match(rb"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        card = yaml.safe_load(matter[1]) if matter else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _broken(file: str, fault: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{file} {fault}. Copy it again from the repository, or leave it out.", file=file)

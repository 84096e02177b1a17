"""How to cite a release: BibTeX, and CITATION.cff (https://citation-file-format.github.io, version 1.2.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hub_client.files import markdown as md
from hub_client.manifest.provenance import Author, DatasetRecord, Parent
from hub_client.manifest.v1 import Manifest
from hub_client.release import ancestry
from hub_client.release.store import Ref

_SPECIAL = re.compile(r"([&%$#_{}])")


def bibtex(manifest: Manifest, ref: Ref, *, ancestors: Sequence[Manifest] = ()) -> str:
    """Return entries for the release with its digest, what its makers ask to cite, the method and the data.

    Parameters
    ----------
    manifest, ref
        The release.
    ancestors
        The manifests of its parent, that one's parent, and so on, as far as they are known: they are cited too, and
        their data. A parent without a manifest is cited by its digest.
    """
    config = manifest.architecture
    parts = [_entry(_key(ref.repo, ref.version or ref.commit[:12]), _release_fields(manifest, ref))]
    parts += [one.citation.bibtex.strip() for one in (manifest, *ancestors) if one.citation and one.citation.bibtex]
    parts += [_entry(config.kind, {"title": f"{{{config.title}}}, the architecture", "doi": config.doi})]
    parts += [_ancestor(parent, known) for parent, known in _parents(manifest, ancestors)]
    parts += map(_data, ancestry.datasets((manifest, *ancestors)))
    return "\n\n".join(dict.fromkeys(parts)) + "\n"


def cff(manifest: Manifest, ref: Ref, *, ancestors: Sequence[Manifest] = ()) -> str:
    """Return the content of a ``CITATION.cff``; parameters as :func:`bibtex`."""
    found: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use this model, please cite it and the data it was trained on.",
        "type": "dataset",
        "title": manifest.title or manifest.name,
        "authors": [_person(author) for author in manifest.authors] or [{"name": "unknown"}],
    }
    found |= {"version": manifest.version}
    found |= {"date-released": f"{manifest.created:%Y-%m-%d}"} if manifest.created else {}
    found |= {"doi": manifest.citation.doi} if manifest.citation and manifest.citation.doi else {}
    found |= {"license": manifest.license} if manifest.license and " " not in manifest.license else {}
    found |= {"abstract": manifest.summary} if manifest.summary else {}
    found["identifiers"] = [
        {"type": "other", "value": f"sha256:{ref.digest}", "description": "digest of the release"},
        {"type": "other", "value": f"{ref.repo}@{ref.version or ref.commit}", "description": "name of the release"},
    ]
    found["references"] = list(_references(manifest, ancestors))
    return md.yaml(found)


def _parents(manifest: Manifest, ancestors: Sequence[Manifest]) -> Iterator[tuple[Parent, Manifest | None]]:
    """Return each release on the way to the root as its child names it, and its manifest where that is known."""
    line = (manifest, *ancestors)
    for place, child in enumerate(line):
        if child.lineage and child.lineage.parent:
            yield child.lineage.parent, next(iter(line[place + 1 :]), None)


def _ancestor(parent: Parent, known: Manifest | None) -> str:
    called = parent.version or f"sha256:{parent.digest[:12]}"
    fields = {
        "title": f"{{{_plain((known.title if known else '') or parent.name)}}}",
        "author": " and ".join(_author(author) for author in known.authors) if known else "",
        "version": parent.version or "",
        "howpublished": _plain(f"archzoo release {parent.name}@{called}"),
        "note": f"sha256:{parent.digest}",
    }
    return _entry(_key(parent.name, parent.version or parent.digest[:12]), fields)


def _key(name: str, version: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{name}_{version}")


def _release_fields(manifest: Manifest, ref: Ref) -> dict[str, str]:
    return {
        "title": f"{{{_plain(manifest.title or manifest.name)}}}",
        "author": " and ".join(_author(author) for author in manifest.authors),
        "year": f"{manifest.created:%Y}" if manifest.created else "",
        "version": manifest.version,
        "doi": (manifest.citation.doi or "") if manifest.citation else "",
        "howpublished": _plain(f"archzoo release {ref.repo}@{ref.version or ref.commit}"),
        "note": f"sha256:{ref.digest}",
    }


def _data(data: DatasetRecord) -> str:
    slug = re.sub(r"[^A-Za-z0-9]+", "_", data.name).strip("_") or "data"
    fields = {
        "title": f"{{{_plain(data.name)}}}",
        "doi": data.doi or "",
        "howpublished": _plain(data.source or ""),
        "note": f"{data.cells} cells, fingerprint sha256:{data.fingerprint}",
    }
    return _entry(f"{slug}_{data.fingerprint[:8]}", fields)


def _entry(key: str, fields: dict[str, str]) -> str:
    filled = {name: value for name, value in fields.items() if value}
    width = max(map(len, filled))
    lines = (f"  {name:<{width}} = {{{value}}}," for name, value in filled.items())
    return "\n".join([f"@misc{{{key},", *lines, "}"])


def _plain(text: str) -> str:
    """Return text that BibTeX shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.replace("\\", " ").split()))


def _author(author: Author) -> str:
    """Return a person as ``Last, First``, known by an ORCID; anybody else whole, in braces."""
    if author.orcid is None:
        return f"{{{_plain(author.name)}}}"
    given, family = _split(author.name)
    return f"{_plain(family)}, {_plain(given)}" if given else _plain(family)


def _person(author: Author) -> dict[str, Any]:
    if author.orcid is None:
        return {"name": author.name}
    given, family = _split(author.name)
    named = {"family-names": family} | ({"given-names": given} if given else {})
    return named | {"orcid": f"https://orcid.org/{author.orcid}"}


def _split(name: str) -> tuple[str, str]:
    given, _, family = name.rpartition(" ")
    return given, family


def _references(manifest: Manifest, ancestors: Sequence[Manifest]) -> Iterator[dict[str, Any]]:
    config, unnamed = manifest.architecture, [{"name": "see the DOI"}]
    yield {"type": "article", "title": f"{config.title}, the architecture", "authors": unnamed, "doi": config.doi}
    for data in ancestry.datasets((manifest, *ancestors)):
        found = {"type": "data", "title": data.name, "authors": [{"name": "see the DOI" if data.doi else "unknown"}]}
        found |= {"doi": data.doi} if data.doi else {}
        yield found | {"notes": f"{data.cells} cells, fingerprint sha256:{data.fingerprint}"}
    for parent, known in _parents(manifest, ancestors):
        named = f"{parent.name}@{parent.version}" if parent.version else parent.name
        authors = [_person(author) for author in known.authors] if known else []
        identifiers = [{"type": "other", "value": f"sha256:{parent.digest}", "description": "digest of the release"}]
        yield {
            "type": "data",
            "title": named,
            "authors": authors or [{"name": "see the release"}],
            "identifiers": identifiers,
        }

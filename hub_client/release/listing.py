"""What a search shows of a release, read from its manifest leniently: any format version can be listed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hub_client import errors
from hub_client.release.store import Ref

_Record = TypeVar("_Record", bound=BaseModel)


@dataclass(frozen=True)
class Listing:
    """One released model."""

    name: str
    """The full name: what ``pull`` takes."""
    version: str | None
    title: str
    """Version, title, license, digest, commit and hub are those of its manifest and its
    :class:`~hub_client.release.store.Ref`."""
    summary: str
    architecture: str
    """The kind, as in ``scpoli``."""
    organism: str | None
    tissue: tuple[str, ...]
    """Like the organism, labels of the ontology terms."""
    genes: int
    """How many genes it reads."""
    cells: int
    """How many cells it was trained on."""
    labels: tuple[str, ...]
    """The names it can transfer, of all levels."""
    license: str | None
    digest: str
    commit: str
    hub: str
    assay: tuple[str, ...] = ()
    disease: tuple[str, ...] = ()
    """Like the assay, labels of the ontology terms."""
    parents: tuple[str, ...] = ()
    """The coarser labels that labels are part of, as far as the release names them."""
    ontology: tuple[str, ...] = ()
    """Ids of all its ontology terms: organism, tissue, assay, disease and labels."""

    def matches(self, query: str) -> bool:
        """Return whether every word of the query is in the name or the description, in any case.

        The description is title, summary, architecture, organism, tissue, assay, disease, labels and what they are part
        of, and the ontology ids of these: ``CL:0000236``, also spelled ``CL_0000236`` or as the term's address.
        """
        parts = (self.name, self.title, self.summary, self.architecture, self.organism, *self.tissue, *self.assay)
        parts += (*self.disease, *self.labels, *self.parents, *self.ontology)
        return _all_words(query, " ".join(filter(None, parts)))


@dataclass(frozen=True)
class DatasetListing:
    """One released data set; the fields are those of its record and its :class:`~hub_client.release.store.Ref`."""

    name: str
    version: str | None
    title: str
    cells: int
    genes: int
    license: str
    source: str
    fingerprint: str
    digest: str
    commit: str
    hub: str

    def matches(self, query: str) -> bool:
        """Return whether every word of the query is in the name, title or source, in any case."""
        return _all_words(query, f"{self.name} {self.title} {self.source}")


def _all_words(query: str, text: str) -> bool:
    words = (_TERM.sub(r"\1:\2", word) for word in query.lower().split())
    known = text.lower()
    return all(word in known for word in words)


_TERM = re.compile(r"^(?:https?://\S+/)?([a-z]+)_(\d+)$")
"""An ontology id as files and addresses spell it."""


class _ListedDataset(BaseModel):
    title: str = ""
    cells: int = 0
    genes: int = 0
    license: str = ""
    source: str = ""
    fingerprint: str = ""


class _Kind(BaseModel):
    kind: str = "unknown"


class _Term(BaseModel):
    id: str = ""
    label: str = ""


class _Genes(BaseModel):
    panel: tuple[Any, ...] = ()


class _Level(BaseModel):
    categories: tuple[str, ...] = ()
    ontology: dict[str, str | None] = {}
    parents: dict[str, str] = {}


class _Data(BaseModel):
    cells: int = 0


class _Training(BaseModel):
    datasets: tuple[_Data, ...] = ()


class _Delta(BaseModel):
    inherits: dict[str, int] = {}


class _Listed(BaseModel):
    title: str = ""
    summary: str = ""
    architecture: _Kind = _Kind()
    organism: _Term | None = None
    tissue: tuple[_Term, ...] = ()
    assay: tuple[_Term, ...] = ()
    disease: tuple[_Term, ...] = ()
    genes: _Genes = _Genes()
    labels: tuple[_Level, ...] = ()
    training: _Training = _Training()
    license: str | None = None
    delta: _Delta | None = None


def listing(ref: Ref, document: bytes) -> Listing:
    """Return what a manifest states about itself.

    Raises
    ------
    ManifestError
        If it is no manifest of any format.
    """
    found = _parsed(_Listed, ref, document)
    inherited = found.delta.inherits if found.delta else {}
    return Listing(
        name=ref.repo,
        version=ref.version,
        title=found.title,
        summary=found.summary,
        architecture=found.architecture.kind,
        organism=found.organism.label if found.organism else None,
        tissue=_labels(found.tissue),
        assay=_labels(found.assay),
        disease=_labels(found.disease),
        parents=tuple(dict.fromkeys(name for level in found.labels for name in level.parents.values())),
        ontology=_ids(found),
        genes=len(found.genes.panel) or inherited.get("genes", 0),
        cells=sum(data.cells for data in found.training.datasets),
        labels=tuple(dict.fromkeys(name for level in found.labels for name in level.categories)),
        license=found.license,
        digest=ref.digest,
        commit=ref.commit,
        hub=ref.hub,
    )


def _labels(terms: Iterable[_Term]) -> tuple[str, ...]:
    return tuple(term.label for term in terms)


def _ids(found: _Listed) -> tuple[str, ...]:
    terms = (*filter(None, [found.organism]), *found.tissue, *found.assay, *found.disease)
    labels = (id_ for level in found.labels for id_ in level.ontology.values())
    return tuple(dict.fromkeys(filter(None, [*(term.id for term in terms), *labels])))


def dataset_listing(ref: Ref, document: bytes) -> DatasetListing:
    """Return what a data set's record states about itself; ManifestError if it is none."""
    found = _parsed(_ListedDataset, ref, document)
    return DatasetListing(
        name=ref.repo, version=ref.version, digest=ref.digest, commit=ref.commit, hub=ref.hub, **found.model_dump()
    )


def _parsed(model: type[_Record], ref: Ref, document: bytes) -> _Record:
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise errors.ManifestError(f"{ref} cannot be listed: its record has {error.error_count()} faults.") from None

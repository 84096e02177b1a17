"""Where a model comes from: authors, data and training, the release it was grown from, files it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from hub_client.manifest._frozen import Frozen, as_before
from hub_client.manifest.label_audits import LabelAuditRecord
from hub_client.manifest.plan import Plan
from hub_client.manifest.scalars import Commit, Curie, Doi, Orcid, SemVer, Sha256, Spdx, Text


class Author(Frozen):
    """Who made the release."""

    name: Text
    orcid: Orcid | None = None


class Citation(Frozen):
    """What to cite for the model."""

    doi: Doi | None = None
    bibtex: str | None = None


class OntologyTerm(Frozen):
    """A CURIE, the label it stands for, and the ontology release both were read from."""

    id: Curie
    label: Text
    release: Text


class DatasetRecord(Frozen):
    """A data set a model was trained or judged on."""

    name: Text
    doi: Doi | None = None
    source: str | None = None
    license: Spdx | None = None
    cells: PositiveInt
    fingerprint: Sha256
    """Content hash of genes and counts; independent of file format."""


class Training(Frozen):
    """How the weights came to be."""

    datasets: tuple[DatasetRecord, ...] = ()
    plan: Plan | None = None
    seed: int | None = None
    epochs: NonNegativeInt = 0
    losses: dict[str, float] = {}
    """Last recorded value of each loss term (nats per cell)."""
    versions: dict[str, str] = {}
    device: str | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    label_audits: tuple[LabelAuditRecord, ...] = ()
    """What the audit of each level's labels found before training, after corrections."""

    @model_serializer(mode="wrap")
    def _as_before(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields; those that came later, at their default, are left out: releases keep their bytes."""
        return as_before(nested(self), TRAINING_LATER)


TRAINING_LATER: Mapping[str, Any] = {"label_audits": []}
"""Fields that the training records of the first releases did not have, and what they would have stated."""


class Parent(Frozen):
    """The release this one was made from."""

    name: Text
    version: SemVer | None = None
    commit: Commit | None = None
    digest: Sha256


class Lineage(Frozen):
    """Where the model comes from."""

    parent: Parent | None = None
    relation: Literal["surgery", "retrain", "import"]
    new_rows: Literal["random", "mean", "best"] | None = None
    """How surgery started the rows of new conditions."""
    copied: dict[str, str] = {}
    """For ``best``: the new condition and the reference condition its rows were copied from."""
    retrained_extensions: bool = False
    """expiMap's surgery: whether the extension terms that the reference had were trained again; their columns of
    reference cells moved then, and no others."""


class OriginalFile(Frozen):
    """A file a model was imported from."""

    path: Text
    sha256: Sha256


class ImportedFrom(Frozen):
    """The foreign format a model came from, and what it could not bring along."""

    format: Text
    files: tuple[OriginalFile, ...]
    lost: tuple[str, ...] = ()

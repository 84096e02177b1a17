"""Receipts, format 2: what a mapping was made of and what came out, in hashes, so that anybody can make it again.

Format 1 recorded latent and labels of the results, and of the query neither size factors, continuous covariates nor
which genes it lacks. It is read as it was written, and compared in what it recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hub_client import errors
from hub_client.manifest import _json
from hub_client.manifest._frozen import Frozen, as_before, as_json, problems
from hub_client.manifest.plan import Plan
from hub_client.manifest.scalars import Commit, SemVer, Sha256

MAX_BYTES = 16 * 2**20
ALIGNMENT = ("conditions", "labels", "layer", "min_coverage", "size_factor", "proteins")
RUNTIME = ("accelerator", "devices", "precision")
LATER = {"latent_uncertainty": False}
"""Settings that the first receipts of this format did not have, and what mappings from before them did."""


NEWER: dict[int, dict[str, frozenset[str]]] = {
    1: {"query": frozenset({"size_factor", "continuous", "missing"}), "result": frozenset({"parts"})}
}
"""Format to what it does not have, by the part of a receipt that has it now."""


class QueryRecord(Frozen):
    """The query as the model read it. Hashes recognise it and give away no cell, donor or name."""

    cells: PositiveInt
    fingerprint: Sha256
    """Of the aligned values and the names of the model's genes."""
    names: Sha256
    """Of the cells' names, in order."""
    conditions: dict[str, Sha256] = {}
    """Condition key to the hash of each cell's category."""
    labels: dict[str, Sha256] = {}
    """Label level to the hash of each cell's label, where the query brought some."""
    proteins: Sha256 | None = None
    """Of the aligned protein counts and the names of the model's proteins; None for a query without proteins."""
    size_factor: Sha256 | None = None
    """Of each cell's size factor, float32; None where it is the sum over the model's genes."""
    continuous: Sha256 | None = None
    """Of continuous covariates, float32, row by row; None for a model without."""
    missing: Sha256 | None = None
    """Of the names, sorted, of the model's genes that the query lacks."""


class ReferenceRecord(Frozen):
    """The release that the query was mapped onto."""

    name: str
    version: SemVer | None = None
    commit: Commit | None = None
    digest: Sha256


class MappingSettings(Frozen):
    """How cells are mapped: the arguments of :func:`hub_client.map_query`, which hold when it is called with these."""

    conditions: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    layer: str | None = None
    min_coverage: float | None = None
    size_factor: str | None = None
    proteins: str | None = None
    start: Literal["random", "mean", "best"] = "best"
    plan: Plan | None = None
    """The plan to train by, or, in a receipt, the one that was trained by; None where there was nothing to train."""
    seed: int = 0
    unknown_above: float | None = None
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    precision: str = "32-true"
    latent_uncertainty: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields; those that came later, at their default, are left out: old receipts keep their bytes."""
        return as_before(nested(self), LATER)

    @property
    def alignment(self) -> dict[str, Any]:
        """What :func:`hub_client.align` takes."""
        return {name: getattr(self, name) for name in ALIGNMENT}

    @property
    def runtime(self) -> dict[str, Any]:
        """What :func:`hub_client.train` takes, beside the plan and the seed."""
        return {name: getattr(self, name) for name in RUNTIME}


class Ran(Frozen):
    """What it ran on."""

    device: str
    threads: PositiveInt
    versions: dict[str, str]


class LabelsRecord(Frozen):
    """One level's predicted labels: the hash of every cell's, and how many cells each label has."""

    sha256: Sha256
    cells: dict[str, NonNegativeInt]


class PartRecord(Frozen):
    """One part of the results: the hash of every cell's, and those of some cells where a cell has one number."""

    sha256: Sha256
    sample: tuple[float, ...] = ()


class ResultRecord(Frozen):
    """What came out."""

    latent: Sha256
    """Of the posterior means, float32, row by row."""
    labels: dict[str, LabelsRecord] = {}
    sample: tuple[tuple[float, ...], ...] = ()
    """The latent of some cells, evenly spaced: by how much another run differs is read off it."""
    parts: dict[str, PartRecord] = {}
    """All other results by name: ``uncertainty.<level>`` and whatever else a label level's prediction has, ``scores``
    of gene programs, ``imputed_proteins``, ``latent_variance``, ``latent_gene_loss``, ``novelty``, ``novel``,
    ``novelty_score``."""

    @property
    def digest(self) -> str:
        """One hash of everything that came out; in format 1 that was latent and labels."""
        parts = [self.latent, *(f"{level}:{found.sha256}" for level, found in sorted(self.labels.items()))]
        parts += [f"{name}={found.sha256}" for name, found in sorted(self.parts.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Receipt(Frozen):
    """What a mapping was made of, and what came out."""

    format: Literal[1, 2] = 2
    created: AwareDatetime
    query: QueryRecord
    reference: ReferenceRecord
    asked: MappingSettings
    ran: Ran
    result: ResultRecord
    result_digest: Sha256

    @model_validator(mode="after")
    def _check(self) -> Self:
        for part, newer in NEWER.get(self.format, {}).items():
            if given := sorted(name for name in newer if getattr(getattr(self, part), name)):
                raise ValueError(f"a receipt of format {self.format} has no {part}.{given[0]}")
        return self

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of its format: sorted keys, UTF-8, newline at the end."""
        return as_json(self.as_format(self.format))

    def as_format(self, number: int) -> dict[str, Any]:
        """Return the fields as JSON, as far as a format has them."""
        return self._fields(number)

    def compared(self, number: int) -> dict[str, Any]:
        """Return the fields as JSON in which receipts are compared, as far as a format has them."""
        fields = self._fields(number, exclude={"format", "created", "result_digest"})
        for record in (fields["result"], *fields["result"].get("parts", {}).values()):
            record.pop("sample")
        return fields

    def _fields(self, number: int, exclude: set[str] | None = None) -> dict[str, Any]:
        fields = self.model_dump(mode="json", exclude=exclude)
        for part, newer in NEWER.get(number, {}).items():
            fields[part] = {name: value for name, value in fields[part].items() if name not in newer}
        return fields


@dataclass(frozen=True)
class Difference:
    """A field in which two receipts differ, and its values."""

    what: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.what}: {_short(self.before)} → {_short(self.after)}"


def read_receipt(data: bytes, *, source: str) -> Receipt:
    """Return the receipt in ``data``.

    Raises
    ------
    ManifestError
        If it is not a receipt, or its result digest is not that of its result.
    """
    try:
        found = Receipt.model_validate(_json.strict(data, limit=MAX_BYTES))
    except ValidationError as error:
        raise errors.ManifestError(f"{source} is not a receipt:", path=source, problems=problems(error)) from None
    except ValueError as error:
        raise errors.ManifestError(f"{source} {error}. A receipt is one JSON object.", path=source) from None
    if found.result.digest != found.result_digest:
        raise errors.ManifestError(
            f"{source} states that its result has digest {found.result_digest}, but it has {found.result.digest}: the "
            "receipt was changed. Ask for the one that was written.",
            path=source,
        )
    return found


def differences(before: Receipt, after: Receipt) -> tuple[Difference, ...]:
    """Return the fields in which two receipts differ: what went in first, then what came out.

    Receipts of two formats are compared in what both record.
    """
    both = min(before.format, after.format)
    old, new = (dict(_flat(receipt.compared(both), "")) for receipt in (before, after))
    changed = (key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key))
    return tuple(Difference(key, old.get(key), new.get(key)) for key in changed)


def _flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else key)
    else:
        yield place, value


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)

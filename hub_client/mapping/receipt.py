"""Receipts of mappings: made where the mapping is made, of what it read and what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hub_client.checks.outputs import Outputs
from hub_client.data.cells import Cells
from hub_client.data.fingerprint import fingerprint
from hub_client.labels.predict import LabelPrediction
from hub_client.labels.verdict import Verdict
from hub_client.manifest.receipts import (
    CheckRecord,
    LabelsRecord,
    MappingSettings,
    PartRecord,
    QueryRecord,
    Ran,
    Receipt,
    ReferenceRecord,
    ResultRecord,
    VerdictRecord,
)
from hub_client.models.model import Model, device_of
from hub_client.models.train import versions

SAMPLED = 16
"""Cells whose latent and uncertainty a receipt holds."""


def receipt(
    cells: Cells,
    reference: Model,
    found: Outputs,
    *,
    settings: MappingSettings,
    device: str,
    verdict: Verdict | None = None,
) -> Receipt:
    """Return the receipt of a mapping.

    Parameters
    ----------
    cells
        The query as the model read it.
    reference
        The release it was mapped onto.
    found
        What came out.
    settings
        How they were mapped.
    device
        What it ran on.
    verdict
        Whether what came out deserves trust, if that was judged.
    """
    result = _result(found)
    return Receipt(
        created=datetime.now(UTC).replace(microsecond=0),
        query=query_record(cells, reference),
        reference=identity(reference),
        asked=settings,
        ran=Ran(device=device_of(device), threads=torch.get_num_threads(), versions=versions()),
        result=result,
        result_digest=result.digest,
        verdict=None if verdict is None else _judged(verdict),
    )


def query_record(cells: Cells, reference: Model) -> QueryRecord:
    """Return what a query is recognised by."""
    panel = reference.manifest.proteins
    observed = reference.manifest.input.size_factor or cells.report.settings.get("size_factor")
    return QueryRecord(
        cells=len(cells),
        fingerprint=fingerprint(cells.x, reference.manifest.genes.names),
        names=_hash(cells.obs_names),
        conditions={key: _hash(names) for key, names in cells.conditions.items()},
        labels={level: _hash(names) for level, names in cells.labels.items()},
        proteins=None if panel is None or cells.proteins is None else fingerprint(cells.proteins, panel.panel),
        size_factor=_hash_numbers(cells.size_factor) if observed else None,
        continuous=None if cells.continuous is None else _hash_numbers(cells.continuous),
        missing=_hash(sorted(cells.report.missing)),
    )


def identity(reference: Model) -> ReferenceRecord:
    """Return what a reference is called: its place in a hub, or its own name if it was changed since it was pulled."""
    manifest, ref = reference.manifest, reference.ref
    if ref is None or ref.digest != manifest.digest:
        return ReferenceRecord(name=manifest.name, version=manifest.version, digest=manifest.digest)
    return ReferenceRecord(name=ref.repo, version=ref.version, commit=ref.commit, digest=ref.digest)


def _judged(verdict: Verdict) -> VerdictRecord:
    checks = {check.name: CheckRecord(value=check.value, colour=check.colour) for check in verdict.checks}
    return VerdictRecord(colour=verdict.colour, checks=checks)


def _result(found: Outputs) -> ResultRecord:
    latent = np.ascontiguousarray(found.predictions.latent, dtype="<f4")
    rows = np.unique(np.linspace(0, len(latent) - 1, num=min(SAMPLED, len(latent)), dtype=np.int64))
    sample: list[Any] = latent[rows].astype(np.float64).round(6).tolist()
    levels = found.predictions.levels
    apart = {"latent", *(f"labels.{level}" for level in levels)}
    return ResultRecord(
        latent=hashlib.sha256(latent.tobytes()).hexdigest(),
        labels={level: _labels(prediction) for level, prediction in levels.items()},
        sample=tuple(map(tuple, sample)),
        parts={name: _part(values, rows) for name, values in found.by_name().items() if name not in apart},
    )


def _part(values: NDArray[Any], rows: NDArray[np.int64]) -> PartRecord:
    if values.dtype.kind not in "fiu":
        return PartRecord(sha256=_hash(values.reshape(-1)))
    some = values[rows].astype(np.float64).round(6).tolist() if values.ndim == 1 else ()
    return PartRecord(sha256=_hash_numbers(values), sample=tuple(some))


def _labels(found: LabelPrediction) -> LabelsRecord:
    names, counts = np.unique(found.labels.astype(str), return_counts=True)
    cells = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    return LabelsRecord(sha256=_hash(found.labels), cells=cells)


def _hash_numbers(values: NDArray[Any]) -> str:
    """Return the sha256 of numbers, row by row and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def _hash(values: Iterable[object]) -> str:
    """Return the sha256 of texts, each with its length, so that no two lists of texts are one."""
    digest = hashlib.sha256()
    for value in values:
        encoded = str(value).encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()

"""align(): a query's cells in a model's gene order, checked at the door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors
from hub_client.data import counts, genes, matrix, reading
from hub_client.data.cells import Cells, GeneReport, Names
from hub_client.manifest.v1 import Condition, Manifest

Weights = NDArray[np.float32]


class Network(Protocol):
    """What alignment asks of a network."""

    def gene_usage(self) -> Weights:
        """Return how much the encoder uses each gene, ``(genes,)``."""
        ...


class ModelLike(Protocol):
    """What alignment asks of a model."""

    @property
    def manifest(self) -> Manifest:
        """The model's contract."""
        ...

    @property
    def network(self) -> Network:
        """The model's weights and what they compute."""
        ...


@dataclass(frozen=True)
class Source:
    """One matrix of a query and the genes of its columns."""

    name: str
    matrix: Any
    var: pd.DataFrame


def align(
    adata: Any,
    model: ModelLike | Manifest,
    *,
    conditions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    layer: str | None = None,
    min_coverage: float | None = None,
    size_factor: str | None = None,
) -> Cells:
    """Return a query's cells in the model's gene order, with their conditions and labels.
    """
    query = reading.opened(adata)
    manifest, usage = _contract(model)
    _check_axes(query)
    source = _source(query, layer, hint=manifest.input.layer)
    panel = genes.Panel.of(manifest)
    match = genes.settled(genes.match(source.var, panel), policy=manifest.genes.duplicates)
    tally = counts.Tally()
    x = matrix.pick(source.matrix, match.target, genes=len(panel.names), look=tally.add)
    names, notes = _conditions(query.obs, manifest, conditions)
    present = np.zeros(len(panel.names), dtype=bool)
    present[match.found] = True
    report = GeneReport(coverage=float(present.mean()), source=source.name, renamed=match.renamed, id_type=match.id_type, warnings=tuple(notes),
        missing=tuple(match.panel[~present]), unused=int((match.target < 0).sum()))
    return Cells(
        x=x,
        obs_names=query.obs_names.to_numpy().astype(object),
        conditions=names,
        labels={key: _texts(query.obs[column]) for key, column in (labels or {}).items()},
        size_factor=np.maximum(np.asarray(x.sum(axis=1)).reshape(-1), 1).astype(np.float32),
        report=report,
    )


def _contract(model):
    if isinstance(model, Manifest):
        return model, None
    return model.manifest, np.asarray(model.network.gene_usage(), dtype=np.float64)

def _check_axes(query): ...

def _source(query, layer, *, hint):
    if layer is None or layer == "X":
        return Source("X", query.X, query.var)
    if layer in query.layers:
        return Source(f"layers/{layer}", query.layers[layer], query.var)
    return Source("raw", query.raw.X, query.raw.var)

def _texts(column):
    return np.array(["" if v != v else str(v) for v in column], dtype=str)

def _conditions(obs, manifest, conditions):
    found, notes = {}, []
    for c in manifest.conditions:
        column = (conditions or {}).get(c.key, c.key if c.key in obs else None)
        found[c.key] = np.full(len(obs), "query") if column is None else _texts(obs[column])
    return found, notes

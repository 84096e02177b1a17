"""Small queries and the manifests to align them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from hub_client.manifest.v1 import Manifest

PANEL = ("GAPDH", "CD4", "CD8A", "MS4A1", "NKG7", "LYZ", "CD3E", "IL7R")
HUMAN = {"id": "NCBITaxon:9606", "label": "Homo sapiens", "release": "2024"}
MOUSE = {"id": "NCBITaxon:10090", "label": "Mus musculus", "release": "2024"}


def manifest(
    symbols: Sequence[str] = PANEL,
    *,
    ids: Sequence[str] | None = None,
    keys: Sequence[str] = ("batch",),
    unknown: str = "extend",
    **overrides: Any,
) -> Manifest:
    """Return a manifest that reads these genes; ``genes`` and ``input`` in overrides are merged."""
    genes = {"id_type": "symbol", "panel": [{"symbol": symbol} for symbol in symbols]} | overrides.pop("genes", {})
    if ids:
        genes["panel"] = [{"id": id_, "symbol": symbol} for id_, symbol in zip(ids, symbols, strict=True)]
    conditions = [
        {"key": key, "categories": ["a", "b"], "encoding": {"kind": "embedding"}, "unknown": unknown} for key in keys
    ]
    label = {"key": "cell_type", "categories": ["T", "B"], "ontology": {"T": None, "B": None}, "unlabelled": "Unknown"}
    fields = {"name": "tiny", "architecture": {"kind": "scpoli"}, "genes": genes, "conditions": conditions}
    return Manifest.model_validate(fields | {"labels": [label]} | overrides)


class Network:
    """A network of which alignment sees no more than how much it uses each gene."""

    def __init__(self, usage: Sequence[float]) -> None:
        self.usage = np.array(usage, dtype=np.float32)

    def gene_usage(self) -> NDArray[np.float32]:
        return self.usage


class Model:
    """A manifest and a network."""

    def __init__(self, manifest: Manifest, network: Network) -> None:
        self.manifest = manifest
        self.network = network


def counts(cells: int = 6, genes: int = len(PANEL), *, seed: int = 0) -> NDArray[np.float32]:
    """Return random counts, ``(cells, genes)``, about half of them zero, none of the cells empty."""
    values = np.random.default_rng(seed).negative_binomial(1, 0.3, (cells, genes)).astype(np.float32)
    values[:, 0] += 1
    return values


def query(names: Sequence[str] = PANEL, *, x: Any = None, cells: int = 6, **obs: Any) -> AnnData:
    """Return a query over these genes; obs columns by keyword, ``batch`` unless others are given."""
    x = sparse.csr_matrix(counts(cells, len(names))) if x is None else x
    index = [f"cell-{i}" for i in range(x.shape[0])]
    columns = obs or {"batch": ["a", "c"] * (x.shape[0] // 2) + ["a"] * (x.shape[0] % 2)}
    return AnnData(x, obs=pd.DataFrame(columns, index=index), var=pd.DataFrame(index=pd.Index(names, dtype=object)))

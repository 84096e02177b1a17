"""Cells: a query or reference in the model's own gene order, with the names of its conditions and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.data.proteins import ProteinReport
from hub_client.data.values import Names


@dataclass(frozen=True)
class GeneReport:
    """What alignment found.

    Attributes
    ----------
    coverage
        Share of the model's genes the query measured, in [0, 1].
    weighted_coverage
        The same, each gene weighted by how much the encoder uses it (L2 norm of its first-layer weights); None without
        weights.
    missing
        The model's genes the query lacks, the most used first.
    unused
        How many of the query's genes the model does not read.
    renamed
        Query name to the panel's name, for genes found by a previous symbol, alias, id version or other id type.
    summed
        Panel genes that several query genes were summed into.
    source
        Where the counts came from: ``X``, ``raw`` or ``layers/<name>``.
    column
        Where the query's gene names were found: ``var_names`` or a column of var.
    id_type
        What those names are, most of them: ``ensembl`` or ``symbol``.
    warnings
        What the user should know, one sentence each.
    doubts
        Those of the warnings that the values may not be what the model reads, or the organism not its own.
    proteins
        What alignment found of proteins; None for a model without.
    settings
        What the caller decided (``layer``, ``min_coverage``, ``size_factor``) and the obs column of each condition, for
        the record.
    """

    coverage: float
    weighted_coverage: float | None = None
    missing: tuple[str, ...] = ()
    unused: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    summed: tuple[str, ...] = ()
    source: str = "X"
    column: str = "var_names"
    id_type: str = "symbol"
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    proteins: ProteinReport | None = None


def cell_names(index: pd.Index) -> NDArray[np.object_]:
    """Return the names in an index as text, ``(cells,)``: dates, numbers and bytes as everybody writes them."""
    if index.dtype == object:
        texts = (name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in index)
        return np.fromiter(texts, dtype=object, count=len(index))
    found: NDArray[np.object_] = index.astype(str).to_numpy(dtype=object)
    return found


def aligned(cells: object) -> Cells:
    """Return cells that were aligned to a model; InvalidInput if they are anything else, such as an AnnData."""
    if isinstance(cells, Cells):
        return cells
    raise errors.InvalidInput(
        f"the cells are given as {type(cells).__name__}, not as align() returns them: pass "
        "hub_client.align(adata, model), or call map_query() with the AnnData.",
        facts={"cells": type(cells).__name__},
    )


@dataclass(frozen=True)
class Cells:
    """Aligned cells.

    Attributes
    ----------
    x
        What the network reads, before log1p: counts (or log1p values for mse models), ``(cells, genes)`` CSR float32,
        genes in the manifest's order; a missing gene is an empty column, or at the reference's mean, scaled to each
        cell's depth.
    obs_names
        Cell names, ``(cells,)``.
    conditions
        Condition key, or key of a categorical covariate, to the category name of each cell, ``(cells,)``.
    labels
        Label level to the label of each cell, ``(cells,)``; cells without one hold ``""``. Absent levels: no labels.
    size_factor
        Counts per cell, ``(cells,)`` float32: the sum over the model's genes, or the manifest's obs column.
    report
        What alignment found.
    continuous
        Continuous covariates, ``(cells, continuous)`` float32, in the manifest's order; None for a model without.
    proteins
        Counts of the manifest's proteins, ``(cells, proteins)`` float32, 0 where one was not measured; None for a model
        without proteins, and for cells without.
    whole_depth
        Whether size factors are other than each cell's counts in the genes that were measured: they were observed, or
        genes that were not measured are at the reference's mean.
    """

    x: csr_matrix
    obs_names: NDArray[np.object_]
    conditions: dict[str, Names]
    labels: dict[str, Names]
    size_factor: NDArray[np.float32]
    report: GeneReport
    continuous: NDArray[np.float32] | None = None
    proteins: NDArray[np.float32] | None = None
    whole_depth: bool = False

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def unmeasured(self, genes: Sequence[str]) -> NDArray[np.int64]:
        """Return the positions in a model's ``genes`` of those that the query lacks, sorted."""
        if not self.report.missing:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(np.isin(genes, self.report.missing))

    def measured(self, genes: Sequence[str]) -> NDArray[np.int64]:
        """Return the positions in a model's ``genes`` of those that the query has, sorted."""
        return np.setdiff1d(np.arange(len(genes)), self.unmeasured(genes))

    def rows(self, index: NDArray[Any]) -> Cells:
        """Return the cells at ``index`` (integers or a mask), in that order."""
        return replace(
            self,
            x=self.x[index],
            obs_names=self.obs_names[index],
            conditions={key: names[index] for key, names in self.conditions.items()},
            labels={key: names[index] for key, names in self.labels.items()},
            size_factor=self.size_factor[index],
            continuous=None if self.continuous is None else self.continuous[index],
            proteins=None if self.proteins is None else self.proteins[index],
        )

    def relabelled(self, labels: dict[str, Names]) -> Cells:
        """Return the same cells with other labels."""
        return replace(self, labels=labels)

"""The sets of benchmarks/latents.py: which cells are the reference, which the query, and what is known of them.

Every cell has three columns: its label, its batch, and the depth of the whole cell, which a gene panel may not show.
Genes are the file's, or the reference's 2,000 most variable where the file has all; the query has the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import scanpy
from numpy.typing import NDArray

LABEL, BATCH, DEPTH = "label", "batch", "depth"
UNLABELLED = "Unknown"
VARIABLE_GENES = 2000
Group = Literal["queries", "left-out batches"]


@dataclass(frozen=True)
class MappingSet:
    """Cells to map onto others. ``trained_on`` is the same for sets that have the same reference."""

    name: str
    title: str
    family: str
    group: Group
    trained_on: str
    reference: anndata.AnnData
    query: anndata.AnnData

    @property
    def blind_query(self) -> anndata.AnnData:
        """The query as a method sees it: without its labels."""
        blind = self.query.copy()
        blind.obs[LABEL] = UNLABELLED
        return blind

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which cells of the query have a label that the reference has, ``(cells,)``."""
        known = set(self.reference.obs[LABEL]) - {UNLABELLED}
        scored: NDArray[np.bool_] = self.query.obs[LABEL].isin(known).to_numpy()
        return scored


def read_sets(folder: Path) -> dict[str, MappingSet]:
    """Return every set by name, in the order of the page."""
    return {one.name: one for source in SOURCES for one in source(folder)}


def pancreas(folder: Path) -> Iterator[MappingSet]:
    """Baron and Segerstolpe: mapped on each other, by donors or as one batch each, and Baron's donors left out."""
    file = anndata.read_h5ad(folder / "pancreas_mini.h5ad")
    baron = (file.obs["batch"] == "baron_indrop").to_numpy()
    for batch, suffix, note in (("donor", "", "donors are batches"), ("batch", "-study", "studies are batches")):
        cells = described(file, label="cell_type", batch=batch)
        for one, other, chosen in (("baron", "segerstolpe", baron), ("segerstolpe", "baron", ~baron)):
            name, title = f"{one}-{other}{suffix}", f"{one.title()} -> {other.title()}, {note}"
            yield MappingSet(name, title, "pancreas", "queries", name, cells[chosen].copy(), cells[~chosen].copy())
    donors = described(file, label="cell_type", batch="donor")[baron].copy()
    yield from left_out(donors, prefix="baron", family="pancreas: Baron's donors")


def pancreas_all_genes(folder: Path) -> Iterator[MappingSet]:
    """Other cells of Baron's, of which every gene is there: human donors left out."""
    file = anndata.read_h5ad(folder / "pancreas_baron_cider_human_mouse.h5ad")
    cells = described(file, label="cell_type", batch="batch")[(file.obs["species"] == "human").to_numpy()].copy()
    yield from left_out(cells, prefix="cider", family="pancreas: CIDER's donors", variable=True)


def blood(folder: Path) -> Iterator[MappingSet]:
    """PBMC of six batches: two are queries of the other four, and each of the four is left out."""
    file = anndata.read_h5ad(folder / "pbmc_multibatch.h5ad")
    cells = described(file, label="cell_type_broad", batch="batch")
    known = (file.obs["split"] == "reference").to_numpy()
    reference = cells[known].copy()
    for batch in ("10x_5p", "kang_stim"):
        query = cells[(cells.obs[BATCH] == batch).to_numpy()].copy()
        yield MappingSet(f"blood-{batch}", f"four batches -> {batch}", "blood", "queries", "blood", reference, query)
    yield from left_out(reference, prefix="blood", family="blood: batches")


def cite(folder: Path) -> Iterator[MappingSet]:
    """Two 10x runs of PBMC with antibodies, mapped on each other by RNA alone."""
    file = anndata.read_h5ad(folder / "citeseq_pbmc_5k_10k.h5ad")
    cells = described(file, label="cell_type_broad", batch="batch", unlabelled="ambiguous")
    small = cells.obs[BATCH].str.contains("_5k_").to_numpy()
    for one, other, chosen in (("5k", "10k", small), ("10k", "5k", ~small)):
        reference, query = of_variable_genes(cells[chosen].copy(), cells[~chosen].copy())
        name = f"cite-{one}-{other}"
        yield MappingSet(name, f"CITE-seq {one} -> {other}", "CITE-seq", "queries", name, reference, query)


def kang(folder: Path) -> Iterator[MappingSet]:
    """PBMC of two donors: control, and stimulated by interferon beta."""
    file = anndata.read_h5ad(folder / "pbmc_kang_muscat.h5ad")
    cells = described(file, label="cell_type_broad", batch="batch")
    control = cells.obs[BATCH].str.startswith("ctrl").to_numpy()
    reference, query = cells[control].copy(), cells[~control].copy()
    yield MappingSet("kang", "Kang control -> stimulated", "Kang", "queries", "kang", reference, query)


SOURCES: tuple[Callable[[Path], Iterator[MappingSet]], ...] = (pancreas, blood, cite, kang, pancreas_all_genes)


def left_out(cells: anndata.AnnData, *, prefix: str, family: str, variable: bool = False) -> Iterator[MappingSet]:
    """Each batch in turn, mapped on the others: what settings are chosen by."""
    for batch in sorted(cells.obs[BATCH].unique()):
        chosen = (cells.obs[BATCH] == batch).to_numpy()
        reference, query = cells[~chosen].copy(), cells[chosen].copy()
        if variable:
            reference, query = of_variable_genes(reference, query)
        name = f"{prefix}-without-{batch}"
        yield MappingSet(name, batch, family, "left-out batches", name, reference, query)


def described(file: anndata.AnnData, *, label: str, batch: str, unlabelled: str = UNLABELLED) -> anndata.AnnData:
    """Return counts with nothing but label, batch and depth."""
    depth = file.obs["n_umi_total"] if "n_umi_total" in file.obs else np.asarray(file.X.sum(1)).ravel()
    columns = {
        LABEL: file.obs[label].astype(str).replace(unlabelled, UNLABELLED).to_numpy(dtype=object),
        BATCH: file.obs[batch].astype(str).to_numpy(dtype=object),
        DEPTH: np.asarray(depth, dtype=np.float64),
    }
    obs = pd.DataFrame(columns, index=file.obs_names.astype(str))
    return anndata.AnnData(file.X.tocsr().astype(np.float32), obs=obs, var=pd.DataFrame(index=file.var_names))


def of_variable_genes(reference: anndata.AnnData, query: anndata.AnnData) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Return both with the reference's most variable genes."""
    logged = anndata.AnnData(log_normalised(reference), var=reference.var)
    chosen = scanpy.pp.highly_variable_genes(logged, n_top_genes=VARIABLE_GENES, inplace=False)["highly_variable"]
    return reference[:, chosen.to_numpy()].copy(), query[:, chosen.to_numpy()].copy()


def log_normalised(cells: anndata.AnnData) -> object:
    """Return log1p of counts per 10,000 of the whole cell, ``(cells, genes)``, sparse."""
    scaled = cells.X.multiply(1e4 / np.maximum(cells.obs[DEPTH].to_numpy(), 1)[:, None]).tocsr()
    return scaled.log1p().astype(np.float32)

"""The development queries of benchmarks/label_transfer.py: which cells are mapped onto which reference.

Every cell has three columns: its label, its batch, and the depth of the whole cell, which a gene panel may not show.
Reference and query keep the genes of their files; methods that compare expression take the genes both have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.latents_sets import BATCH, DEPTH, LABEL, UNLABELLED, described, of_variable_genes

LEVEL = "cell_type_broad"
"""The level of labels of the PBMC zoo, and the column of its files."""
VARIABLE_GENES = 2000
ZOO_DATA = ("pbmc_kang_ifnb.h5ad", "pbmc3k_10x.h5ad")
PREFIX = 14
"""How many letters of a barcode of Kang 2018 name the cell; what follows differs between files."""
Queries = Mapping[str, anndata.AnnData]


@dataclass(frozen=True)
class TransferSet:
    """A query in one or several parts, each mapped by itself and all scored together, and its reference.

    ``trained_on`` is the same for sets whose reference is the same after genes were matched. ``released`` says that the
    zoo's PBMC models have this reference. ``whole`` says that depths are those of whole cells, in reference and query.
    """

    name: str
    title: str
    reference_title: str
    trained_on: str
    reference: anndata.AnnData
    parts: tuple[anndata.AnnData, ...]
    released: bool = False
    whole: bool = True

    @property
    def truth(self) -> NDArray[np.str_]:
        """The true label of each cell of the query, in the order of its parts, ``(cells,)``."""
        return np.concatenate([part.obs[LABEL].to_numpy(dtype=str) for part in self.parts])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the reference has, sorted."""
        return tuple(sorted(set(self.reference.obs[LABEL]) - {UNLABELLED}))

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which cells of the query have a label that the reference has, ``(cells,)``."""
        scored: NDArray[np.bool_] = np.isin(self.truth, self.labels)
        return scored

    @property
    def blind_parts(self) -> dict[str, anndata.AnnData]:
        """The query's parts as a method sees them: without labels, by the name of set and part."""
        return {part_name(self, number): _blind(part) for number, part in enumerate(self.parts)}

    @property
    def shared_genes(self) -> list[str]:
        """The genes that reference and query have, in the reference's order."""
        measured = set.intersection(*(set(part.var_names) for part in self.parts))
        return [gene for gene in self.reference.var_names if gene in measured]

    def relabelled(self, reference: anndata.AnnData) -> TransferSet:
        """Return the set with another version of its reference."""
        return replace(self, reference=reference)


def part_name(one: TransferSet, number: int) -> str:
    """Return the name by which methods know a part of a query."""
    return f"{one.name}.{number}"


def matched(
    sets: Sequence[TransferSet], *, variable: bool = False
) -> tuple[anndata.AnnData, dict[str, anndata.AnnData]]:
    """Return the reference of sets that share it, and the blind parts of their queries, on the genes all have.

    With ``variable`` these are the reference's 2,000 most variable ones. Depth is that of the whole cell where both
    have it, else of these genes.
    """
    shared = set.intersection(*(set(one.shared_genes) for one in sets))
    genes = [gene for gene in sets[0].reference.var_names if gene in shared]
    whole = all(one.whole for one in sets)
    reference = _on(sets[0].reference, genes, whole=whole)
    queries = {name: _on(part, genes, whole=whole) for one in sets for name, part in one.blind_parts.items()}
    if variable and len(genes) > VARIABLE_GENES:
        reference, _ = of_variable_genes(reference, reference)
        queries = {name: part[:, reference.var_names].copy() for name, part in queries.items()}
    return reference, queries


def _on(cells: anndata.AnnData, genes: list[str], *, whole: bool) -> anndata.AnnData:
    chosen = cells[:, genes].copy()
    if not whole:
        chosen.obs[DEPTH] = np.asarray(chosen.X.sum(1)).ravel().astype(np.float64)
    return chosen


def _blind(cells: anndata.AnnData) -> anndata.AnnData:
    blind = cells.copy()
    blind.obs[LABEL] = UNLABELLED
    return blind


def sharing(sets: Iterable[TransferSet]) -> Iterator[list[TransferSet]]:
    """Yield the sets that have the same reference together: it is trained once for them."""
    groups: dict[str, list[TransferSet]] = {}
    for one in sets:
        groups.setdefault(one.trained_on, []).append(one)
    yield from groups.values()


def read_sets(folder: Path) -> dict[str, TransferSet]:
    """Return every set by name, in the order of the page."""
    return {one.name: one for source in SOURCES for one in source(folder)}


def zoo(folder: Path) -> Iterator[TransferSet]:
    """Three studies, mapped onto the data of the zoo's PBMC models."""
    reference = zoo_reference(folder)
    onto = {"reference_title": "PBMC, Kang and 3k", "reference": reference, "released": True}
    cite = _read(folder / "citeseq_pbmc_5k_10k.h5ad", label=LEVEL)
    gated = cite[(cite.obs[LABEL] != "ambiguous").to_numpy()].copy()
    yield TransferSet("cite-gates", "CITE-seq, protein gates", trained_on="cite-gates", parts=(gated,), **onto)
    chemistries = _read(folder / "pbmc_10x_3chem.h5ad", label=LEVEL)
    parts = tuple(_batches(chemistries))
    yield TransferSet("chemistries", "three chemistries", trained_on="chemistries", parts=parts, **onto)
    kang = _read(folder / "pbmc_kang_muscat.h5ad", label=LEVEL)
    known = {name[:PREFIX] for name in anndata.read_h5ad(folder / ZOO_DATA[0], backed="r").obs_names}
    others = kang[[name[:PREFIX] not in known for name in kang.obs_names]].copy()
    yield TransferSet(
        "kang-others", "Kang, other cells", trained_on="kang-others", parts=(others,), whole=False, **onto
    )


def zoo_reference(folder: Path) -> anndata.AnnData:
    """Return the cells of the zoo's PBMC models with the labels of their files; names tell batches apart."""
    reference = anndata.concat([_read(folder / file, label=LEVEL) for file in ZOO_DATA])
    reference.obs_names = reference.obs[BATCH].str.cat(reference.obs_names, sep=":")
    return reference


def blood(folder: Path) -> Iterator[TransferSet]:
    """PBMC of six batches: two are queries of the other four."""
    file = anndata.read_h5ad(folder / "pbmc_multibatch.h5ad")
    cells, known = described(file, label=LEVEL, batch="batch"), (file.obs["split"] == "reference").to_numpy()
    reference = cells[known].copy()
    for batch in ("10x_5p", "kang_stim"):
        part = cells[(cells.obs[BATCH] == batch).to_numpy()].copy()
        yield TransferSet(f"blood-{batch}", batch, "PBMC, four batches", "blood", reference, (part,))


def pancreas(folder: Path) -> Iterator[TransferSet]:
    """Segerstolpe's cells, mapped onto Baron's; donors are batches."""
    file = anndata.read_h5ad(folder / "pancreas_mini.h5ad")
    cells, baron = described(file, label="cell_type", batch="donor"), (file.obs["batch"] == "baron_indrop").to_numpy()
    reference, query = cells[baron].copy(), cells[~baron].copy()
    yield TransferSet("segerstolpe", "Segerstolpe", "pancreas, Baron", "segerstolpe", reference, (query,), whole=False)


SOURCES: tuple[Callable[[Path], Iterator[TransferSet]], ...] = (zoo, blood, pancreas)


def _read(path: Path, *, label: str) -> anndata.AnnData:
    return described(anndata.read_h5ad(path), label=label, batch="batch")


def _batches(cells: anndata.AnnData) -> Iterator[anndata.AnnData]:
    for batch in sorted(cells.obs[BATCH].unique()):
        yield cells[(cells.obs[BATCH] == batch).to_numpy()].copy()


def counts_table(sets: Iterable[TransferSet]) -> pd.DataFrame:
    """Return how many cells, genes and labels each set has."""
    rows = {
        one.name: (one.reference.n_obs, len(one.truth), int(one.scored.sum()), len(one.shared_genes), len(one.labels))
        for one in sets
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["reference", "query", "scored", "genes", "labels"])

"""Map blood and strangers onto a reference of blood, and print the verdict of each mapping, number by number.

    python benchmarks/verdicts.py [DATA] [--reference pbmc-scpoli] [--seed 0] [--train]

DATA is the folder with the files below, ``../shared/data`` unless given. Queries are mapped with ``min_coverage=0``:
most strangers would be refused by the release's own minimum, and the verdict has to hold where somebody overrides it.
Ends with an error if a stranger is not red or blood is. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import anndata
import numpy as np

import hub_client
from hub_client import errors
from hub_client.data.depth import depth_of
from hub_client.labels.verdict import MEASURES, Verdict
from hub_client.manifest.axes import Markers


@dataclass(frozen=True)
class Query:
    """A file, what is made of its cells, the columns of its conditions, and whether it is a stranger."""

    name: str
    file: str
    stranger: bool = False
    conditions: dict[str, str] = field(default_factory=dict)
    made: Callable[[anndata.AnnData], anndata.AnnData] = lambda cells: cells


def shuffled(cells: anndata.AnnData) -> anndata.AnnData:
    """Return the cells with the names of genes in another order."""
    order = np.random.default_rng(0).permutation(cells.n_vars)
    found = cells.copy()
    found.var = cells.var.iloc[order]
    return found


def logs(cells: anndata.AnnData) -> anndata.AnnData:
    """Return the cells with log1p of counts per 10,000 in place of counts."""
    found = cells.copy()
    totals = np.asarray(cells.X.sum(axis=1)).reshape(-1, 1)
    found.X = cells.X.multiply(1e4 / np.maximum(totals, 1)).log1p().tocsr().astype(np.float32)
    return found


def rounded_logs(cells: anndata.AnnData) -> anndata.AnnData:
    """Return the same, rounded to whole numbers, which alignment takes for counts."""
    found = logs(cells)
    found.X.data = np.rint(found.X.data)
    found.X.eliminate_zeros()
    return found


def only(**wanted: str) -> Callable[[anndata.AnnData], anndata.AnnData]:
    """Return what keeps cells with these values in obs."""

    def kept(cells: anndata.AnnData) -> anndata.AnnData:
        rows = np.all([cells.obs[column].astype(str) == value for column, value in wanted.items()], axis=0)
        return cells[rows].copy()

    return kept


BATCH = {"batch": "batch"}
T = ("CD3D", "CD3E", "CD3G")
MARKERS = {
    "B": Markers(present=("MS4A1", "CD79A", "CD79B"), absent=("CD3E", "CD14")),
    "CD14 Mono": Markers(present=("CD14", "S100A8", "S100A9", "LYZ"), absent=("CD3E", "MS4A1")),
    "CD16 Mono": Markers(present=("FCGR3A", "MS4A7"), absent=("CD3E", "MS4A1")),
    "CD4 T": Markers(present=T, absent=("CD8A", "CD8B", "MS4A1", "CD14")),
    "CD8 T": Markers(present=T, absent=("MS4A1", "CD14")),
    "NK": Markers(present=("NKG7", "GNLY", "KLRD1"), absent=("CD3E", "MS4A1", "CD14")),
    "Platelet": Markers(present=("PPBP", "PF4")),
    "pDC": Markers(present=("LILRA4",)),
}
"""What is known of blood, for a release that names no markers."""
REFERENCE = ("pbmc_kang_ifnb.h5ad", "pbmc3k_10x.h5ad")
"""The reference's own data, for a release that does not state its depth."""
QUERIES = (
    Query("10x three chemistries", "pbmc_10x_3chem.h5ad", conditions=BATCH),
    Query("Kang, control", "pbmc_kang_muscat.h5ad", conditions={"batch": "donor"}, made=only(condition="control")),
    Query("Kang, stimulated", "pbmc_kang_muscat.h5ad", conditions={"batch": "donor"}, made=only(condition="IFN-beta")),
    Query("Kang, both by condition", "pbmc_kang_muscat.h5ad", conditions={"batch": "condition"}),
    Query("CITE-seq 5k and 10k", "citeseq_pbmc_5k_10k.h5ad", conditions=BATCH),
    Query("CITE-seq CiteFuse", "citeseq_citefuse_pbmc.h5ad", conditions=BATCH),
    Query("frozen donor A", "pbmc_frozen_donorA_unlabelled.h5ad", conditions=BATCH),
    Query("68k, reduced", "pbmc68k_reduced_counts.h5ad", conditions=BATCH),
    Query("10x 5', of several sets", "pbmc_multibatch.h5ad", conditions=BATCH, made=only(batch="10x_5p")),
    Query("Kang, stimulated, of several sets", "pbmc_multibatch.h5ad", conditions=BATCH, made=only(batch="kang_stim")),
    Query("lung", "lung_ood_ensembl.h5ad", stranger=True),
    Query("mouse pancreas", "pancreas_baron_cider_human_mouse.h5ad", stranger=True, made=only(species="mouse")),
    Query("human pancreas (Baron)", "pancreas_baron_cider_human_mouse.h5ad", stranger=True, made=only(species="human")),
    Query("human pancreas (three studies)", "pancreas_mini.h5ad", stranger=True, conditions=BATCH),
    Query("CITE-seq, genes shuffled", "citeseq_pbmc_5k_10k.h5ad", stranger=True, made=shuffled),
    Query("frozen donor A, genes shuffled", "pbmc_frozen_donorA_unlabelled.h5ad", stranger=True, made=shuffled),
    Query("CITE-seq, log values", "citeseq_pbmc_5k_10k.h5ad", stranger=True, made=logs),
    Query("CITE-seq, rounded log values", "citeseq_pbmc_5k_10k.h5ad", stranger=True, made=rounded_logs),
)


def completed(model: hub_client.Model, data: Path) -> hub_client.Model:
    """Return the model with depth and markers where its release is from before they were kept."""
    manifest = model.manifest
    if manifest.trust.depth is None and manifest.input.kind == "counts":
        cells = anndata.concat([anndata.read_h5ad(data / file) for file in REFERENCE], join="outer")
        depth = depth_of(hub_client.align(cells, model))
        manifest = manifest.changed(trust=manifest.trust.model_copy(update={"depth": depth}))
    levels = [
        level
        if level.markers or not MARKERS.keys() <= {*level.categories}
        else level.model_copy(update={"markers": MARKERS})
        for level in manifest.labels
    ]
    return replace(model, manifest=manifest.changed(labels=tuple(levels)))


def judged(query: Query, model: hub_client.Model, *, data: Path, seed: int, train: bool) -> Verdict | str:
    """Return the verdict of a query's mapping, or why it was refused."""
    cells = query.made(anndata.read_h5ad(data / query.file))
    asked = {"conditions": query.conditions or None, "min_coverage": 0.0, "seed": seed, "train": train or None}
    try:
        return hub_client.map_query(cells, model, progress=False, **asked).verdict
    except errors.AlignmentError as error:
        return f"refused: {error}"


def row(query: Query, found: Verdict | str) -> str:
    """Return one line of the table."""
    kind = "stranger" if query.stranger else "blood"
    if isinstance(found, str):
        return f"| {query.name} | {kind} | {found.split('.')[0]} |" + " |" * len(MEASURES)
    marks = {"green": "", "amber": " (amber)", "red": " **(red)**"}
    shown = [
        "–" if check.value is None else f"{check.value:.3g}{marks[check.colour]}"  # type: ignore[index]
        for check in found.checks
    ]
    return f"| {query.name} | {kind} | {found.colour} | {' | '.join(shown)} |"


def wrong(query: Query, found: Verdict | str) -> bool:
    """Return whether a stranger passed, or blood did not."""
    red = isinstance(found, str) or found.colour == "red"
    return red != query.stranger


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--reference", default="pbmc-scpoli")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true", help="train on every query, whatever a trial finds")
    given = parser.parse_args()
    model = completed(hub_client.pull(given.reference), given.data)
    print(f"| query | kind | verdict | {' | '.join(measure.name for measure in MEASURES)} |")
    print("|---|---|---|" + "---|" * len(MEASURES))
    failed = []
    for query in QUERIES:
        found = judged(query, model, data=given.data, seed=given.seed, train=given.train)
        print(row(query, found), flush=True)
        if wrong(query, found):
            failed.append(query.name)
    if failed:
        sys.exit(f"wrong: {', '.join(failed)}")


if __name__ == "__main__":
    main()

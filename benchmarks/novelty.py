"""Leave a type of cells out of a reference, and ask which cells of a query are novel.

    python benchmarks/novelty.py [../shared/data] [--seeds 0 1 2] [--page docs/novelty.md]

References, of the development data: Kang's cells with pbmc3k (2,000 genes by Pearson residuals within batches), the
reference half of the multi-batch PBMC, and Baron's pancreas. B cells, monocytes or NK cells are left out of blood, beta
cells of the pancreas, and each seed draws four fifths of the reference's cells. Queries are other studies, and each
donor of Baron's by the others. Prints, as Markdown, the AUROC of the score for cells whose label the reference lacks,
the share of these and of all others that is called novel, and the median raw score, by which foreign queries are told;
``--page`` writes the tables between the marks of a page.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy import sparse
from sklearn.metrics import roc_auc_score

import hub_client
from hub_client import errors
from hub_client.labels.novelty import novelty, with_novelty
from hub_client.manifest.v1 import Manifest, PrototypeLevel
from hub_client.models.model import Model

LABEL, BATCH, PANEL = "cell_type_broad", "batch", 2_000
BLOOD = {"B": ("B",), "monocytes": ("CD14 Mono", "CD16 Mono"), "NK": ("NK",)}
CHEMISTRIES = ("10x_3pv1", "10x_3pv2", "10x_5p")
NAMES = {"True": "yes", "False": "no"}
LEAST_NEW = 8
"""Cells of the left-out type that a query needs."""


@dataclass(frozen=True)
class Task:
    """A reference, a query, and what was left out of the reference."""

    reference: str
    left_out: str
    query: str
    cells: anndata.AnnData
    asked: anndata.AnnData
    strangers: tuple[str, ...] = ()
    foreign: bool = False


@dataclass
class Data:
    """The development data, each file read once."""

    folder: Path
    read: dict[str, anndata.AnnData] = field(default_factory=dict)

    def __call__(self, name: str) -> anndata.AnnData:
        if name not in self.read:
            self.read[name] = anndata.read_h5ad(self.folder / f"{name}.h5ad")
        return self.read[name].copy()


def zoo(data: Data) -> anndata.AnnData:
    """Return Kang's cells and pbmc3k with the panel's genes."""
    cells = anndata.concat([data("pbmc_kang_ifnb"), data("pbmc3k_10x")], join="inner", index_unique="-")
    named = cells[:, ~cells.var_names.str.match(r"^MT-|^RP[SL]\d")].copy()
    scanpy.experimental.pp.highly_variable_genes(named, n_top_genes=PANEL, batch_key=BATCH, flavor="pearson_residuals")
    return cells[:, list(named.var_names[named.var.highly_variable])].copy()


def other_cells_of_kang(data: Data) -> anndata.AnnData:
    """Return the cells of the second Kang file that the first does not have."""
    cells, known = data("pbmc_kang_muscat"), data("pbmc_kang_ifnb")
    barcodes = {name.split("-")[0].split("_")[-1][:14] for name in known.obs_names}
    return cells[[name.split("-")[0].split("_")[-1][:14] not in barcodes for name in cells.obs_names]].copy()


def blood(data: Data) -> dict[str, anndata.AnnData]:
    cite, chemistries = data("citeseq_pbmc_5k_10k"), data("pbmc_10x_3chem")
    found = {"CITE-seq": cite[cite.obs[LABEL] != "ambiguous"].copy(), "Kang, other cells": other_cells_of_kang(data)}
    return found | {name: chemistries[chemistries.obs[BATCH] == name].copy() for name in CHEMISTRIES}


def pancreas(data: Data) -> tuple[anndata.AnnData, anndata.AnnData]:
    cells = data("pancreas_mini")
    cells.obs[LABEL] = cells.obs["cell_type"].astype(str)
    baron = cells[cells.obs[BATCH] == "baron_indrop"].copy()
    baron.obs[BATCH] = baron.obs["donor"].astype(str)
    return baron, cells[cells.obs[BATCH] != "baron_indrop"].copy()


def tasks(data: Data) -> Iterator[Task]:
    """Return all tasks: known types only, a type left out, and foreign queries."""
    multi, (baron, segerstolpe) = data("pbmc_multibatch"), pancreas(data)
    half = multi[multi.obs["split"] == "reference"].copy()
    later = {name: multi[multi.obs[BATCH] == name].copy() for name in ("10x_5p", "kang_stim")}
    references = {"Kang + pbmc3k": (zoo(data), blood(data)), "multi-batch": (half, later)}
    for name, (cells, queries) in references.items():
        for left_out, types in {"nothing": (), **BLOOD}.items():
            kept = cells[~cells.obs[LABEL].isin(types)].copy()
            for query, asked in queries.items():
                if not types or asked.obs[LABEL].isin(types).sum() >= LEAST_NEW:
                    yield Task(name, left_out, query, kept, asked, types)
    for left_out, types in {"nothing": (), "beta": ("beta",)}.items():
        kept = baron[~baron.obs[LABEL].isin(types)].copy()
        yield Task("Baron", left_out, "Segerstolpe", kept, segerstolpe, types)
        for donor in sorted(baron.obs[BATCH].unique()):
            others, own = kept[kept.obs[BATCH] != donor].copy(), baron[baron.obs[BATCH] == donor].copy()
            yield Task("Baron", left_out, f"donor {donor}, left out", others, own, types)
    for query, asked in strangers(data, baron).items():
        yield Task("Kang + pbmc3k", "nothing", query, references["Kang + pbmc3k"][0], asked, foreign=True)


def strangers(data: Data, baron: anndata.AnnData) -> dict[str, anndata.AnnData]:
    """Return queries that are no blood, or none any more."""
    lung, both = data("lung_ood_ensembl"), data("pancreas_baron_cider_human_mouse")
    lung.var_names = lung.var["symbol"].astype(str).to_numpy()
    shuffled, logs = blood(data)["CITE-seq"], blood(data)["CITE-seq"]
    shuffled.var_names = np.random.default_rng(0).permutation(shuffled.var_names)
    logs.X = sparse.csr_matrix(logs.X).log1p()
    mouse = both[both.obs["species"] == "mouse"].copy()
    named = {"lung": lung[:, ~lung.var_names.duplicated()].copy(), "mouse pancreas": mouse, "human pancreas": baron}
    return named | {"shuffled genes": shuffled, "log values": logs}


def described(cells: anndata.AnnData) -> Manifest:
    """Return a manifest with a reference's genes, batches and labels; its network is never asked."""
    labels = sorted(cells.obs[LABEL].astype(str).unique())
    return Manifest.model_validate(
        {
            "name": "novelty",
            "organism": {"id": "NCBITaxon:9606", "label": "Homo sapiens", "release": "2026-05-13"},
            "architecture": {"kind": "scpoli", "hidden": [8], "latent": 4},
            "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in cells.var_names]},
            "conditions": [
                {
                    "key": BATCH,
                    "categories": sorted(cells.obs[BATCH].astype(str).unique()),
                    "encoding": {"kind": "embedding", "dim": 2},
                }
            ],
            "labels": [{"key": LABEL, "categories": labels, "ontology": dict.fromkeys(labels)}],
            "prototypes": {"levels": [PrototypeLevel.of(0, LABEL).model_dump()]},
        }
    )


def recognising(cells: anndata.AnnData, *, seed: int) -> Model:
    """Return an untrained model with the expression of four fifths of the cells."""
    rows = np.sort(np.random.default_rng(seed).permutation(cells.n_obs)[: cells.n_obs * 4 // 5])
    model = Model.build(described(cells))
    columns = {"conditions": {BATCH: BATCH}, "labels": {LABEL: LABEL}}
    return with_novelty(model, hub_client.align(cells[rows].copy(), model, **columns), seed=seed)


def row(task: Task, model: Model, *, seed: int) -> dict[str, object]:
    """Return the figures of a task."""
    known = {*task.cells.obs[LABEL].astype(str)}
    labels = task.asked.obs[LABEL].astype(str).to_numpy() if LABEL in task.asked.obs else None
    record = model.manifest.trust.novelty
    measured = record.false_positives if record else None
    facts: dict[str, object] = {
        "reference": task.reference,
        "left out": task.left_out,
        "query": task.query,
        "seed": seed,
        "foreign": task.foreign,
        "expected": np.nan if measured is None else measured.mean,
        "expected worst": np.nan if measured is None else measured.worst,
    }
    try:
        cells = hub_client.align(task.asked, model, conditions={BATCH: BATCH}, min_coverage=0.0)
    except errors.HubClientError as error:
        return facts | {"refused": type(error).__name__}
    found = novelty(model, cells, seed=seed)
    if found is None:
        return facts | {"refused": "too few genes"}
    facts |= {"cells": len(cells), "raw": found.foreign_score, "foreign called": found.foreign}
    if task.foreign or labels is None:
        return facts
    new = np.isin(labels, task.strangers)
    others = np.isin(labels, list(known)) & ~new
    facts |= {"false": float(found.novel[others].mean()), "new cells": int(new.sum())}
    if new.any():
        kept = new | others
        facts |= {"AUROC": roc_auc_score(new[kept], found.score[kept]), "found": float(found.novel[new].mean())}
    return facts


def rows(data: Data, seeds: list[int]) -> Iterator[dict[str, object]]:
    models: dict[tuple[int, int], Model] = {}
    kept: list[anndata.AnnData] = []  # a model is of one object: none may take another's place in memory
    for task in tasks(data):
        kept.append(task.cells)
        for seed in seeds:
            key = (id(task.cells), seed)
            if key not in models:
                models[key] = recognising(task.cells, seed=seed)
            yield row(task, models[key], seed=seed)


def tables(found: pd.DataFrame) -> str:
    """Return the tables of the page."""
    by = ["reference", "left out", "query"]
    left_out = found[(found["left out"] != "nothing") & ~found["foreign"]]
    grouped = left_out.groupby(by, sort=False)
    one = grouped.agg({"new cells": "first", "AUROC": ["mean", "min"], "found": "mean", "false": "mean"}).reset_index()
    one.columns = [*by, "new cells", "AUROC", "worst seed", "new cells found", "known cells called novel"]
    each = left_out["AUROC"]
    known = found[(found["left out"] == "nothing") & ~found["foreign"]].groupby(by[::2], sort=False)
    two = known.agg({"cells": "first", "raw": "mean", "false": "mean", "expected": "mean"}).reset_index()
    two.columns = ["reference", "query", "cells", "raw score", "called novel", "on batches left out"]
    three = found[found["foreign"]].groupby("query", sort=False).first().reset_index()
    three = three.reindex(columns=["query", "raw", "foreign called", "refused"])
    three.columns = ["query", "raw score", "called foreign", "refused by align"]
    mean = f"Mean AUROC {each.mean():.3f}, worst {each.min():.3f} (a seed of a query)."
    return "\n\n".join([_table(one), mean, _table(two), _table(three)])


def _table(frame: pd.DataFrame) -> str:
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1]]
    lines += [[_cell(value) for value in line] for line in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.0f}" if value == round(value) and value > 1 else f"{value:.3f}"
    return "" if value is None else NAMES.get(str(value), str(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", type=Path, help="a page to write the tables into")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = []
    for one in rows(Data(given.data), given.seeds):
        found.append(one)
        print(one, flush=True)
    text = tables(pd.DataFrame(found))
    print(text)
    if given.page:
        marked = re.compile(r"(<!-- figures -->\n).*(<!-- end of figures -->)", re.DOTALL)
        page = given.page.read_text()
        given.page.write_text(marked.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page))


if __name__ == "__main__":
    main()

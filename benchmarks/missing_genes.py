"""Hide genes from cells of a reference's batches, and compare reading them as zero with reading them at their means.

    python benchmarks/missing_genes.py [../shared/data] [--models pbmc-scpoli ...] [--seeds 0 1 2]

For each bundled model the data of its recipe give the means of genes (the cells it was trained on) and the query (the
cells it never saw, of the same batches and so without surgery). Of the panel a tenth, three tenths, half or seven
tenths of the genes are hidden: at random, or those that are counted most or least. Prints, as Markdown, the mean
distance by which hiding moves a cell in the latent, over the mean distance of cells from their centre; and accuracy and
macro-F1 of the finest labels. With ``--mapped`` the cells get a batch of their own, which surgery and training add.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import accuracy_score, f1_score

import hub_client
from hub_client import Model, _resources
from hub_client.build.build import prepare
from hub_client.data.cells import Cells
from hub_client.manifest.recipe import Recipe
from hub_client.models.gene_means import with_gene_means

SHARES = (0.1, 0.3, 0.5, 0.7)
RULES = ("random", "most counted", "least counted")
Hidden = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", default=sorted(path.name for path in _resources.released().iterdir()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--mapped", action="store_true", help="give the cells a batch of their own")
    given = parser.parse_args()
    rows = []
    for name in given.models:
        rows += list(compared(name, given.data, seeds=given.seeds, mapped=given.mapped))
        print(f"{name}\n\n{_table(pd.DataFrame(rows), ['model', 'rule', 'hidden', 'read as'], name)}\n", flush=True)
    print(_table(pd.DataFrame(rows), ["rule", "hidden", "read as"]))


def _table(rows: pd.DataFrame, by: list[str], name: str | None = None) -> str:
    kept = rows if name is None else rows[rows["model"] == name]
    means = kept.groupby(by, sort=False)[["moved", "accuracy", "macro F1"]].mean().reset_index()
    figures = [[cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row] for row in means.to_numpy().tolist()]
    lines = [list(means.columns), ["---"] * len(means.columns), *figures]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def compared(name: str, data: Path, *, seeds: list[int], mapped: bool) -> Iterator[dict[str, object]]:
    """Yield the figures of one model, one row for each way of hiding and of reading."""
    zero = hub_client.pull(name, hub="bundled")
    _, training, held_out = prepare(Recipe.read(_resources.released().parent / "recipes" / f"{name}.toml"), data=data)
    mean = with_gene_means(zero, training)
    level = max(held_out.labels, key=lambda key: len(np.unique(held_out.labels[key])))
    labelled = held_out.rows(held_out.labels[level] != "")
    truth = labelled.labels[level]
    whole, _ = _results(zero, labelled, level, mapped=mapped)
    spread = np.linalg.norm(whole - whole.mean(axis=0), axis=1).mean()
    for rule, share, seed in _ways(seeds):
        hidden = _hidden(training, rule, share, seed)
        for model in (zero, mean):
            query = hub_client.align(_measured(labelled, model, hidden), model, min_coverage=0.0)
            query = replace(query, conditions=labelled.conditions, proteins=labelled.proteins)
            latent, called = _results(model, query, level, mapped=mapped)
            yield {
                "model": name,
                "rule": rule,
                "hidden": f"{share:.0%}",
                "read as": model.manifest.genes.missing,
                "moved": np.linalg.norm(latent - whole, axis=1).mean() / spread,
                "accuracy": accuracy_score(truth, called),
                "macro F1": f1_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0),
            }


def _results(model: Model, cells: Cells, level: str, *, mapped: bool) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return where cells lie, ``(cells, latent)``, and how they are called, ``(cells,)``."""
    if mapped:
        key = model.manifest.conditions[0].key
        cells = replace(cells, conditions={**cells.conditions, key: np.full(len(cells), "query")}, labels={})
        model = hub_client.surgery(model, cells, device="cpu")
        hub_client.train(model, cells, progress=False, accelerator="cpu")
    found = hub_client.predict(model, cells, unknown_above=None, device="cpu")
    return found.latent, found.levels[level].labels


def _ways(seeds: list[int]) -> Iterator[tuple[str, float, int]]:
    for rule in RULES:
        for share in SHARES:
            for seed in seeds if rule == "random" else seeds[:1]:
                yield rule, share, seed


def _hidden(training: Cells, rule: str, share: float, seed: int) -> Hidden:
    """Return which genes are hidden, ``(genes,)``."""
    genes = training.x.shape[1]
    counted = np.asarray(training.x.sum(axis=0)).ravel()
    order = {
        "random": np.random.default_rng(seed).permutation(genes),
        "most counted": np.argsort(-counted),
        "least counted": np.argsort(counted),
    }[rule]
    hidden = np.zeros(genes, dtype=bool)
    hidden[order[: round(share * genes)]] = True
    return hidden


def _measured(cells: Cells, model: Model, hidden: Hidden) -> anndata.AnnData:
    """Return the cells as a query that measures the genes that are not hidden."""
    names = np.array(model.manifest.genes.names)[~hidden]
    obs = pd.DataFrame(index=cells.obs_names)
    return anndata.AnnData(csr_matrix(cells.x[:, ~hidden]), obs=obs, var=pd.DataFrame(index=names))


if __name__ == "__main__":
    main()

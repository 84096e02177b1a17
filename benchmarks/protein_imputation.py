"""Impute the proteins of cells that had them measured, from their RNA alone, and score that beside nearest neighbours.

    python benchmarks/protein_imputation.py zoo/recipes/pbmc-cite-totalvi.toml --data ../shared/data
        --query ../shared/data/citeseq_pbmc_5k_10k.h5ad --only batch=10x_pbmc_5k_protein_v3 [--seeds 0 1 2]

A model is trained as the recipe says, the query is mapped onto it without its proteins, and what it then expects of
each protein is compared with what was measured: Pearson's correlation over cells, both as log1p. The baseline knows the
same training cells: the mean log1p counts of the 15 nearest in 50 principal components of z-scored log counts per ten
thousand. The reference's own held-out cells, others for each seed, are scored too: what settings are chosen by.
Prints Markdown: means over seeds, with the extremes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

import hub_client
from hub_client import Model
from hub_client.build.build import prepare
from hub_client.data.cells import Cells
from hub_client.manifest.recipe import Recipe
from hub_client.models.impute import impute_proteins

Values = NDArray[np.floating]


def correlations(imputed: Values, measured: Values) -> Values:
    """Return Pearson's correlation of log1p counts for each protein, ``(proteins,)``; NaN for one that no cell has."""
    found, truth = np.log1p(imputed), np.log1p(measured)
    return np.array([_pearson(a, b) for a, b in zip(found.T, truth.T, strict=True)])


def _pearson(one: Values, other: Values) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else float("nan")


def by_neighbours(reference: Cells, cells: Cells) -> Values:
    """Return what a cell's 15 nearest reference cells after PCA have of each protein, ``(cells, proteins)`` counts."""
    logged = [_logged(part) for part in (reference, cells)]
    centre, spread = logged[0].mean(0), logged[0].std(0) + 1e-8
    scaled = [np.clip((x - centre) / spread, -10, 10) for x in logged]
    pca = PCA(min(50, len(reference) - 1), random_state=0).fit(scaled[0])
    neighbours = KNeighborsRegressor(15).fit(pca.transform(scaled[0]), np.log1p(reference.proteins))
    return np.expm1(neighbours.predict(pca.transform(scaled[1])))


def _logged(cells: Cells) -> Values:
    return np.log1p(cells.x.toarray() * (1e4 / cells.size_factor)[:, None])


def by_model(model: Model, cells: Cells, *, seed: int) -> Values:
    """Return what a model that knows the cells' batches expects of them by their RNA, ``(cells, proteins)`` counts."""
    return impute_proteins(model, replace(cells, proteins=None), seed=seed).to_numpy()


def by_mapping(model: Model, query: AnnData, *, seed: int) -> Values:
    """Return what a model expects of a query that has no proteins, after mapping it, ``(cells, proteins)`` counts."""
    without = AnnData(query.X, obs=query.obs[[]], var=query.var)
    mapping = hub_client.map_query(without, model, seed=seed, progress=False)
    return mapping.proteins.to_numpy()


def scored(recipe: Recipe, query: AnnData, *, data: Path, seed: int) -> pd.DataFrame:
    """Return each protein's correlation, by cells and method."""
    model, training, held_out = prepare(recipe.model_copy(update={"seed": seed}), data=data)
    hub_client.train(model, training, plan=recipe.plan, seed=seed, progress=False)
    cells = hub_client.align(query, model)
    found = {
        ("held out", "totalVI"): correlations(by_model(model, held_out, seed=seed), held_out.proteins),
        ("held out", "kNN after PCA"): correlations(by_neighbours(training, held_out), held_out.proteins),
        ("query", "totalVI"): correlations(by_mapping(model, query, seed=seed), cells.proteins),
        ("query", "kNN after PCA"): correlations(by_neighbours(training, cells), cells.proteins),
    }
    table = pd.DataFrame(found, index=list(model.manifest.proteins.panel))
    table.loc["mean"] = table.mean()
    return table


def _query(path: Path, *, only: str) -> AnnData:
    adata = anndata.read_h5ad(path)
    column, _, value = only.partition("=")
    return adata[adata.obs[column] == value].copy() if column else adata


def markdown(tables: list[pd.DataFrame]) -> Iterator[str]:
    wide = pd.concat(tables, axis=1)
    methods = list(tables[0].columns)
    yield "| protein | " + " | ".join(f"{method}, {cells}" for cells, method in methods) + " |"
    yield "|---" * (1 + len(methods)) + "|"
    for name, row in wide.iterrows():
        yield f"| {name} | " + " | ".join(_cell(row[method]) for method in methods) + " |"


def _cell(values: pd.Series) -> str:
    """Return the mean over seeds, and the extremes where seeds differ."""
    low, high = values.min(), values.max()
    return f"{values.mean():.3f}" + (f" ({low:.3f} to {high:.3f})" if high - low > 5e-4 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--only", default="", metavar="COLUMN=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    recipe, query = Recipe.read(options.recipe), _query(options.query, only=options.only)
    tables = [scored(recipe, query, data=options.data, seed=seed) for seed in options.seeds]
    print("\n".join(markdown(tables)))


if __name__ == "__main__":
    main()

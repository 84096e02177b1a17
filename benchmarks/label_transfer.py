"""Transfer labels onto two PBMC query batches and score them beside nearest neighbours after PCA.

    python benchmarks/label_transfer.py ../shared/data/pbmc_multibatch.h5ad [--seeds 0 1 2] [--folds]

Reference and query are the file's ``obs["split"]``: four batches, and two query batches that are mapped each on its
own. ``--folds`` maps each reference batch onto the other three instead: what settings were chosen by. The score is over
cells whose true label the reference has: accuracy, and F1 averaged over the labels that occur among them. Prints
Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

import hub_client
from hub_client.manifest import Manifest, Plan
from hub_client.manifest.v1 import Calibration, PrototypeLevel
from hub_client.transfer import evidence, probabilities

LABEL = "cell_type_broad"
REFERENCE_PLAN = Plan(
    epochs=50,
    pretraining_epochs=35,
    kl_anneal_epochs=50,
    sampling="stratified",
    early_stopping=None,
    keep_best=False,
)
QUERY_PLAN = Plan(
    epochs=20,
    batch_size=64,
    weight_decay=0,
    kl_anneal_epochs=0,
    early_stopping=None,
    keep_best=False,
    validation_fraction=0,
)
RULES = {
    "scPoli, Gaussian prototypes": Calibration(level=LABEL, transfer="gaussians", prior=2.0, temperature=1.0),
    "scPoli, nearest prototype": Calibration(level=LABEL, transfer="prototypes", temperature=1.0),
}


@dataclass(frozen=True)
class Task:
    """One query batch and the cells it is mapped onto."""

    query: str
    reference: anndata.AnnData
    cells: anndata.AnnData

    @property
    def truth(self) -> NDArray[np.str_]:
        return self.cells.obs[LABEL].to_numpy(dtype=str)


def tasks(data: anndata.AnnData, *, folds: bool) -> Iterator[Task]:
    reference = data[data.obs["split"] == "reference"]
    queries = reference if folds else data[data.obs["split"] == "query"]
    for batch in sorted(queries.obs["batch"].unique()):
        rest = reference[reference.obs["batch"] != batch].copy()
        yield Task(batch, rest, queries[queries.obs["batch"] == batch].copy())


def scores(task: Task, predicted: NDArray[np.str_]) -> tuple[float, float]:
    known = np.isin(task.truth, task.reference.obs[LABEL].unique())
    truth, named = task.truth[known], predicted[known]
    f1 = f1_score(truth, named, labels=sorted(set(truth)), average="macro", zero_division=0)
    return accuracy_score(truth, named), float(f1)


def after_pca(task: Task) -> NDArray[np.str_]:
    """Label by 15 neighbours in 50 components of z-scored log counts per ten thousand."""
    logged = [_logged(cells) for cells in (task.reference, task.cells)]
    centre, spread = logged[0].mean(0), logged[0].std(0) + 1e-8
    scaled = [np.clip((x - centre) / spread, -10, 10) for x in logged]
    pca = PCA(50, random_state=0).fit(scaled[0])
    neighbours = KNeighborsClassifier(15).fit(pca.transform(scaled[0]), task.reference.obs[LABEL].to_numpy(dtype=str))
    return neighbours.predict(pca.transform(scaled[1]))


def _logged(cells: anndata.AnnData) -> NDArray[np.float64]:
    totals = cells.obs["n_umi_total"].to_numpy(dtype=float)
    return np.log1p(cells.X.toarray() * (1e4 / totals)[:, None])


def described(reference: anndata.AnnData) -> Manifest:
    labels = sorted(reference.obs[LABEL].unique())
    return Manifest.model_validate(
        {
            "name": "benchmark",
            "architecture": {"kind": "scpoli", "hidden": (256,), "latent": 16, "dropout": 0.3},
            "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in reference.var_names]},
            "conditions": [
                {
                    "key": "batch",
                    "categories": sorted(reference.obs["batch"].unique()),
                    "encoding": {"kind": "embedding", "dim": 5},
                }
            ],
            "labels": [{"key": LABEL, "categories": labels, "ontology": dict.fromkeys(labels)}],
            "prototypes": {"levels": [PrototypeLevel.of(0, LABEL)]},
        }
    )


def by_scpoli(task: Task, *, seed: int) -> dict[str, NDArray[np.str_]]:
    model = hub_client.Model.build(described(task.reference), seed=seed)
    cells = hub_client.align(task.reference, model, labels={LABEL: LABEL})
    hub_client.train(model, cells, plan=REFERENCE_PLAN, seed=seed, progress=False)
    mapping = hub_client.map_query(task.cells, model, plan=QUERY_PLAN, seed=seed, progress=False)
    found = evidence(mapping.model, mapping.predictions.latent)[LABEL]
    names = np.array(found.labels)
    return {name: names[probabilities(found, rule).argmax(axis=1)] for name, rule in RULES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for task in tasks(anndata.read_h5ad(arguments.data), folds=arguments.folds):
        rows.append(("kNN after PCA", task.query, "", *scores(task, after_pca(task))))
        for seed in arguments.seeds:
            named = by_scpoli(task, seed=seed)
            rows += [(method, task.query, seed, *scores(task, labels)) for method, labels in named.items()]
    table = pd.DataFrame(rows, columns=["method", "query", "seed", "accuracy", "macro-F1"])
    print("\n".join(_markdown(table.sort_values(["query", "method", "seed"], key=lambda column: column.astype(str)))))


def _markdown(table: pd.DataFrame) -> Iterator[str]:
    yield "| " + " | ".join(table.columns) + " |"
    yield "|" + "---|" * len(table.columns)
    for method, query, seed, accuracy, f1 in table.itertuples(index=False):
        yield f"| {method} | {query} | {seed} | {accuracy:.3f} | {f1:.3f} |"


if __name__ == "__main__":
    main()

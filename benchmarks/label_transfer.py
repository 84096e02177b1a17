"""Transfer labels onto two PBMC query batches and score them beside nearest neighbours after PCA.

    python benchmarks/label_transfer.py ../shared/data/pbmc_multibatch.h5ad [--seeds 0 1 2] [--folds]
        [--architectures scpoli trvae scvi scanvi] [--starts best] [--query-epochs 20] [--all]

Reference and query are the file's ``obs["split"]``: four batches, and two query batches that are mapped each on its
own. ``--folds`` maps each reference batch onto the other three instead: what settings are chosen by. The score is over
cells whose true label the reference has: accuracy, and F1 averaged over the labels that occur among them. Calibration
error and AUROC judge the uncertainty, which is calibrated on the tenth of the reference that training holds out;
labels are then transferred from all of it.
``--all`` tries every way of label transfer. Prints Markdown: each seed, then the means; figures go to stderr as they
come.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, product

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

import hub_client
from hub_client import Model
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.calibrate import calibrate
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.transfer import evidence
from hub_client.manifest import Manifest, Plan
from hub_client.manifest.calibration import Calibration
from hub_client.manifest.recommended import QUERY_PLAN
from hub_client.manifest.v1 import PrototypeLevel
from hub_client.models.architectures import Start
from hub_client.nn.training import split

LABEL = "cell_type_broad"
REFERENCE_PLAN = Plan(
    epochs=50,
    kl_anneal_epochs=50,
    sampling="stratified",
    early_stopping=None,
    keep_best=False,
)
WAYS = {
    "consensus": Calibration(level=LABEL, transfer="consensus", prior=1.0, temperature=1.0),
    "mixtures": Calibration(level=LABEL, transfer="mixtures", prior=1.0, temperature=1.0),
    "expression alone": Calibration(level=LABEL, transfer="expression", temperature=1.0),
    "Gaussian prototypes": Calibration(level=LABEL, transfer="gaussians", prior=1.0, temperature=1.0),
    "nearest prototype": Calibration(level=LABEL, transfer="prototypes", temperature=1.0),
    "15 neighbours": Calibration(level=LABEL, transfer="neighbors", neighbors=15, temperature=1.0),
    "50 neighbours": Calibration(level=LABEL, transfer="neighbors", neighbors=50, temperature=1.0),
    "its own classifier": Calibration(level=LABEL, transfer="network", temperature=1.0),
    "average of prototypes and neighbours": Calibration(level=LABEL, transfer="average", temperature=1.0),
    "consensus, prior 0.5": Calibration(level=LABEL, transfer="consensus", prior=0.5, temperature=1.0),
    "consensus, prior 1.5": Calibration(level=LABEL, transfer="consensus", prior=1.5, temperature=1.0),
}
"""The ways of label transfer."""
WITHOUT_LATENT = ("expression alone",)
"""Those that are the same for every architecture."""


@dataclass(frozen=True)
class Family:
    """An architecture with its settings, how it trains on the reference, and the ways of transfer it is judged by."""

    title: str
    architecture: Mapping[str, object]
    encoding: Mapping[str, object]
    plan: Plan
    ways: tuple[str, ...]
    more_ways: tuple[str, ...]
    prototypes: bool = False

    def rules(self, *, every: bool) -> dict[str, Calibration]:
        """Return the ways of transfer by the names they have in the table."""
        ways = (*self.ways, *(self.more_ways if every else ()))
        return {way if way in WITHOUT_LATENT else f"{self.title}, {way}": WAYS[way] for way in ways}


FAMILIES = {
    "scpoli": Family(
        "scPoli",
        architecture={"kind": "scpoli", "hidden": (256,), "latent": 16, "dropout": 0.3},
        encoding={"kind": "embedding", "dim": 5},
        plan=REFERENCE_PLAN.changed(pretraining_epochs=35),
        ways=("consensus", "mixtures", "expression alone", "Gaussian prototypes", "nearest prototype"),
        more_ways=(
            "50 neighbours",
            "average of prototypes and neighbours",
            "consensus, prior 0.5",
            "consensus, prior 1.5",
        ),
        prototypes=True,
    ),
    "trvae": Family(
        "trVAE",
        architecture={"kind": "trvae", "hidden": (256,), "latent": 16, "dropout": 0.3},
        encoding={"kind": "one-hot"},
        plan=REFERENCE_PLAN,
        ways=("consensus", "mixtures", "expression alone", "50 neighbours"),
        more_ways=("15 neighbours", "consensus, prior 0.5", "consensus, prior 1.5"),
    ),
    "scvi": Family(
        "scVI",
        architecture={"kind": "scvi", "hidden": 256, "latent": 16, "dropout": 0.3, "likelihood": "nb"},
        encoding={"kind": "one-hot"},
        plan=REFERENCE_PLAN,
        ways=("consensus", "mixtures", "expression alone", "15 neighbours", "50 neighbours"),
        more_ways=("consensus, prior 0.5", "consensus, prior 1.5"),
    ),
    "scanvi": Family(
        "scANVI",
        architecture={"kind": "scanvi", "hidden": 256, "latent": 16, "dropout": 0.3, "likelihood": "nb"},
        encoding={"kind": "one-hot"},
        plan=REFERENCE_PLAN,
        ways=("consensus", "mixtures", "its own classifier", "15 neighbours"),
        more_ways=("50 neighbours", "consensus, prior 0.5", "consensus, prior 1.5"),
    ),
}
FIGURES = ["accuracy", "macro-F1", "calibration error", "error AUROC"]


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
    f1 = f1_score(truth, named, average="macro", zero_division=0)
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


def described(reference: anndata.AnnData, family: Family) -> Manifest:
    labels = sorted(reference.obs[LABEL].unique())
    return Manifest.model_validate(
        {
            "name": "benchmark",
            "architecture": family.architecture,
            "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in reference.var_names]},
            "conditions": [
                {
                    "key": "batch",
                    "categories": sorted(reference.obs["batch"].unique()),
                    "encoding": family.encoding,
                }
            ],
            "labels": [{"key": LABEL, "categories": labels, "ontology": dict.fromkeys(labels)}],
            "prototypes": {"levels": [PrototypeLevel.of(0, LABEL)] if family.prototypes else []},
        }
    )


@dataclass(frozen=True)
class Reference:
    """A trained model that knows all reference cells, and what its uncertainty is calibrated by.

    ``judged`` has the same weights, but knows only the cells it was trained on, not those held out.
    """

    model: Model
    judged: Model
    held_out: Cells


def trained(task: Task, family: Family, *, seed: int) -> Reference:
    model = hub_client.Model.build(described(task.reference, family), seed=seed)
    cells = hub_client.align(task.reference, model, labels={LABEL: LABEL})
    hub_client.train(model, cells, plan=family.plan, seed=seed, progress=False)
    # with keep_best=False the cells that training holds out to validate have no part in the weights
    kept, held_out = split(cells, model.vocabulary, fraction=family.plan.validation_fraction, seed=seed)
    judged = _informed(model, cells.rows(kept.numpy()))
    return Reference(_informed(model, cells), judged, cells.rows(held_out.numpy()))


def _informed(model: Model, cells: Cells) -> Model:
    """Return the model with the reference cells that labels are transferred from."""
    return with_expression_classifiers(with_atlas(model, cells), cells)


def by_mapping(
    task: Task, reference: Reference, rules: Mapping[str, Calibration], *, start: Start, epochs: int, seed: int
) -> dict[str, tuple[float, ...]]:
    """Return each rule's figures, in the order of ``FIGURES``."""
    plan = QUERY_PLAN.model_copy(update={"epochs": epochs})
    mapping = hub_client.map_query(task.cells, reference.model, start=start, plan=plan, seed=seed, progress=False)
    cells = hub_client.align(task.cells, mapping.model)
    return {name: _figures(task, mapping.model, cells, reference, rule) for name, rule in rules.items()}


def _figures(task: Task, model: Model, cells: Cells, reference: Reference, rule: Calibration) -> tuple[float, ...]:
    judged = _ruled(reference.judged, rule)
    found = evidence(judged, hub_client.embed(judged, reference.held_out), cells=reference.held_out)[LABEL]
    fitted = calibrate(found, reference.held_out.labels[LABEL], calibration=rule)
    predictions = hub_client.predict(_ruled(model, fitted), cells, unknown_above=None)
    report = hub_client.evaluate(predictions, {LABEL: task.truth})[LABEL]
    auroc = np.nan if report.error_auroc is None else report.error_auroc
    return report.accuracy, report.macro_f1, report.calibration_error, auroc


def _ruled(model: Model, rule: Calibration) -> Model:
    trust = model.manifest.trust.model_copy(update={"calibrations": (rule,)})
    return replace(model, manifest=model.manifest.model_copy(update={"trust": trust}))


def rows(asked: list[Task], options: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    for task in asked:
        yield ("kNN after PCA", "", task.query, 0, *scores(task, after_pca(task)), np.nan, np.nan)
    for name, seed in product(options.architectures, options.seeds):
        family = FAMILIES[name]
        for alike in _sharing(asked):
            reference = trained(alike[0], family, seed=seed)
            for task in alike:
                yield from _mapped(task, reference, family, options, seed=seed)


def _sharing(asked: list[Task]) -> list[list[Task]]:
    """Return the tasks in groups that have the same reference: it is trained once for each."""
    return [list(group) for _, group in groupby(asked, key=lambda task: sorted(task.reference.obs["batch"].unique()))]


def _mapped(
    task: Task, reference: Reference, family: Family, options: argparse.Namespace, *, seed: int
) -> Iterator[tuple[object, ...]]:
    rules = family.rules(every=options.all)
    for start, epochs in product(options.starts, options.query_epochs):
        found = by_mapping(task, reference, rules, start=start, epochs=epochs, seed=seed)
        setting = f"{start}, {epochs} epochs"
        yield from ((method, setting, task.query, seed, *figures) for method, figures in found.items())


def _told(found: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """Tell each row on stderr as it comes."""
    for row in found:
        print(*map(_cell, row), file=sys.stderr, flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--architectures", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", action="store_true")
    parser.add_argument("--starts", nargs="+", choices=["best", "mean", "random"], default=["best"])
    parser.add_argument("--query-epochs", type=int, nargs="+", default=[20])
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    asked = list(tasks(anndata.read_h5ad(options.data), folds=options.folds))
    found = list(_told(rows(asked, options)))
    keys = ["method", "new rows", "query", "seed"]
    table = pd.DataFrame(found, columns=[*keys, *FIGURES]).drop_duplicates(keys)
    print("\n".join(_markdown(table.sort_values(["query", "method", "new rows", "seed"]))), end="\n\n")
    print("\n".join(_markdown(_means(table, ["query", "method", "new rows"]))), end="\n\n")
    print("\n".join(_markdown(_means(table, ["method", "new rows"]))))


def _means(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return means over seeds within each query, then over queries where ``by`` does not name them."""
    within = table.groupby([*by, *({"query"} - set(by))], as_index=False)[FIGURES].mean()
    return within.groupby(by, as_index=False)[FIGURES].mean()


def _markdown(table: pd.DataFrame) -> Iterator[str]:
    yield "| " + " | ".join(table.columns) + " |"
    yield "|" + "---|" * len(table.columns)
    for row in table.itertuples(index=False):
        yield "| " + " | ".join(_cell(value) for value in row) + " |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)


if __name__ == "__main__":
    main()

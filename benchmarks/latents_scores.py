"""How good a latent is: labels of the query from it alone, and scib-metrics of reference and query together."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable

import anndata
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from benchmarks.latents_sets import BATCH, LABEL, UNLABELLED, MappingSet, log_normalised

NEIGHBOURS = 15
COMPONENTS = 50
SCIB_CELLS = 2000
SCIB = {"batch": "Batch correction", "biology": "Bio conservation", "total": "Total"}
Latent = NDArray[np.float32]
RULES: dict[str, Callable[[], object]] = {
    "neighbours": lambda: KNeighborsClassifier(NEIGHBOURS),
    "prototypes": NearestCentroid,
}
"""Ways to label a cell by its place in the latent: its nearest cells, and the nearest mean of a label's cells."""


def label_scores(pair: MappingSet, reference: Latent, query: Latent) -> dict[str, float]:
    """Return accuracy and macro-F1 by each rule, over the query's cells whose label the reference has."""
    names = pair.reference.obs[LABEL].to_numpy(dtype=str)
    kept = names != UNLABELLED
    figures: dict[str, float] = {}
    for rule, made in RULES.items():
        predicted = made().fit(reference[kept], names[kept]).predict(query[pair.scored])  # type: ignore[attr-defined]
        figures |= agreement(pair, predicted, rule=rule)
    return figures


def agreement(pair: MappingSet, predicted: NDArray[np.str_], *, rule: str) -> dict[str, float]:
    """Return accuracy and macro-F1 of labels that were given to the scored cells."""
    truth = pair.query.obs[LABEL].to_numpy(dtype=str)[pair.scored]
    f1 = f1_score(truth, predicted, average="macro", zero_division=0)
    return {f"{rule}_accuracy": float(accuracy_score(truth, predicted)), f"{rule}_f1": float(f1)}


def scib_scores(pair: MappingSet, reference: Latent, query: Latent) -> dict[str, float]:
    """Return scib-metrics' batch correction, bio conservation and total, of reference and query together.

    At most about 2,000 labelled cells are taken, each batch and label by its share: the same ones for every method.
    """
    from scib_metrics.benchmark import Benchmarker

    gc.freeze()  # scib-metrics collects before each metric, at a second a time where PyTorch and JAX are loaded
    joint = anndata.concat([pair.reference, pair.query])
    chosen = drawn(joint)
    cells = joint[chosen].copy()
    cells.obsm["before"] = PCA(_components(cells), random_state=0).fit_transform(log_normalised(cells).toarray())
    cells.obsm["latent"] = np.concatenate([reference, query])[chosen].astype(np.float32)
    logging.getLogger("scib_metrics").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Benchmarker(
            cells, BATCH, LABEL, ["latent"], pre_integrated_embedding_obsm_key="before", progress_bar=False
        )
        found.benchmark()
        row = found.get_results(min_max_scale=False).loc["latent"]
    return {f"scib_{ours}": float(row[theirs]) for ours, theirs in SCIB.items()}


def drawn(cells: anndata.AnnData) -> NDArray[np.intp]:
    """Return the positions of the labelled cells that scib-metrics sees: of each batch and label its share."""
    generator = np.random.default_rng(0)
    labelled = np.flatnonzero(cells.obs[LABEL].to_numpy() != UNLABELLED)
    share = min(1.0, SCIB_CELLS / len(labelled))
    groups = cells.obs.iloc[labelled].groupby([BATCH, LABEL], sort=True, observed=True).indices.values()
    kept = [generator.permutation(group)[: max(1, round(share * len(group)))] for group in groups]
    return np.sort(labelled[np.concatenate(kept)])


def _components(cells: anndata.AnnData) -> int:
    return min(COMPONENTS, cells.n_obs - 1, cells.n_vars - 1)

"""criticise(): how well a trained model reproduces its own data, and what its latent is worth beside PCA."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub_client import errors
from hub_client.build.integration import integration_scores
from hub_client.data.cells import Cells
from hub_client.data.fingerprint import fingerprint
from hub_client.manifest.calibration import Metric
from hub_client.manifest.measures import INTEGRATED, INTEGRATION, LATENT, NOT_OF_MEANS, PCA, REPRODUCED, REPRODUCTION
from hub_client.manifest.recipe import CriticismRule, Recipe
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.models.posterior_predictive import Replicate, posterior_predictive
from hub_client.nn.training import say

LEAST_CELLS = 10
"""Genes that fewer of the cells express are not judged: their figures are those of a few counts."""
WORST = 5
"""How many of the genes that fit worst are named."""
SPACES = {LATENT: "the model's latent", PCA: "50 principal components of z-scored log counts of the same cells"}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """What all metrics of a build state of where they come from."""

    dataset: str
    """The names of the data sets."""
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> Source:
        """Return that of a recipe's build."""
        return cls(" + ".join(dataset.name for dataset in recipe.datasets), recipe.seed)

    def stated(self, manifest: Manifest, cells: Cells, *, split: str) -> dict[str, Any]:
        """Return a metric's fields beside its name, definition, value and number of cells, of figures of some cells."""
        return {
            "dataset": self.dataset,
            "dataset_fingerprint": fingerprint(cells.x, manifest.genes.names),
            "split": split,
            "seed": self.seed,
        }


def criticise(
    model: Model, training: Cells, held_out: Cells, *, source: Source, rule: CriticismRule, progress: bool = True
) -> tuple[Metric, ...]:
    """Return the metrics of a trained model's criticism.

    Draws from the model are compared with its data (:func:`hub_client.models.posterior_predictive`), and its latent
    with principal components. The time both take is told.

    Parameters
    ----------
    model
        A trained model.
    training
        The cells it was trained on: those that it is to reproduce.
    held_out
        The cells of the same data that it was not: its latent is judged by both.
    source
        What the metrics state of the data.
    rule
        Which parts are wanted.
    progress
        Whether to tell what is done, and how long it took.
    """
    started, tell = time.perf_counter(), say if progress else _silent
    found: list[Metric] = []
    if rule.reproduction:
        tell("drawing counts from the model to compare with its data")
        found += reproduction_metrics(model, training, source=source)
    if rule.integration:
        tell("comparing the latent with principal components of the same cells")
        found += integration_metrics(model, (training, held_out), source=source, tell=tell)
    if found:
        tell(f"criticised in {time.perf_counter() - started:.0f} s")
    return tuple(found)


def _silent(text: str) -> None:
    """Say nothing."""


# --- does it reproduce its data? -------------------------------------------------------------------------------------


def reproduction_metrics(model: Model, cells: Cells, *, source: Source) -> list[Metric]:
    """Return how well draws from a model are like its data, gene by gene and cell by cell."""
    replicate = posterior_predictive(model, cells, seed=source.seed)
    figures = reproduction_figures(replicate)
    worst = worst_genes(replicate, model.manifest.genes.names)
    told = {"mean_log_ratio": f"; fit worst: {errors.names(worst, shown=WORST)}" if worst else ""}
    shared = source.stated(model.manifest, cells, split="trained on, and drawn anew")
    return [
        Metric(
            name=f"{REPRODUCTION}.{figure}",
            definition=REPRODUCED[figure].definition + told.get(figure, ""),
            value=value,
            n=replicate.cells,
            **shared,
        )
        for figure, value in figures.items()
    ]


def reproduction_figures(replicate: Replicate) -> dict[str, float]:
    """Return the figures of :data:`hub_client.manifest.measures.REPRODUCED`; empty where no gene can be judged."""
    judged, least = _judged(replicate), _least(replicate)
    observed, drawn = replicate.observed, replicate.drawn
    if judged.sum() < 2:
        return {}
    figures: dict[str, float] = {}
    for name in ("mean", "variance"):
        pair = tuple(np.log(getattr(side, name)[judged] + least) for side in (observed, drawn))
        figures |= {f"{name}_correlation": _correlation(*pair), f"{name}_log_ratio": _apart(*pair)}
    figures["zeros_difference"] = float(np.abs(observed.zeros - drawn.zeros)[judged].mean())
    figures["total_log_ratio"] = _apart(np.log1p(observed.totals), np.log1p(drawn.totals))
    detected = np.log1p(observed.detected), np.log1p(drawn.detected)
    figures |= {"detected_correlation": _correlation(*detected), "detected_log_ratio": _apart(*detected)}
    wanted = (name for name in REPRODUCED if replicate.counts or name not in NOT_OF_MEANS)
    return {name: figures[name] for name in wanted}


def worst_genes(replicate: Replicate, genes: tuple[str, ...]) -> list[str]:
    """Return the genes whose mean is drawn worst, and how many times the observed it is, the worst first."""
    least, judged = _least(replicate), np.flatnonzero(_judged(replicate))
    observed, drawn = (np.log(side.mean[judged] + least) for side in (replicate.observed, replicate.drawn))
    order = np.argsort(-np.abs(drawn - observed), kind="stable")[:WORST]
    return [f"{genes[judged[place]]} (x {np.exp(drawn[place] - observed[place]):.2g})" for place in order]


def _judged(replicate: Replicate) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = replicate.observed.expressing >= LEAST_CELLS
    return found


def _least(replicate: Replicate) -> float:
    """Return half a count in all of the cells: what is added before logarithms."""
    return 0.5 / max(replicate.cells, 1)


def _correlation(left: Array, right: Array) -> float:
    """Return the Pearson correlation, 0 where a side does not vary."""
    if left.std() < 1e-12 or right.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def _apart(left: Array, right: Array) -> float:
    return float(np.median(np.abs(left - right)))


# --- what is its latent worth? ---------------------------------------------------------------------------------------


def integration_metrics(
    model: Model, parts: Sequence[Cells], *, source: Source, tell: Callable[[str], None] = _silent
) -> list[Metric]:
    """Return how well the latent, and principal components of the same cells, mix batches and keep labels apart."""
    found = integration_scores(model, parts, seed=source.seed, tell=tell)
    if found is None:
        return []
    split = f"trained on and held out, {found.level} by {found.batch}"
    shared = source.stated(model.manifest, parts[0], split=split)
    return [
        Metric(
            name=f"{INTEGRATION}.{space}.{figure}",
            definition=f"{INTEGRATED[figure].definition}, in {SPACES[space]}",
            value=value,
            n=found.cells,
            **shared,
        )
        for space, figures in found.spaces.items()
        for figure, value in figures.items()
    ]

"""integration_scores(): what a latent is worth beside principal components of the same cells."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from hub_client.data.cells import Cells
from hub_client.labels.neighbors import exact
from hub_client.labels.opponents import Counts, counts_of, principal_components
from hub_client.manifest.measures import LATENT, PCA
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.nn.training import quiet

MOST_CELLS = 3000
"""How many cells are compared, at most: of each batch and label its share."""
NEIGHBOURS = 15
LEAST_CELLS = 50
"""Fewer cells of two batches are not compared."""
SCIB = {"batch_correction": "Batch correction", "bio_conservation": "Bio conservation"}
"""scib-metrics' aggregates, by our names for them."""
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Integration:
    """How well spaces mix batches and keep labels apart."""

    level: str
    """The label level, the finest."""
    batch: str
    """The condition that is to be mixed, the first."""
    cells: int
    spaces: dict[str, dict[str, float]]
    """Figures of :data:`hub_client.manifest.measures.INTEGRATED`, by space."""


@dataclass(frozen=True)
class Labelled:
    """Cells with a label and a batch in several spaces."""

    labels: NDArray[Any]
    """``(cells,)``"""
    batches: NDArray[Any]
    """``(cells,)``"""
    spaces: dict[str, Points]
    """``(cells, dimensions)`` each."""


def integration_scores(
    model: Model, parts: Sequence[Cells], *, seed: int = 0, tell: Callable[[str], None] | None = None
) -> Integration | None:
    """Return how well a latent mixes batches and keeps labels apart, and how well principal components do.

    In both, a cell's label is compared with the one that most of its nearest cells of other batches have. Where
    scib-metrics is installed (``pip install 'archzoo[criticism]'``), its aggregates of batch correction and of bio
    conservation are added (Luecken 2022, doi 10.1038/s41592-021-01336-8); without it ``tell`` gets a sentence.

    Parameters
    ----------
    model
        A trained model.
    parts
        Aligned cells, with labels: at most 3,000 of them are taken, of each batch and label its share.
    seed
        Of the cells that are taken.
    tell
        Gets what there is to know.

    Returns
    -------
    Integration | None
        None for a model or cells without labels or without two batches.
    """
    if not model.manifest.labels or not model.manifest.conditions:
        return None
    level = max(model.manifest.labels, key=lambda found: len(found.categories)).key
    batch = model.manifest.conditions[0].key
    chosen = [part.rows(rows) for part, rows in zip(parts, _chosen(parts, level, batch, seed), strict=True)]
    cells = _labelled(model, [part for part in chosen if len(part)], level=level, batch=batch)
    if cells is None:
        return None
    figures = {space: {"neighbour_labels": neighbour_labels(cells, points)} for space, points in cells.spaces.items()}
    for space, found in _scib(cells, tell).items():
        figures[space] |= found
    return Integration(level, batch, len(cells.labels), figures)


def _chosen(parts: Sequence[Cells], level: str, batch: str, seed: int) -> list[NDArray[np.int64]]:
    """Return which cells of each part are taken: of each batch and label its share, and one at least."""
    labels = np.concatenate([_names(part.labels.get(level), len(part)) for part in parts])
    batches = np.concatenate([_names(part.conditions.get(batch), len(part)) for part in parts])
    labelled = np.flatnonzero(labels != "")
    generator, share = np.random.default_rng(seed), min(1.0, MOST_CELLS / max(len(labelled), 1))
    groups = pd.DataFrame({"label": labels[labelled], "batch": batches[labelled]}).groupby(["batch", "label"]).indices
    kept = [generator.permutation(rows)[: max(1, round(share * len(rows)))] for _, rows in sorted(groups.items())]
    taken = np.sort(labelled[np.concatenate([*kept, np.empty(0, np.int64)]).astype(np.int64)])
    ends = np.cumsum([0, *map(len, parts)])
    return [taken[(taken >= low) & (taken < high)] - low for low, high in pairwise(ends)]


def _names(values: NDArray[Any] | None, cells: int) -> NDArray[Any]:
    return np.full(cells, "") if values is None else np.asarray(values, dtype=str)


def _labelled(model: Model, parts: Sequence[Cells], *, level: str, batch: str) -> Labelled | None:
    """Return cells in the latent and in principal components; None without two batches, two labels or enough cells."""
    if not parts:
        return None
    labels = np.concatenate([part.labels[level] for part in parts]).astype(str)
    batches = np.concatenate([part.conditions[batch] for part in parts]).astype(str)
    if len(labels) < LEAST_CELLS or min(len(np.unique(labels)), len(np.unique(batches))) < 2:
        return None
    counts = Counts(csr_matrix(vstack([counts_of(model, part).values for part in parts])))
    latent = np.concatenate([embed(model, part) for part in parts])
    components = principal_components(counts).of(counts).astype(np.float32)
    return Labelled(labels, batches, {LATENT: latent, PCA: components})


def neighbour_labels(cells: Labelled, points: Points) -> float:
    """Return the share of cells whose label is the one that most of their nearest cells of other batches have.

    Of cells whose label no other batch has nothing is asked.
    """
    right, asked = 0, 0
    for batch in np.unique(cells.batches):
        own, others = cells.batches == batch, cells.batches != batch
        own &= np.isin(cells.labels, cells.labels[others])
        if own.any():
            given = _majority(points[others], cells.labels[others], points[own])
            right, asked = right + int((given == cells.labels[own]).sum()), asked + int(own.sum())
    return right / max(asked, 1)


def _majority(reference: Points, labels: NDArray[Any], query: Points) -> NDArray[Any]:
    names, codes = np.unique(labels, return_inverse=True)
    nearest = exact(reference, query, neighbors=min(NEIGHBOURS, len(reference))).indices
    votes = np.zeros((len(query), len(names)))
    np.add.at(votes, (np.arange(len(query))[:, None], codes[nearest]), 1)
    found: NDArray[Any] = names[votes.argmax(axis=1)]
    return found


# --- scib-metrics ----------------------------------------------------------------------------------------------------


def _scib(cells: Labelled, tell: Callable[[str], None] | None) -> dict[str, dict[str, float]]:
    """Return scib-metrics' aggregates of each space; none where it is not installed, of which ``tell`` is told."""
    if find_spec("scib_metrics") is not None:
        return scib_scores(cells)
    if tell is not None:
        tell("scib-metrics is not installed, so its scores of the latent are left out: `pip install scib-metrics`")
    return {}


def scib_scores(cells: Labelled) -> dict[str, dict[str, float]]:
    """Return scib-metrics' batch correction and bio conservation of each space, in [0, 1] and not scaled by another."""
    with _undisturbed():
        from scib_metrics.benchmark import Benchmarker

        adata = AnnData(obs=pd.DataFrame({"batch": cells.batches, "label": cells.labels}).astype("category"))
        adata.obs_names = adata.obs_names.astype(str)
        for space, points in cells.spaces.items():
            adata.obsm[space] = points
        names = list(cells.spaces)
        found = Benchmarker(adata, "batch", "label", names, pre_integrated_embedding_obsm_key=PCA, progress_bar=False)
        found.prepare(_nearest)
        found.benchmark()
        table = found.get_results(min_max_scale=False)
    return {space: {ours: float(table.loc[space, theirs]) for ours, theirs in SCIB.items()} for space in names}


def _nearest(points: Points, neighbors: int) -> Any:
    """Return neighbours as scib-metrics has them: exact, as pynndescent's compilation takes longer than the search."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    found = exact(points, points, neighbors=min(neighbors, len(points)))
    return NeighborsResults(indices=found.indices, distances=found.distances)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Silence scib-metrics and JAX; objects of before are not looked through for garbage, as it does before a score."""
    gc.freeze()
    try:
        with quiet("scib_metrics", "jax", level=logging.WARNING), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gc.unfreeze()

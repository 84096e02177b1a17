"""Recipes of benchmarks/label_transfer.py: of references that are built to be measured, and with corrected labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from benchmarks.label_transfer_sets import LEVEL, TransferSet, zoo_reference
from benchmarks.latents_sets import BATCH, DEPTH, LABEL, UNLABELLED, described
from hub_client.build import datasets
from hub_client.data.fingerprint import fingerprint
from hub_client.manifest.recipe import Recipe


def audited(sets: Sequence[TransferSet], path: Path, folder: Path) -> Iterator[TransferSet]:
    """Yield the sets whose reference a recipe of the zoo's reference corrects, with the labels that it corrects.

    The zoo's reference is as the recipe reads it, without cells that it takes the label of. Other references that share
    cells with it get these cells' labels, unless the recipe leaves cells out, as it numbers those that it keeps.
    """
    corrected, as_given = _loaded(Recipe.read(path), folder), zoo_reference(folder)
    changed = pd.Series(dtype=object)
    if corrected.n_obs == as_given.n_obs:
        corrected.obs_names = as_given.obs_names
        changed = corrected.obs[LABEL][corrected.obs[LABEL] != as_given.obs[LABEL]]
    for one in sets:
        if one.released:
            yield one.relabelled(_labelled(corrected))
        elif one.reference.obs_names.isin(changed.index).any():
            reference = one.reference.copy()
            reference.obs[LABEL] = changed.reindex(reference.obs_names).fillna(reference.obs[LABEL])
            yield one.relabelled(_labelled(reference))


def _loaded(found: Recipe, folder: Path) -> anndata.AnnData:
    return described(datasets.load(found, folder).counts, label=LEVEL, batch=BATCH, unlabelled="")


def _labelled(cells: anndata.AnnData) -> anndata.AnnData:
    return cells[(cells.obs[LABEL] != UNLABELLED).to_numpy()].copy()


def depth_is_given(cells: anndata.AnnData) -> bool:
    """Return whether depth is other than the sum over the genes that are there, so that a model has to be told."""
    return not np.allclose(cells.obs[DEPTH], np.asarray(cells.X.sum(1)).ravel())


def recipe(reference: anndata.AnnData, folder: Path, *, kind: str, seed: int) -> Recipe:
    """Return the recipe of a reference, whose cells it writes into the folder: settings are the recommended ones."""
    reference.write_h5ad(folder / "reference.h5ad")
    labels = sorted(set(reference.obs[LABEL]))
    given = {"size_factor": DEPTH} if depth_is_given(reference) else {}
    data = {
        "name": "reference",
        "file": "reference.h5ad",
        "source": "benchmarks/label_transfer.py",
        "fingerprint": fingerprint(reference),
        "conditions": {BATCH: BATCH},
        "labels": {LABEL: LABEL},
    }
    return Recipe.model_validate(
        ABOUT
        | {
            "datasets": [data],
            "conditions": [{"key": BATCH, "encoding": {"kind": "embedding" if kind == "scpoli" else "one-hot"}}],
            "labels": [{"key": LABEL, "without_id": labels}],
            "architecture": {"kind": kind},
            "input": given,
            "seed": seed,
        }
    )


ABOUT = {
    "recipe_version": 2,
    "name": "benchmark",
    "version": "1.0.0",
    "title": "A reference of the benchmark of label transfer",
    "summary": "Built to be measured.",
    "authors": [{"name": "the archzoo developers"}],
    "license": "CC-BY-4.0",
    "data_license": "CC-BY-4.0",
    "intended_use": "To be measured.",
    "limitations": "It is measured and thrown away.",
    "ontologies": {"NCBITaxon": "2026-05-13"},
    "organism": {"id": "NCBITaxon:9606", "label": "Homo sapiens"},
    "panel": {"size": None},
    "trust": {"transfer": "consensus", "prior": 1.0},
    "atlas": True,
}
"""What recipes of the benchmark have in common."""

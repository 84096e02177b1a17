"""The methods of benchmarks/label_transfer.py: each labels queries by a reference, and says how sure it is.

Opponents have the genes that reference and query share, networks and neighbours the 2,000 most variable of these, and
are trained anew for each query. Settings are the tools' own, or those of their tutorials.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks.label_transfer_sets import TransferSet, matched
from benchmarks.latents_methods import EARLY_STOPPING, QUIET, SCARCHES, Clock, minibatch, one_thread, scvi_reference
from benchmarks.latents_sets import BATCH, LABEL, log_normalised

POPV = "ARCHZOO_BENCHMARK_POPV"
"""The environment variable with the Python that has popV, set by the command's option."""
NEIGHBOURS, COMPONENTS, LARGEST = 15, 50, 10.0
"""LARGEST: how many standard deviations above its mean a scaled gene may be, as CellTypist has it."""


@dataclass(frozen=True)
class Labelled:
    """What a method says of one part of a query.

    Attributes
    ----------
    part
        The name of set and part.
    labels
        The label of each cell, ``(cells,)``.
    uncertainty
        How probable it is that the label is wrong, ``(cells,)``, in [0, 1].
    probabilities
        Of each label, ``(cells, labels)``.
    sets
        Which labels a cell may have at an error rate of 5 %, ``(cells, labels)``; None for a method without.
    seconds
        Of training and labelling.
    """

    part: str
    labels: NDArray[np.object_]
    uncertainty: NDArray[np.float64]
    probabilities: pd.DataFrame
    sets: pd.DataFrame | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


Run: TypeAlias = Callable[[Sequence[TransferSet], int], Iterator[Labelled]]


@dataclass(frozen=True)
class Method:
    """A row of the page. ``seeded`` is False where every seed gives the same; ``needs`` names an environment variable.

    ``audited`` methods have the reference with corrected labels.
    """

    name: str
    title: str
    run: Run
    seeded: bool = True
    needs: str | None = None
    audited: bool = False


def from_probabilities(part: str, probabilities: pd.DataFrame, **more: Any) -> Labelled:
    """Return the likeliest labels; what is left to certainty is the uncertainty."""
    values = probabilities.to_numpy(dtype=float)
    labels = probabilities.columns.to_numpy(dtype=object)[values.argmax(1)]
    return Labelled(part, labels, 1 - values.max(1), probabilities, **more)


# --- without a network -----------------------------------------------------------------------------------------------


def logistic_regression(sets: Sequence[TransferSet], seed: int) -> Iterator[Labelled]:
    """Label by one logistic regression over all labels, of log counts that are scaled as CellTypist does."""
    for query, classifier, values, seconds in _regressed(sets, LogisticRegression(C=1.0, max_iter=1000)):
        yield from_probabilities(
            query[0], _frame(query[1], classifier.predict_proba(values), classifier.classes_), seconds=seconds
        )


def celltypist(sets: Sequence[TransferSet], seed: int) -> Iterator[Labelled]:
    """Label by CellTypist's classifier: logistic regressions of each label against the rest, of scaled log counts.

    Its certainty is the best label's own sigmoid, as CellTypist's ``conf_score``. These do not sum to 1 over all
    labels: shares of them are the probabilities.
    """
    classifier = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=1000))
    for query, fitted, values, seconds in _regressed(sets, classifier):
        sure = expit(fitted.decision_function(values))
        shares = _frame(query[1], sure / sure.sum(axis=1, keepdims=True), fitted.classes_)
        labels = fitted.classes_[sure.argmax(1)].astype(object)
        yield Labelled(query[0], labels, 1 - sure.max(1), shares, seconds=seconds)


def _regressed(
    sets: Sequence[TransferSet], classifier: Any
) -> Iterator[tuple[tuple[str, anndata.AnnData], Any, NDArray[np.float64], dict[str, float]]]:
    """Yield each query by name, the classifier that was fitted, the query's scaled values, and seconds so far."""
    reference, queries = matched(sets)
    clock = Clock()
    with clock.stage("reference"):
        scaler = StandardScaler()
        values = np.minimum(scaler.fit_transform(log_normalised(reference).toarray()), LARGEST)
        fitted = classifier.fit(values, _names(reference))
    for name, query in queries.items():
        with clock.stage("query"):
            values = np.minimum(scaler.transform(log_normalised(query).toarray()), LARGEST)
        yield (name, query), fitted, values, dict(clock.seconds)


def neighbours(sets: Sequence[TransferSet], seed: int) -> Iterator[Labelled]:
    """Label by the votes of 15 neighbours in 50 components of z-scored log counts."""
    reference, queries = matched(sets, variable=True)
    clock = Clock()
    with clock.stage("reference"):
        scaler = StandardScaler()
        values = np.clip(scaler.fit_transform(log_normalised(reference).toarray()), -LARGEST, LARGEST)
        components = PCA(COMPONENTS, random_state=seed).fit(values)
        fitted = KNeighborsClassifier(NEIGHBOURS).fit(components.transform(values), _names(reference))
    for name, query in queries.items():
        with clock.stage("query"):
            values = np.clip(scaler.transform(log_normalised(query).toarray()), -LARGEST, LARGEST)
            votes = fitted.predict_proba(components.transform(values))
        yield from_probabilities(name, _frame(query, votes, fitted.classes_), seconds=dict(clock.seconds))


def _names(cells: anndata.AnnData) -> NDArray[np.str_]:
    names: NDArray[np.str_] = cells.obs[LABEL].to_numpy(dtype=str)
    return names


def _frame(cells: anndata.AnnData, values: NDArray[np.float64], labels: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(np.asarray(values, dtype=float), index=cells.obs_names, columns=list(labels))


# --- networks of others ----------------------------------------------------------------------------------------------


def scanvi(sets: Sequence[TransferSet], seed: int) -> Iterator[Labelled]:
    """Label by scANVI of scvi-tools with the settings of its tutorial, trained for 100 epochs on each query."""
    import scvi

    one_thread()
    scvi.settings.seed = seed
    reference, queries = matched(sets, variable=True)
    clock = Clock()
    with clock.stage("reference"):
        model = scvi_reference(scvi.model, reference, kind="scanvi")
    for name, query in queries.items():
        with clock.stage("query"):
            mapped = scvi.model.SCANVI.load_query_data(query, model)
            mapped.train(max_epochs=100, plan_kwargs={"weight_decay": 0.0}, check_val_every_n_epoch=10, **QUIET)
            probabilities = mapped.predict(query, soft=True)
        yield from_probabilities(name, probabilities, seconds=dict(clock.seconds))


def elsewhere(
    sets: Sequence[TransferSet], seed: int, *, python: str, script: str, arguments: Sequence[str] = (), variable: bool
) -> Iterator[Labelled]:
    """Label in another interpreter, for tools that need other libraries: a script of this folder runs there."""
    reference, queries = matched(sets, variable=variable)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference.write_h5ad(folder / "reference.h5ad")
        for name, query in queries.items():
            query.write_h5ad(folder / f"query.{name}.h5ad")
        program = str(Path(__file__).with_name(script))
        command = [os.environ[python], program, str(folder), str(seed), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in queries:
            yield read_labelled(folder / f"{name}.npz")


def scpoli(
    classes: Any, reference: anndata.AnnData, queries: Mapping[str, anndata.AnnData], seed: int, *, epochs: int
) -> Iterator[Labelled]:
    """Label by scArches' scPoli, trained on the reference and on each query as in scArches' tutorial.

    Probabilities are those that its classifier makes of distances to prototypes; its other uncertainty, the distance to
    the nearest one, is no probability.
    """
    plan = {"n_epochs": epochs, "pretraining_epochs": epochs * 4 // 5, "seed": seed, "monitor": False}
    stopping = EARLY_STOPPING | {"early_stopping_metric": "val_prototype_loss", "mode": "min"}
    clock = Clock()
    with clock.stage("reference"):
        model = classes.scPoli(
            adata=reference, condition_keys=BATCH, cell_type_keys=LABEL, embedding_dims=5, recon_loss="nb"
        )
        model.train(**plan, eta=5, early_stopping_kwargs=stopping, batch_size=minibatch(reference))
    for name, query in queries.items():
        with clock.stage("query"):
            mapped = classes.scPoli.load_query_data(adata=query, reference_model=model, labeled_indices=[])
            mapped.train(**plan, eta=10, batch_size=minibatch(query))
            shares = mapped.classify(query, get_prob=True)[LABEL]["weighted_distances"]
        yield from_probabilities(name, _frame(query, shares, list(mapped.cell_types_)), seconds=dict(clock.seconds))


# --- what methods leave for others to read ---------------------------------------------------------------------------


def write_labelled(path: Path, found: Labelled) -> None:
    """Keep what a method said of a part, for the process that scores it, and to score it anew without training."""
    values = {
        "labels": found.labels.astype(str),
        "uncertainty": found.uncertainty,
        "probabilities": found.probabilities.to_numpy(dtype=float),
        "columns": np.array(list(found.probabilities.columns), dtype=str),
        "cells": np.array(list(found.probabilities.index), dtype=str),
        "facts": json.dumps({"part": found.part, "seconds": dict(found.seconds)}),
    }
    values |= {} if found.sets is None else {"sets": found.sets.to_numpy(dtype=bool)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **values)


def read_labelled(path: Path) -> Labelled:
    """Return what :func:`write_labelled` kept."""
    with np.load(path, allow_pickle=False) as kept:
        names, columns = kept["cells"].astype(object), kept["columns"].astype(object)
        sets = pd.DataFrame(kept["sets"], index=names, columns=columns) if "sets" in kept else None
        return Labelled(
            labels=kept["labels"].astype(object),
            uncertainty=kept["uncertainty"],
            probabilities=pd.DataFrame(kept["probabilities"], index=names, columns=columns),
            sets=sets,
            **json.loads(str(kept["facts"])),
        )


SCPOLI_EPOCHS = 400
METHODS = {
    method.name: method
    for method in (
        Method("lr", "LR", logistic_regression, seeded=False),
        Method("celltypist", "CellTypist's classifier", celltypist, seeded=False),
        Method("knn", "kNN after PCA", neighbours, seeded=False),
        Method("lr-audited", "LR, audited labels", logistic_regression, seeded=False, audited=True),
        Method("knn-audited", "kNN after PCA, audited labels", neighbours, seeded=False, audited=True),
        Method("scanvi", "scANVI, scvi-tools 1.4.2", scanvi),
        Method(
            "scpoli",
            f"scPoli, scArches 0.6.1, {SCPOLI_EPOCHS} epochs",
            partial(
                elsewhere,
                python=SCARCHES,
                script="label_transfer_scarches.py",
                arguments=[str(SCPOLI_EPOCHS)],
                variable=True,
            ),
            needs=SCARCHES,
        ),
        Method(
            "popv",
            "popV 0.6.1, vote",
            partial(elsewhere, python=POPV, script="label_transfer_popv.py", variable=False),
            needs=POPV,
        ),
    )
}
"""The opponents; what the library itself says of a query is in :mod:`benchmarks.label_transfer_ours`."""

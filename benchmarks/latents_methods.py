"""The methods of benchmarks/latents.py: each makes latents of a reference and of the queries that are mapped onto it.

Settings of the peers and of ``hub_client.compat`` are those of scArches' tutorials (0.6.1) and of scvi-tools' tutorial
on reference mapping; native models have what the library recommends.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.latents_sets import BATCH, LABEL, UNLABELLED, log_normalised

Mode = Literal["zero-shot", "trained"]
Latent = NDArray[np.float32]
COMPONENTS = 50
LARGEST = 10.0
"""How many standard deviations from its mean a scaled gene may be."""
SCARCHES = "ARCHZOO_BENCHMARK_SCARCHES"
"""The environment variable with the Python that has scArches, set by the command's option."""
EARLY_STOPPING = {"threshold": 0, "patience": 20, "reduce_lr": True, "lr_patience": 13, "lr_factor": 0.1}
QUIET = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "accelerator": "cpu"}


def one_thread() -> None:
    """Compute with one thread, so that CPU seconds compare.

    numba, which scanpy and scib-metrics compute with, sets OpenMP's number of threads for PyTorch, too, whose threads
    then spin where other programs want the cores.
    """
    numba.set_num_threads(1)
    torch.set_num_threads(1)


class Clock:
    """Seconds of each stage, of this process: ``reference``, ``query`` and ``embedding``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.seconds[f"{name}_cpu"] = time.process_time() - cpu
        self.seconds[f"{name}_wall"] = time.perf_counter() - wall


@dataclass(frozen=True)
class Mapped:
    """What a method makes of one query: latents ``(cells, latent)``, or labels where it has no latent."""

    query: str
    mode: Mode
    reference: Latent | None = None
    latent: Latent | None = None
    labels: NDArray[np.str_] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


Queries: TypeAlias = Mapping[str, anndata.AnnData]
Run: TypeAlias = Callable[[anndata.AnnData, Queries, int], Iterator[Mapped]]


@dataclass(frozen=True)
class Method:
    """A row of the page. ``seeded`` is False where every seed gives the same."""

    name: str
    title: str
    run: Run
    modes: tuple[Mode, ...] = ("zero-shot", "trained")
    seeded: bool = True
    latent: bool = True


# --- models of this library -------------------------------------------------------------------------------------------


def native(reference: anndata.AnnData, queries: Queries, seed: int, *, kind: str) -> Iterator[Mapped]:
    """Train a reference and map onto it with the settings that the library recommends for the kind."""
    import hub_client
    from hub_client.models.model import Model

    clock = Clock()
    with clock.stage("reference"):
        best = hub_client.recommended(kind, cells=reference.n_obs)
        model = Model.build(manifest(reference, architecture=dict(best.architecture)), seed=seed)
        cells = hub_client.align(reference, model, labels={LABEL: LABEL})
        hub_client.train(model, cells, seed=seed, progress=False)
    known = hub_client.embed(model, cells)
    for name, query in queries.items():
        grown = hub_client.surgery(model, hub_client.align(query, model), start="best", seed=seed)
        aligned = hub_client.align(query, grown)
        with clock.stage("embedding"):
            latent = hub_client.embed(grown, aligned)
        yield Mapped(name, "zero-shot", known, latent, seconds=without_query(clock))
        with clock.stage("query"):
            hub_client.train(grown, aligned, seed=seed, progress=False)
        yield Mapped(name, "trained", known, hub_client.embed(grown, aligned), seconds=dict(clock.seconds))


def without_query(clock: Clock) -> dict[str, float]:
    """Return the clock's seconds but those of training on a query."""
    return {name: seconds for name, seconds in clock.seconds.items() if not name.startswith("query")}


def manifest(reference: anndata.AnnData, *, architecture: Mapping[str, Any]) -> Any:
    """Describe a model of a reference's genes, batches and labels."""
    from hub_client.manifest import Manifest
    from hub_client.manifest.v1 import PrototypeLevel

    labels, embedded = sorted(set(reference.obs[LABEL]) - {UNLABELLED}), architecture["kind"] == "scpoli"
    described = {
        "name": "benchmark",
        "architecture": architecture,
        "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in reference.var_names]},
        "conditions": [
            {
                "key": BATCH,
                "categories": sorted(reference.obs[BATCH].unique()),
                "encoding": {"kind": "embedding" if embedded else "one-hot"},
            }
        ],
        "labels": [{"key": LABEL, "categories": labels, "ontology": dict.fromkeys(labels)}],
        "prototypes": {"levels": [PrototypeLevel.of(0, LABEL)] if embedded else []},
    }
    return Manifest.model_validate(described)


# --- scArches' classes: ours, and in an interpreter of their own scArches' ------------------------------------------


def scpoli(classes: Any, reference: anndata.AnnData, queries: Queries, seed: int, *, epochs: int) -> Iterator[Mapped]:
    """Run scArches' tutorial of scPoli; ``epochs`` is 50 there, of which four fifths are before prototypes."""
    clock, unknown = Clock(), [UNLABELLED] if (reference.obs[LABEL] == UNLABELLED).any() else None
    stopping = EARLY_STOPPING | {"early_stopping_metric": "val_prototype_loss", "mode": "min"}
    with clock.stage("reference"):
        model = classes.scPoli(
            adata=reference,
            condition_keys=BATCH,
            cell_type_keys=LABEL,
            embedding_dims=5,
            recon_loss="nb",
            unknown_ct_names=unknown,
        )
        model.train(
            n_epochs=epochs,
            pretraining_epochs=epochs * 4 // 5,
            early_stopping_kwargs=stopping,
            eta=5,
            seed=seed,
            monitor=False,
            batch_size=minibatch(reference),
        )
    for name, query in queries.items():
        mapped = classes.scPoli.load_query_data(adata=query, reference_model=model, labeled_indices=[])
        yield _scpoli_latents(mapped, reference, query, clock, name=name, mode="zero-shot")
        with clock.stage("query"):
            mapped.train(
                n_epochs=epochs,
                pretraining_epochs=epochs * 4 // 5,
                eta=10,
                seed=seed,
                monitor=False,
                batch_size=minibatch(query),
            )
        yield _scpoli_latents(mapped, reference, query, clock, name=name, mode="trained")


def minibatch(cells: anndata.AnnData) -> int:
    """Return the minibatch of scArches' scPoli: 128, or fewer where it would fail.

    To start prototypes it parts the cells it trains on into as many groups as a minibatch has cells, and fails for a
    group of one.
    """
    trained = int(np.ceil(0.9 * cells.n_obs))
    return min(128, 1 << (trained // 2).bit_length() - 1)


def _scpoli_latents(
    model: Any, reference: anndata.AnnData, query: anndata.AnnData, clock: Clock, *, name: str, mode: Mode
) -> Mapped:
    model.model.eval()
    with clock.stage("embedding"):
        latent = model.get_latent(query, mean=True)
    seconds = without_query(clock) if mode == "zero-shot" else dict(clock.seconds)
    return Mapped(name, mode, model.get_latent(reference, mean=True), latent, seconds=seconds)


def trvae(classes: Any, reference: anndata.AnnData, queries: Queries, seed: int, *, epochs: int) -> Iterator[Mapped]:
    """Run scArches' tutorial of trVAE, in which training may stop before its ``epochs``, 500 there."""
    clock = Clock()
    settings = {
        "n_epochs": epochs,
        "alpha_epoch_anneal": 200,
        "early_stopping_kwargs": EARLY_STOPPING | {"early_stopping_metric": "val_unweighted_loss"},
        "seed": seed,
        "monitor": False,
    }
    with clock.stage("reference"):
        model = classes.TRVAE(
            adata=reference,
            condition_key=BATCH,
            conditions=sorted(reference.obs[BATCH].unique()),
            hidden_layer_sizes=[128, 128],
        )
        model.train(**settings)
    for name, query in queries.items():
        mapped = classes.TRVAE.load_query_data(adata=query, reference_model=model)
        yield _trvae_latents(mapped, reference, query, clock, name=name, mode="zero-shot")
        with clock.stage("query"):
            mapped.train(**settings, weight_decay=0)
        yield _trvae_latents(mapped, reference, query, clock, name=name, mode="trained")


def _trvae_latents(
    model: Any, reference: anndata.AnnData, query: anndata.AnnData, clock: Clock, *, name: str, mode: Mode
) -> Mapped:
    def latent(cells: anndata.AnnData) -> Latent:
        found: Latent = model.get_latent(cells.X.toarray(), cells.obs[BATCH].to_numpy(dtype=str), mean=True)
        return found

    model.model.eval()
    with clock.stage("embedding"):
        mapped = latent(query)
    seconds = without_query(clock) if mode == "zero-shot" else dict(clock.seconds)
    return Mapped(name, mode, latent(reference), mapped, seconds=seconds)


def compat(
    reference: anndata.AnnData, queries: Queries, seed: int, *, tutorial: Callable[..., Iterator[Mapped]]
) -> Any:
    """Run a tutorial with this library's classes under scArches' names."""
    from hub_client import compat as classes

    torch.manual_seed(seed)  # weights are drawn by it, as scArches' are
    return tutorial(classes, reference, queries, seed)


def scarches(reference: anndata.AnnData, queries: Queries, seed: int, *, model: str, epochs: int) -> Iterator[Mapped]:
    """Run scArches itself, which needs older libraries: in the interpreter that ``--scarches`` names."""
    script = Path(__file__).with_name("latents_scarches.py")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference.write_h5ad(folder / "reference.h5ad")
        for name, query in queries.items():
            query.write_h5ad(folder / f"query.{name}.h5ad")
        command = [os.environ[SCARCHES], str(script), str(folder), model, str(epochs), str(seed)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for result in sorted(folder.glob("*.npz")):
            with np.load(result) as found:
                facts = json.loads(str(found["facts"]))
                yield Mapped(reference=found["reference"], latent=found["latent"], **facts)


# --- scvi-tools' classes, and ours of the same names -----------------------------------------------------------------


def scvi_tools(reference: anndata.AnnData, queries: Queries, seed: int, *, kind: str, own: bool) -> Iterator[Mapped]:
    """Map with scVI or scANVI as scvi-tools' and scArches' tutorials do; ``own`` takes this library's classes."""
    import scvi

    from hub_client import compat as ours

    classes, clock = ours if own else scvi.model, Clock()
    scvi.settings.seed = seed
    cells = reference.copy()  # setup_anndata writes into it
    with clock.stage("reference"):
        model = scvi_reference(classes, cells, kind=kind)
    plan = {"plan_kwargs": {"weight_decay": 0.0}, **QUIET}
    plan |= {"max_epochs": 200} if kind == "scvi" else {"max_epochs": 100, "check_val_every_n_epoch": 10}
    for name, query in queries.items():
        blind = query.copy()
        mapped = type(model).load_query_data(blind, model)
        mapped.is_trained = True  # zero-shot: scvi-tools warns of it otherwise
        with clock.stage("embedding"):
            latent = mapped.get_latent_representation(blind)
        yield Mapped(name, "zero-shot", _scvi_known(mapped, cells), latent, seconds=without_query(clock))
        with clock.stage("query"):
            mapped.train(**plan)
        latent = mapped.get_latent_representation(blind)
        yield Mapped(name, "trained", _scvi_known(mapped, cells), latent, seconds=dict(clock.seconds))


def scvi_reference(classes: Any, cells: anndata.AnnData, *, kind: str) -> Any:
    """Return scVI or scANVI of a reference, trained as the tutorials do."""
    classes.SCVI.setup_anndata(cells, batch_key=BATCH, labels_key=LABEL)
    model = classes.SCVI(
        cells,
        n_layers=2,
        encode_covariates=True,
        deeply_inject_covariates=False,
        use_layer_norm="both",
        use_batch_norm="none",
    )
    model.train(**QUIET)
    if kind == "scvi":
        return model
    labelled = classes.SCANVI.from_scvi_model(model, unlabeled_category=UNLABELLED)
    labelled.train(max_epochs=20, **QUIET)
    return labelled


def _scvi_known(mapped: Any, cells: anndata.AnnData) -> Latent:
    latent: Latent = mapped.get_latent_representation(cells.copy())
    return latent


# --- without a network -----------------------------------------------------------------------------------------------


def pca(reference: anndata.AnnData, queries: Queries, seed: int) -> Iterator[Mapped]:
    """Project the query onto the reference's principal components of log-normalised counts."""
    clock = Clock()
    with clock.stage("reference"):
        fitted, known = _components_of(reference, seed=seed)
    for name, query in queries.items():
        with clock.stage("embedding"):
            latent = fitted.transform(log_normalised(query).toarray())
        yield Mapped(name, "zero-shot", known, latent, seconds=dict(clock.seconds))


def _components_of(cells: anndata.AnnData, *, seed: int) -> tuple[PCA, Latent]:
    values = log_normalised(cells).toarray()
    fitted = PCA(min(COMPONENTS, *(size - 1 for size in values.shape)), random_state=seed).fit(values)
    return fitted, fitted.transform(values)


def harmony(reference: anndata.AnnData, queries: Queries, seed: int) -> Iterator[Mapped]:
    """Integrate reference and query together: the reference moves with every query."""
    import harmonypy

    for name, query in queries.items():
        clock, joint = Clock(), anndata.concat([reference, query])
        with clock.stage("query"):
            _, components = _components_of(joint, seed=seed)
            found = harmonypy.run_harmony(components, joint.obs, BATCH, random_state=seed, verbose=False).Z_corr
        latent = found if len(found) == joint.n_obs else found.T
        yield Mapped(name, "trained", latent[: reference.n_obs], latent[reference.n_obs :], seconds=dict(clock.seconds))


def symphony(reference: anndata.AnnData, queries: Queries, seed: int) -> Iterator[Mapped]:
    """Integrate the reference by Harmony, and move each query onto it by Symphony's corrections."""
    import scanpy
    import symphonypy

    clock, known = Clock(), _logged(reference)
    with clock.stage("reference"):
        known.X = known.X.toarray()
        scanpy.pp.scale(known, max_value=LARGEST)
        scanpy.pp.pca(known, n_comps=min(COMPONENTS, known.n_obs - 1, known.n_vars - 1), zero_center=True)
        symphonypy.pp.harmony_integrate(known, key=BATCH, random_seed=seed)
    for name, query in queries.items():
        cells = _logged(query)
        with clock.stage("query"):
            symphonypy.tl.map_embedding(cells, known, key=BATCH, use_genes_column=None)
        latent = cells.obsm["X_pca_harmony"]
        yield Mapped(name, "trained", known.obsm["X_pca_harmony"], latent, seconds=dict(clock.seconds))


def _logged(cells: anndata.AnnData) -> anndata.AnnData:
    return anndata.AnnData(log_normalised(cells), obs=cells.obs, var=cells.var.copy(), uns={"log1p": {"base": None}})


def logistic_regression(reference: anndata.AnnData, queries: Queries, seed: int) -> Iterator[Mapped]:
    """Label the query by a classifier of log-normalised counts, scaled by the reference's: it needs no latent."""
    clock, names = Clock(), reference.obs[LABEL].to_numpy(dtype=str)
    labelled = names != UNLABELLED
    with clock.stage("reference"):
        scaler = StandardScaler()
        values = scaler.fit_transform(log_normalised(reference).toarray())[labelled]
        fitted = LogisticRegression(max_iter=400).fit(values.clip(-LARGEST, LARGEST), names[labelled])
    for name, query in queries.items():
        with clock.stage("embedding"):
            values = scaler.transform(log_normalised(query).toarray())
            labels = fitted.predict(values.clip(-LARGEST, LARGEST))
        yield Mapped(name, "zero-shot", labels=labels, seconds=dict(clock.seconds))


KINDS = {"scpoli": "scPoli", "trvae": "trVAE", "scvi": "scVI", "scanvi": "scANVI"}
SCARCHES_LENGTHS = {
    "scpoli": {"tutorial": 50, "400": 400},
    "trvae": {"tutorial": 500},
}
"""Epochs of scArches' classes. trVAE's tutorial has 500, with early stopping."""
TUTORIALS = {"scpoli": scpoli, "trvae": trvae}


def _native() -> Iterator[Method]:
    for kind, title in KINDS.items():
        yield Method(f"native-{kind}", f"{title}, native", partial(native, kind=kind))


def _scarches() -> Iterator[Method]:
    for kind, lengths in SCARCHES_LENGTHS.items():
        for length, epochs in lengths.items():
            what = f"{KINDS[kind]}, {{}}, {epochs} epochs" + (" at most" if kind == "trvae" else "")
            tutorial = partial(TUTORIALS[kind], epochs=epochs)
            run = partial(compat, tutorial=tutorial)
            yield Method(f"compat-{kind}-{length}", what.format("compat"), run)
            run = partial(scarches, model=kind, epochs=epochs)
            yield Method(f"scarches-{kind}-{length}", what.format("scArches 0.6.1"), run)


def _scvi() -> Iterator[Method]:
    for kind in ("scvi", "scanvi"):
        yield Method(f"compat-{kind}", f"{KINDS[kind]}, compat", partial(scvi_tools, kind=kind, own=True))
        title = f"{KINDS[kind]}, scvi-tools 1.4.2"
        yield Method(f"scvi-tools-{kind}", title, partial(scvi_tools, kind=kind, own=False))


METHODS = {
    method.name: method
    for method in (
        *_native(),
        *_scarches(),
        *_scvi(),
        Method("pca", "PCA of log-normalised counts", pca, modes=("zero-shot",), seeded=False),
        Method("harmony", "Harmony, reference and query together", harmony, modes=("trained",)),
        Method("symphony", "Symphony", symphony, modes=("trained",)),
        Method(
            "logistic-regression",
            "logistic regression on expression, no latent",
            logistic_regression,
            modes=("zero-shot",),
            seeded=False,
            latent=False,
        ),
    )
}

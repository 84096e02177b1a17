"""train(): a Model on Cells, and the record of it in the model's manifest."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version

from hub_client import errors
from hub_client._version import __version__
from hub_client.data.cells import Cells, aligned
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import Training
from hub_client.manifest.recommended import QUERY_PLAN, recommended
from hub_client.models.gene_means import record_gene_means
from hub_client.models.model import Model
from hub_client.nn.training import History, Judge, Runtime, say

RECORDED = ("torch", "lightning", "numpy", "scipy", "anndata")


def train(
    model: Model,
    cells: Cells,
    *,
    plan: Plan | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    precision: str = "32-true",
    progress: bool = True,
    judge: Judge | None = None,
) -> History:
    """Train a model in place and return how it went.

    A model that came out of :func:`hub_client.surgery` trains the rows of its new conditions and nothing else; any
    other trains whole. Ctrl-C ends training and keeps the best weights so far. The same seed gives the same weights,
    bit for bit, on the same machine with the same versions and number of threads (``torch.set_num_threads``).

    Parameters
    ----------
    model
        What to train. Its manifest's training record is replaced. Where the manifest asks for the means of genes, for
        queries that lack some, a reference's are kept with the weights.
    cells
        What to train on, from :func:`hub_client.align`.
    plan
        How; None is the manifest's own plan for queries, or for a reference what
        :func:`hub_client.recommended` has for its kind and number of cells.
    seed
        Of the split, the order of cells, dropout and the sampled latent.
    accelerator, devices, precision
        As Lightning Fabric takes them, such as ``"cuda"`` and ``1``; the precision is ``"32-true"``, ``"16-mixed"`` or
        ``"bf16-mixed"``. Several devices, as with ``devices=2`` in a script or under ``torchrun``, are as many
        processes that run the whole script. Each computes its share of every minibatch, of ``batch_size`` cells a
        device, and all have the same weights afterwards; they and the losses are those of one device with as large a
        minibatch, but for rounding. The first process shows the progress, and :meth:`Model.save` writes in it alone.
    progress
        Whether to show a bar with loss terms and cells per second.
    judge
        What decides on early stopping and the best weights; None: what the plan's early stopping watches, by default
        the unweighted validation loss.

    Raises
    ------
    InvalidInput
        If the cells are not aligned, there is nothing to train, the plan sets what only another kind of model reads,
        the loss becomes NaN (the model is then as it was before), or the devices or the precision are not to be had.
    VocabularyError
        If the cells have conditions that the model does not know.
    """
    plan = default_plan(model, aligned(cells), told=progress) if plan is None else checked_plan(plan, model)
    runtime = Runtime(accelerator, devices, precision, progress, judge or Judge())
    unit = "squared error" if model.manifest.input.kind == "log1p" else "nats"
    history = replace(model.network.fit(aligned(cells), plan, seed=seed, runtime=runtime), reconstruction_unit=unit)
    model.record(
        Training(
            datasets=model.manifest.training.datasets,
            plan=plan,
            seed=seed,
            epochs=len(history.epochs),
            losses=history.losses,
            versions=versions(*filter(None, [model.manifest.architecture.package])),
            device=history.device,
            seconds=round(history.seconds, 3),
        )
    )
    record_gene_means(model, cells)
    return history


def checked_plan(plan: object, model: Model) -> Plan:
    """Return a caller's plan if this model reads all that it sets.

    Raises
    ------
    InvalidInput
        If it is no plan, or sets what only another kind of model reads.
    ManifestError
        If it is a plan with values that it cannot have.
    """
    if isinstance(plan, Plan):
        return plan.checked_for(model.manifest.architecture.kind)
    raise errors.InvalidInput(
        f"the plan is a {type(plan).__name__}; pass a hub_client.manifest.Plan, as in Plan(epochs=20).",
        facts={"plan": plan},
    )


def default_plan(model: Model, cells: Cells, *, told: bool = False) -> Plan:
    """Return how a model is trained on cells where nobody says how; ``told`` prints what their number decided."""
    if model.network.grown_by_surgery:
        return query_plan(model)
    best = recommended(model.manifest.architecture.kind, cells=max(len(cells), 1))
    if told:
        say(best.reason)
    return best.plan


def query_plan(model: Model) -> Plan:
    """Return the plan that the reference's maker recommends for queries, or what does for most.

    What it sets for other kinds of models, as older releases may, is left out.
    """
    return (model.manifest.query_plan or QUERY_PLAN).only(model.manifest.architecture.kind)


def versions(*also: str) -> dict[str, str]:
    """Return the versions of what computes the weights; ``also`` names more packages."""
    ours = {"python": platform.python_version(), "archzoo": __version__}
    return ours | {name: version(name) for name in (*RECORDED, *also)}

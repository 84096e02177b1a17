"""map_query(): align, surgery, train and predict in one line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from hub_client.checks.outputs import Outputs, outputs
from hub_client.data import open_query
from hub_client.data.align import align, needed
from hub_client.data.cells import Cells, GeneReport
from hub_client.data.open_query import Query
from hub_client.hub.client import pull
from hub_client.labels.novelty import Novelty
from hub_client.labels.predict import Predictions, Threshold, predict
from hub_client.labels.verdict import Verdict, verdict
from hub_client.labels.verdict_measures import sampled
from hub_client.manifest.plan import Plan
from hub_client.manifest.receipts import MappingSettings, Receipt
from hub_client.mapping.receipt import identity, receipt
from hub_client.mapping.trial import Decision, decide
from hub_client.models.architectures import Start
from hub_client.models.impute import write_proteins
from hub_client.models.latent_uncertainty import GENE_LOSS_KEY, VARIANCE_KEY, LatentUncertainty
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import checked_plan, query_plan
from hub_client.models.train import train as fit
from hub_client.nn.training import History, Runtime
from hub_client.programs.enrichment import write_scores

LATENT_KEY = "X_latent"
NOVELTY_KEY, NOVEL_KEY, CLUSTER_KEY = "novelty", "novel", "novelty_cluster"
PROVENANCE_KEY = "archzoo"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mapping:
    """The result of :func:`map_query`.

    Attributes
    ----------
    adata
        A copy of the query with ``obsm["X_latent"]``, ``obs["<label key>_pred"]``, ``obs["<label key>_uncertainty"]``,
        ``obs["<label key>_set"]`` and ``_backoff`` where the release states a threshold for label sets and, in
        ``uns["archzoo"]``, where they come from: the reference, how genes matched, seed and versions; the plan and
        the start of new conditions where there was something to train. Of a model with gene programs also
        ``obsm["X_terms"]``, the score of each active program, and their names in ``uns["X_terms"]``; of a model with
        proteins ``obsm["X_proteins_imputed"]``, and their names in ``uns["X_proteins_imputed"]``. With
        ``latent_uncertainty=True`` also ``obsm["X_latent_variance"]`` and ``obsm["X_latent_gene_loss"]``. Of a model
        that recognises strangers also ``obs["novelty"]``, ``obs["novel"]`` and ``obs["novelty_cluster"]``, and what is
        reported of these clusters as JSON in ``uns["archzoo"]["novelty"]``.
    model
        The model that knows the query's conditions: what to push.
    predictions
        Latent, labels, probabilities and scores.
    history
        How training went; None where nothing was trained.
    alignment
        What alignment found: coverage, missing and renamed genes, warnings.
    scores
        The score of each active gene program, ``(cells, terms)``, by cell and program name; None for a model without.
    proteins
        Expected foreground counts of the model's proteins, ``(cells, proteins)``, as the reference's batches would have
        measured them (:func:`hub_client.models.impute.impute_proteins`), also in a query without proteins; None for a
        model without.
    receipt
        What the mapping was made of and what came out, in hashes: :func:`hub_client.mapping.replay.replay` makes it
        again. Its JSON is also in ``uns["archzoo"]["receipt"]``.
    latent_uncertainty
        How unsure the place of each cell in the latent is; None where it was not asked for.
    decision
        Whether the rows of new conditions were trained, and why; None where the model knew all conditions already.
    verdict
        Whether the mapping deserves trust, and why: green, amber or red, each reason a number against its threshold.
        Its JSON is also in ``uns["archzoo"]["verdict"]``.
    novelty
        Which cells are of no type of the reference (:func:`hub_client.novelty`); None for a model without its
        reference's expression, as releases are from before there was novelty.
    """

    adata: AnnData
    model: Model
    predictions: Predictions
    history: History | None
    alignment: GeneReport
    receipt: Receipt
    scores: pd.DataFrame | None = None
    proteins: pd.DataFrame | None = None
    latent_uncertainty: LatentUncertainty | None = None
    decision: Decision | None = None
    verdict: Verdict | None = None
    novelty: Novelty | None = None


def map_query(
    adata: Query,
    model_or_name: Model | str | Path,
    *,
    conditions: MappingOf[str, str] | None = None,
    labels: MappingOf[str, str] | None = None,
    layer: str | None = None,
    min_coverage: float | None = None,
    size_factor: str | None = None,
    proteins: str | None = None,
    start: Start = "best",
    train: bool | None = None,
    plan: Plan | None = None,
    seed: int = 0,
    unknown_above: Threshold = "shipped",
    latent_uncertainty: bool = False,
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    precision: str = "32-true",
    progress: bool = True,
) -> Mapping:
    """Map a query onto a reference: align its genes, make room for its conditions, label its cells.

    The rows of new conditions start from the reference's. They are trained where a short trial finds that it would
    make a difference to where cells lie.

    Parameters
    ----------
    adata
        The query, ``(cells, genes)``: AnnData, MuData or a path. It is not written to.
    model_or_name
        The reference, or its name as :func:`hub_client.pull` takes it.
    conditions
        The manifest's condition keys to obs columns. A query with one batch may leave this out and gets one new
        category.
    labels
        The manifest's label levels to obs columns, for a query that is labelled in part: new labels get prototypes.
    layer, min_coverage, size_factor, proteins
        As for :func:`hub_client.align`.
    start
        As for :func:`hub_client.surgery`.
    train
        Whether to train the rows of new conditions: True or False, or None to let a short trial on some of the query's
        cells decide (:mod:`hub_client.mapping.trial`). A plan, or labels, are trained by unless this is False.
    plan, seed, accelerator, devices, precision, progress
        As for :func:`hub_client.train`.
    unknown_above
        As for :func:`hub_client.predict`.
    latent_uncertainty
        Whether to compute, too, how unsure the place of each cell is, with the defaults and the seed of
        :func:`hub_client.latent_uncertainty`; about nine times as long as to embed the query.

    Returns
    -------
    Mapping
        ``.adata``, ``.model``, ``.predictions``, ``.history``, ``.decision``, ``.alignment``, ``.scores``,
        ``.proteins``, ``.receipt``, ``.latent_uncertainty``, ``.verdict``, ``.novelty``.

    Raises
    ------
    NotFound, AlignmentError, VocabularyError, InvalidInput
        As the verbs it is made of.

    Examples
    --------
    >>> mapping = hub_client.map_query(adata, "pbmc-scpoli", conditions={"batch": "library"})  # doctest: +SKIP
    >>> mapping.adata.obs["cell_type_pred"]  # doctest: +SKIP
    """
    reference = model_or_name if isinstance(model_or_name, Model) else pull(model_or_name)
    settings = MappingSettings.model_construct(  # each verb checks what it is given, with a message of its own
        conditions=conditions or None,
        labels=labels or None,
        layer=layer,
        min_coverage=min_coverage,
        size_factor=size_factor,
        proteins=proteins,
        start=start,
        plan=None if plan is None else checked_plan(plan, reference),
        seed=seed,
        unknown_above=unknown_above,
        accelerator=accelerator,
        devices=devices,
        precision=precision,
        latent_uncertainty=latent_uncertainty,
    )
    asked = {name: value for name, value in settings.alignment.items() if name != "min_coverage"}
    query = open_query.opened(adata, needed=needed(reference.manifest, **asked))
    return _mapped(query, reference, settings, train=train, progress=progress)


def _mapped(
    query: AnnData, reference: Model, settings: MappingSettings, *, train: bool | None, progress: bool
) -> Mapping:
    device = settings.accelerator if settings.accelerator in ("cpu", "cuda") else "auto"
    cells = align(query, reference, **settings.alignment)
    for warning in cells.report.warnings:
        _log.warning(warning)
    model, history, plan, decision, untrained = reference, None, None, None, None
    if needs_surgery(reference, cells):
        model = surgery(reference, cells, start=settings.start, seed=settings.seed, device=device)
        decision = _decided(model, cells, settings, train=train)
        if decision.train:
            plan = query_plan(model) if settings.plan is None else settings.plan
            untrained = _before_training(model, cells, settings, device=device)
            history = fit(model, cells, plan=plan, seed=settings.seed, progress=progress, **settings.runtime)
    found = outputs(
        model,
        cells,
        unknown_above=settings.unknown_above,
        device=device,
        seed=settings.seed,
        with_latent_uncertainty=settings.latent_uncertainty,
        with_novelty=True,
    )
    seen: dict[str, Any] = {"untrained": untrained, "novelty": found.novelty, "seed": settings.seed}
    judged = verdict(model, cells, predictions=found.predictions, **seen)
    record = receipt(
        cells,
        reference,
        found,
        verdict=judged,
        settings=MappingSettings.model_validate(dict(settings) | {"plan": plan}),
        device=history.device if history else device,
    )
    out = _written(query, found, _provenance(reference, cells, record, decision, judged) | _strangers(found.novelty))
    more = {"scores": found.scores, "proteins": found.proteins, "latent_uncertainty": found.latent_uncertainty}
    made: dict[str, Any] = {"decision": decision, "verdict": judged, "novelty": found.novelty, **more}
    return Mapping(out, model, found.predictions, history, cells.report, record, **made)


def _before_training(model: Model, cells: Cells, settings: MappingSettings, *, device: str) -> Predictions:
    """Return latent and labels of the cells that the verdict looks at, as they are with 0 epochs."""
    some = cells.rows(sampled(len(cells), seed=settings.seed))
    return predict(model, some, unknown_above=settings.unknown_above, device=device)


def _decided(model: Model, cells: Cells, settings: MappingSettings, *, train: bool | None) -> Decision:
    """Return whether to train what surgery added: as asked, or as a trial finds."""
    if train is not None:
        return Decision(train, "as asked")
    if settings.plan is not None:
        return Decision(True, "by the plan that was given")
    return decide(model, cells, plan=query_plan(model), seed=settings.seed, runtime=Runtime(**settings.runtime))


def needs_surgery(reference: Model, cells: Cells) -> bool:
    """Return whether cells have conditions, combinations of conditions or labels the reference does not know."""
    vocabulary = reference.vocabulary
    rows = pd.DataFrame({key: cells.conditions[key] for key in vocabulary.conditions}).drop_duplicates()
    combined = set(rows.itertuples(index=False, name=None)) - set(vocabulary.combinations)
    strangers = (set(names) - {*vocabulary.labels[key].names, ""} for key, names in cells.labels.items())
    covariates = (set(cells.conditions[key]) - set(axis.names) for key, axis in vocabulary.covariates.items())
    return bool(combined) or any(strangers) or any(covariates)


def _written(query: AnnData, found: Outputs, provenance: dict[str, Any]) -> AnnData:
    """Return a copy of the query, in memory, with all that was found and where it comes from."""
    out = open_query.in_memory(query)
    out.obs_names = pd.Index(found.predictions.obs_names, dtype=object, name=out.obs_names.name)
    out.obsm[LATENT_KEY] = found.predictions.latent
    for name, column in found.predictions.to_frame().items():
        out.obs[str(name)] = column.to_numpy() if column.dtype.kind == "f" else pd.Categorical(column)
    out.uns[PROVENANCE_KEY] = provenance
    if found.scores is not None:
        write_scores(out, found.scores)
    if found.proteins is not None:
        write_proteins(out, found.proteins)
    if found.latent_uncertainty is not None:
        out.obsm[VARIANCE_KEY] = found.latent_uncertainty.variance
        out.obsm[GENE_LOSS_KEY] = found.latent_uncertainty.gene_loss
    if found.novelty is not None:
        out.obs[NOVELTY_KEY], out.obs[NOVEL_KEY] = found.novelty.novelty, found.novelty.novel
        out.obs[CLUSTER_KEY] = pd.Categorical(found.novelty.cluster)
    return out


def _strangers(found: Novelty | None) -> dict[str, str]:
    """Return what is reported of a query's novelty, as a JSON text: AnnData's files hold no tables of lists."""
    return {} if found is None else {NOVELTY_KEY: json.dumps(found.record, ensure_ascii=False)}


def _provenance(
    reference: Model, cells: Cells, record: Receipt, decision: Decision | None, judged: Verdict
) -> dict[str, Any]:
    """Return where the results come from, in types every AnnData file format can hold.

    The alignment report is a JSON text: gene names as keys would not survive HDF5. So is the verdict, whose checks may
    have no number.
    """
    settings = record.asked
    trained = {"plan": settings.plan.model_dump_json()} if settings.plan else {}
    grown = {"start": settings.start, "training": decision.stated} if decision else {}
    asked = settings.unknown_above
    threshold = {"unknown_above": asked} if isinstance(asked, float) else {}
    return {
        "reference": _place(reference),
        "alignment": json.dumps(asdict(cells.report), ensure_ascii=False),
        "versions": dict(record.ran.versions),
        "seed": settings.seed,
        **trained,
        **grown,
        **threshold,
        "verdict": json.dumps(judged.as_json(), ensure_ascii=False),
        "receipt": record.to_bytes().decode(),
    }


def _place(reference: Model) -> dict[str, str]:
    """Return what a reference is called: its place in a hub, or, if it was changed since, what it was grown from."""
    found = {"version": reference.manifest.version} | identity(reference).model_dump(exclude_none=True)
    if reference.ref is None:
        return found
    return found | ({"hub": reference.ref.hub} if "commit" in found else {"grown_from": str(reference.ref)})

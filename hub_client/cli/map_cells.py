"""``archzoo map``: the main job, from a query file to labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hub_client import errors
from hub_client.cli import failures, map_summary, options, screen
from hub_client.cli.map_outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from hub_client.manifest.plan import Plan
    from hub_client.models.model import Model


def _option(metavar: str | None, help: str, panel: str, *flags: str, minimum: int | None = None) -> Any:
    return typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, min=minimum)


def _share(help: str, panel: str) -> Any:
    return typer.Option(metavar="SHARE", help=help, rich_help_panel=panel, min=0, max=1)


CELLS, TRAINING, OUTPUT = "The query", "Training", "Output"
Query = Annotated[
    str,
    _option(
        "FILE",
        "Cells to map, raw counts: `.h5ad`, `.zarr`, `.h5mu`, 10x's `.h5` or folder; or `pbmc68k`, an example.",
        CELLS,
    ),
]
Conditions = Annotated[
    list[str] | None, _option("KEY=COLUMN", "The obs column of a condition. Repeatable.", CELLS, "--condition", "-c")
]
Labels = Annotated[
    list[str] | None, _option("LEVEL=COLUMN", "The obs column of labels to train with. Repeatable.", CELLS)
]
Truth = Annotated[
    list[str] | None, _option("LEVEL=COLUMN", "The obs column to judge predictions by. Repeatable.", CELLS)
]
Layer = Annotated[str | None, _option("NAME", "The layer that holds counts.", CELLS)]
ProteinsKey = Annotated[
    str | None,
    _option("KEY", "The key of obsm, or the modality, with protein counts; found by its names if left out.", CELLS),
]
MinCoverage = Annotated[
    float | None, _share("Share of the model's genes to insist on, 0 to 1, instead of the model's own.", CELLS)
]
UnknownAbove = Annotated[
    float | None,
    _share("Call cells with more uncertainty unknown, 0 to 1, instead of the model's own; 1 names every cell.", CELLS),
]
PlanFile = Annotated[Path | None, _option("FILE", "A training plan in TOML, instead of the default.", TRAINING)]
Train = Annotated[
    bool | None,
    _option(
        None,
        "Whether to train the rows of new conditions; without either, a short trial decides.",
        TRAINING,
        "--train/--no-train",
    ),
]
Epochs = Annotated[int | None, _option("N", "Epochs, instead of the plan's.", TRAINING, minimum=0)]
Start = Annotated[Literal["random", "mean", "best"], _option(None, "What new conditions start from.", TRAINING)]
Seed = Annotated[int, _option("N", "The same seed gives the same result.", TRAINING, minimum=0)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], _option(None, "Where to train.", TRAINING)]
Precision = Annotated[
    Literal["32-true", "16-mixed", "bf16-mixed"],
    _option("KIND", "Numbers to train in: `32-true`, `16-mixed` or `bf16-mixed`.", TRAINING),
]
Out = Annotated[Path, _option("FILE", "The mapped query, `.h5ad` or `.zarr`.", OUTPUT, "--out", "-o")]
SaveModel = Annotated[Path | None, _option("FOLDER", "Where to save the updated model, too.", OUTPUT)]
LatentUncertainty = Annotated[
    bool, _option(None, "Also write how unsure each cell's place is.", OUTPUT, "--latent-uncertainty")
]
Strict = Annotated[bool, _option(None, "End with 10 if the verdict is red.", OUTPUT, "--strict")]
Force = Annotated[bool, _option(None, "Replace outputs that exist.", OUTPUT, "--force")]
Quiet = Annotated[bool, _option(None, "No progress bars.", OUTPUT, "--quiet", "-q")]


def map_cells(
    model: options.ModelName,
    query: Query,
    out: Out,
    save_model: SaveModel = None,
    condition: Conditions = None,
    labels: Labels = None,
    truth: Truth = None,
    layer: Layer = None,
    proteins: ProteinsKey = None,
    min_coverage: MinCoverage = None,
    unknown_above: UnknownAbove = None,
    train: Train = None,
    plan: PlanFile = None,
    epochs: Epochs = None,
    start: Start = "best",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "32-true",
    hub: options.HubFolder = None,
    latent_uncertainty: LatentUncertainty = False,
    strict: Strict = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Map cells onto a reference and label them.

    Matches the genes, adds the query's conditions to the model, trains only those, and only where a short trial finds
    that it would make a difference, and predicts labels. The reference itself does not move: its own cells keep their
    place in the latent space.

    The output is the query with `obsm["X_latent"]`, `obs["<level>_pred"]`, `obs["<level>_uncertainty"]`, and how it
    came to be in `uns["archzoo"]`. A cell whose uncertainty is above what the model states is called `unknown`. Where
    the model states a threshold for label sets, `obs["<level>_set"]` has all labels that a cell may have, and
    `obs["<level>_backoff"]` the finest name that covers them.

    From a model with gene programs it also has their scores in `obsm["X_terms"]`, from
    one with proteins what it expects of each in every cell, measured or not, in `obsm["X_proteins_imputed"]`; their
    names are in `uns` under the same keys. With `--latent-uncertainty` it has how unsure each cell's place is, too: the
    posterior's variance in `obsm["X_latent_variance"]`, and how much the place varies where three in ten of the genes
    count as not measured in `obsm["X_latent_gene_loss"]`.

    From a model that carries its reference's expression it also has how new each cell is, a rank among known cells of
    studies that the reference had not seen, in `obs["novelty"]`, whether it is called novel in `obs["novel"]`, and the
    query's clusters in `obs["novelty_cluster"]`, with the genes that set each apart in `uns["archzoo"]["novelty"]`.
    Labels do not change by it.

    Without `--condition`, the query is one new batch. Beside the output goes a receipt (`mapped.receipt.json`): what
    went in and came out, in hashes; `archzoo replay` makes the mapping again from it.

    Last comes a verdict on the mapping, green, amber or red: each check is a number against its threshold, with what to
    do. A red one ends with 0 all the same, and with 10 under `--strict`.

    For example:

    ```
    archzoo map pbmc-scpoli --query pbmc68k --out mapped.h5ad
    archzoo map pbmc-scpoli --query lupus.h5ad -c batch=library --out mapped.h5ad --save-model lupus-model
    archzoo map pbmc-scpoli --query lupus.h5ad --layer counts --truth cell_type=author_label --out mapped.h5ad
    archzoo map pbmc-cite-totalvi --query cite.h5ad --proteins adt --out mapped.h5ad
    ```
    """
    from hub_client.data.examples import QUERIES, bundled_query
    from hub_client.manifest.receipts import MappingSettings

    outputs = Outputs(out, save_model, force=force)
    outputs.check()
    given = {"batch": "batch"} if query in QUERIES else None
    conditions = options.pairs(condition, option="--condition") or given
    learned, judged = options.pairs(labels, option="--labels"), options.pairs(truth, option="--truth") or {}
    reference = options.hub_at(hub).pull(model)
    settings = MappingSettings(
        conditions=conditions,
        labels=learned,
        layer=layer,
        min_coverage=min_coverage,
        proteins=proteins,
        start=start,
        plan=_plan(plan, epochs=epochs, reference=reference),
        seed=seed,
        unknown_above="shipped" if unknown_above is None else unknown_above,
        accelerator=device,
        precision=precision,
        latent_uncertainty=latent_uncertainty,
    )

    from hub_client.data.align import needed
    from hub_client.data.open_query import opened
    from hub_client.labels.evaluate import evaluate  # not before cheap mistakes are reported: this loads torch
    from hub_client.mapping.map_query import map_query

    asked = needed(reference.manifest, conditions=conditions, labels=learned, layer=layer, proteins=proteins).also(
        judged.values()
    )
    cells = bundled_query(query) if query in QUERIES else opened(query, needed=asked)
    known = _truth(cells, judged, reference=reference, taught=learned or {})
    outputs.rehearse(cells)
    mapping = map_query(cells, reference, **dict(settings), train=train, progress=not quiet)
    outputs.write(mapping)
    record = map_summary.summary(mapping, reference, judged=evaluate(mapping.predictions, known) if known else None)
    written = {"query": out, "receipt": outputs.receipt, "model": save_model}
    record["written"] = {what: str(path) if path else None for what, path in written.items()}
    _report(record, as_json=as_json, strict=strict)


def _report(record: dict[str, Any], *, as_json: bool, strict: bool) -> None:
    """Print a summary; end with the code of an interruption if there was one, or of a red verdict if that is asked."""
    (screen.say_json if as_json else map_summary.show)(record)
    if record["training"] and record["training"]["stopped"] == "interrupted":
        screen.complain("interrupted: training ended early; what it had learned by then was used and written.")
        raise typer.Exit(failures.INTERRUPTED)
    if strict and record["verdict"]["colour"] == "red":
        screen.complain(f"the verdict is {record['verdict']['stated']}. Everything was written.")
        raise typer.Exit(failures.RED)


def _truth(
    cells: AnnData, columns: dict[str, str], *, reference: Model, taught: dict[str, str]
) -> dict[str, pd.Series]:
    """Return the obs columns predictions shall be judged by, checked before training, so that a slip costs no time."""
    from hub_client.data.obs import column
    from hub_client.data.values import texts, without_blanks
    from hub_client.labels.evaluate import known_cells
    from hub_client.labels.predict import predictable

    if not columns:
        return {}
    judged = {*predictable(reference), *taught}
    known = [level for level in reference.vocabulary.labels if level in judged]
    if strangers := [level for level in columns if level not in known]:
        raise errors.VocabularyError(
            f"--truth names {errors.names(strangers)}, but this model predicts {errors.names(known) or 'no labels'}. "
            "Write --truth LEVEL=COLUMN with one of its levels.",
            field="truth",
            unknown=strangers,
            known=known,
        )
    truth = {}
    for level, name in columns.items():
        truth[level] = column(cells.obs, name, purpose=f"the truth of {level!r} (--truth)")
    for level, values in truth.items():  # raises if no true label is known, or will be learned from the query
        labels = cells.obs.get(taught.get(level))
        names = reference.vocabulary.labels[level].names
        learned = () if labels is None else without_blanks(texts(labels.drop_duplicates()), known=names)
        known = [*names, *(name for name in learned if name)]
        known_cells(level, without_blanks(texts(values), known=known), known=known)
    return truth


def _plan(file: Path | None, *, epochs: int | None, reference: Model) -> Plan | None:
    from hub_client.manifest.plan import Plan
    from hub_client.manifest.reading import read_toml
    from hub_client.manifest.recommended import QUERY_PLAN

    kind, plan = reference.manifest.architecture.kind, None
    if file:
        plan = read_toml(file, Plan, what="training plan").checked_for(kind, called=f"--plan {file}")
    if epochs is None:
        return plan
    chosen = plan or (reference.manifest.query_plan or QUERY_PLAN).only(kind)
    return chosen.changed(epochs=epochs) if chosen.steps is None else chosen.lasting(epochs)

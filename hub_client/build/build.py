"""build(): train, judge and write a release from a recipe and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hub_client import _resources, errors
from hub_client.build import datasets
from hub_client.build.panel import allowed, paired, select_panel
from hub_client.checks.verify import with_test_vectors
from hub_client.data import genes
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.data.fingerprint import fingerprint
from hub_client.labels.atlas import with_atlas
from hub_client.labels.calibrate import calibrate
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.evaluate import evaluate
from hub_client.labels.novelty import LEAST_REFERENCE, with_novelty
from hub_client.labels.predict import Predictions, joined, predict
from hub_client.labels.rules import RULES, Part
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration, Metric, Trust
from hub_client.manifest.configs import having
from hub_client.manifest.inputs import Gene, Genes, Proteins
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import Training
from hub_client.manifest.recipe import Gate, LabelRule, Programs, Recipe
from hub_client.manifest.recommended import plan_with_given, recommended, with_given
from hub_client.manifest.report import LevelReport, Report
from hub_client.manifest.v1 import Combination, Condition, LabelLevel, Manifest, PrototypeLevel, Prototypes
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.train import train
from hub_client.nn.training import say, split
from hub_client.programs.programs import Chosen, Program, as_terms, genes_of, read
from hub_client.release import card

METRICS = {
    "accuracy": "share of cells whose predicted label is the true one",
    "latent_accuracy": "the same of labels from the latent alone, as hub_client.predict gives them beside",
    "macro_f1": "mean of F1 over the labels that cells have or are given (scikit-learn's), so that rare labels count "
    "as much as common ones",
    "latent_macro_f1": "the same of labels from the latent alone",
    "calibration_error": "expected calibration error of the uncertainty over ten bins; each half is judged "
    "by the calibration fitted on the other",
}
"""The metrics of a release, and the definition of each. What a level has no labels for is left out."""


def build(
    recipe: Recipe | str | Path,
    *,
    data: str | Path,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
    accelerator: str = "auto",
) -> Path:
    """Train a model as its recipe asks, judge it by the recipe's gates, and return the release folder that was written.

    Some cells are held out and never trained on: the uncertainty is calibrated on them and the release's metrics are
    theirs. They hold for the very weights that are released. The same recipe and data give the same weights on the same
    machine.

    Parameters
    ----------
    recipe
        A recipe, or the path of its TOML file.
    data
        The folder that holds the recipe's data sets.
    out
        Gets the release at ``<name>/<version>/``. If it is the bundled zoo of a checkout, the cards are rendered too.
    overwrite
        Whether to replace a release that is there already.
    progress
        Whether to show a bar while training.
    accelerator
        As for :func:`hub_client.train`.

    Raises
    ------
    NotFound
        If the recipe or a data set is not there.
    ManifestError
        If the recipe cannot be read, or its rule of label transfer needs what its model would not have.
    IntegrityError
        If a data set is not the one the recipe's fingerprint was taken of.
    VocabularyError, AlignmentError
        If the data's columns, labels, genes or counts are not what the recipe needs.
    InvalidInput
        If the release is there already, or a gate is not passed; nothing is written then.

    Examples
    --------
    >>> build("zoo/recipes/pbmc-scpoli.toml", data="../shared/data", out="zoo/released")  # doctest: +SKIP
    """
    recipe = _read(recipe)
    folder = Path(out) / recipe.name / recipe.version
    if folder.exists() and not overwrite:  # before hours of training what could not be written after them
        raise errors.InvalidInput(
            f"{folder} exists already, and a released version does not change. Raise the recipe's version, or pass "
            "overwrite=True if it was never given to anybody.",
            facts={"folder": folder},
        )
    model, training, held_out = prepare(recipe, data=Path(data))
    cells = len(training) + len(held_out)
    if progress and recipe.recipe_version > 1:
        say(f"what the recipe leaves out is {recommended(recipe.architecture.kind, cells=cells).reason}")
    recipe = _settled(recipe, cells=cells)
    runtime: dict[str, Any] = {"seed": recipe.seed, "accelerator": accelerator, "progress": progress}
    if recipe.pretraining is not None:
        _pretrain(model, training, plan=recipe.pretraining, **runtime)
    _train_whole(model, training, plan=recipe.plan, **runtime)
    model = with_atlas(model, training) if recipe.atlas else model
    model = (
        with_expression_classifiers(model, training) if "expression" in RULES[recipe.trust.transfer].needs else model
    )
    model = with_novelty(model, training) if _recognises(recipe, cells=len(training)) else model
    _judge(model, held_out, recipe)
    model = with_test_vectors(model, training, count=recipe.test_cells, seed=recipe.seed)
    model.save(folder, overwrite=overwrite)
    if Path(out).resolve() == _resources.released().resolve():
        card.render_zoo(_resources.released(), _resources.cards())
    return folder


def _recognises(recipe: Recipe, *, cells: int) -> bool:
    """Return whether a release recognises strangers: not one of the first recipes, which make what they made before."""
    named = recipe.atlas or bool(recipe.labels)
    return recipe.recipe_version > 1 and named and recipe.input.kind == "counts" and cells >= LEAST_REFERENCE


def _pretrain(model: Model, training: Cells, *, plan: Plan, seed: int, **runtime: Any) -> None:
    """Give an untrained model the weights it shares with the architecture it starts from, trained on the same cells."""
    config = model.manifest.architecture.starts_from
    before = Model.build(model.manifest.changed(architecture=config, tensors=()), seed=seed)
    _train_whole(before, training, plan=plan, seed=seed, **runtime)
    model.network.load(model.network.tensors() | before.network.tensors())


def _train_whole(model: Model, training: Cells, *, plan: Plan, **runtime: Any) -> None:
    if train(model, training, plan=plan, **runtime).stopped == "interrupted":
        raise KeyboardInterrupt  # a model that is trained in part is no release


def prepare(recipe: Recipe, *, data: Path) -> tuple[Model, Cells, Cells]:
    """Return a recipe's untrained model, the cells to train it on and the cells held out.

    Raises
    ------
    NotFound, IntegrityError, VocabularyError, AlignmentError
        As :func:`build`.
    """
    source = datasets.load(recipe, data)
    recipe = _settled(recipe, cells=source.counts.n_obs)
    manifest = _draft(recipe, source, _programs(recipe, data))
    cells = align(source.counts, manifest, labels={rule.key: rule.key for rule in recipe.labels})
    model = Model.build(manifest, seed=recipe.seed)
    training, held_out = split(cells, model.vocabulary, fraction=recipe.holdout.fraction, seed=recipe.seed)
    return model, cells.rows(training.numpy()), cells.rows(held_out.numpy())


def _settled(recipe: Recipe, *, cells: int) -> Recipe:
    """Return a recipe in which what version 2 leaves to the data's size is stated."""
    if recipe.recipe_version == 1:
        return recipe
    kind = recipe.architecture.kind
    settled = {
        "architecture": with_given(recipe.architecture, cells=cells),
        "plan": plan_with_given(recipe.plan, kind=kind, cells=cells),
        "query_plan": plan_with_given(recipe.query_plan or Plan(), kind=kind, cells=cells, query=True),
    }
    return recipe.model_copy(update=settled)


def choose_programs(recipe: Recipe | str | Path, *, data: str | Path) -> Chosen | None:
    """Return the gene programs that a recipe's model gets, with a report of all; None for a model without.

    Raises
    ------
    NotFound, IntegrityError, VocabularyError, AlignmentError
        As :func:`build`.
    """
    recipe = _read(recipe)
    if recipe.programs is None:
        return None
    source, programs = datasets.load(recipe, Path(data)), _programs(recipe, Path(data))
    return _chosen(recipe, _panel(recipe, source, programs), programs)


def _read(recipe: Recipe | str | Path) -> Recipe:
    """Return a recipe whose rule of label transfer and whose gates find what they need in the model."""
    found = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
    lacking = [f"trust.transfer = {found.trust.transfer!r} needs {what}" for what in _lacking(found)]
    if problems := [*lacking, *_without_latent_labels(found)]:
        source = found.name if isinstance(recipe, Recipe) else str(recipe)
        raise errors.ManifestError(f"{source} is not a valid recipe:", path=source, problems=problems)
    return found


def _lacking(recipe: Recipe) -> list[str]:
    """Return what the recipe's rule of label transfer needs and the model would not have."""
    config, values = recipe.architecture, recipe.input.kind
    kind, owners = config.kind, " and ".join(having("classifier"))
    atlas = None if recipe.atlas else "the atlas: set atlas = true"
    prototypes = f"prototypes, which {kind} has not: set atlas = true and trust.transfer = 'neighbors', for one"
    lacking: dict[Part, str | None] = {
        "distances": None if "prototypes" in config.parts else prototypes,
        "mahalanobis_squared": None if "prototypes" in config.parts else prototypes,
        "votes": atlas,
        "densities": atlas,
        "expression": None if values == "counts" else f"counts; input.kind is {values!r}",
        "network": None if "classifier" in config.parts else f"a classifier, which {owners} has and {kind} has not",
    }
    needs = RULES[recipe.trust.transfer].needs if recipe.labels else ()
    return [what for part in needs if (what := lacking.get(part))]


def _without_latent_labels(recipe: Recipe) -> list[str]:
    """Return the gates on labels from the latent alone of a recipe whose model would give none."""
    if recipe.atlas or {"prototypes", "classifier"} & set(recipe.architecture.parts):
        return []
    gated = [gate.metric for gate in recipe.gates if gate.metric.startswith("latent_")]
    return [f"a gate on {metric} needs labels from the latent alone: set atlas = true" for metric in gated]


# --- the manifest before training ---------------------------------------------------------------------------------


def _programs(recipe: Recipe, data: Path) -> tuple[Program, ...]:
    """Return the recipe's gene programs; none for architectures without."""
    if recipe.programs is None:
        return ()
    path = data / recipe.programs.file
    programs = read(path)
    if (actual := hashlib.sha256(path.read_bytes()).hexdigest()) != recipe.programs.sha256:
        raise errors.IntegrityError(
            f"{path} is not the file of gene programs that the recipe means: its sha256 is {actual}, expected is "
            f"{recipe.programs.sha256}. Fetch {recipe.programs.source} {recipe.programs.release} again, or change the "
            "recipe if another file is meant.",
            file=recipe.programs.file,
            expected=recipe.programs.sha256,
            actual=actual,
        )
    return programs


def _panel(recipe: Recipe, source: datasets.Reference, programs: Sequence[Program]) -> Genes:
    rules = recipe.panel
    cells = np.asarray((source.counts.X > 0).sum(axis=0)).ravel()
    expressed = (cells >= rules.min_cells) | source.counts.var_names.isin(rules.include)
    counts = source.counts[:, expressed].copy()
    if recipe.programs is not None:
        shared = _genes(recipe, tuple(map(str, counts.var_names)))
        measured = genes.Panel.over(shared, human=_human(recipe))
        whole = {shared.names[index] for index in genes_of(_whole(recipe.programs, programs), measured)}
        rules = rules.model_copy(update={"include": (*rules.include, *allowed(sorted(whole), rules))})
        if recipe.programs.only:
            covered = genes_of(programs, measured)
            kept = [index in covered or name in rules.include for index, name in enumerate(shared.names)]
            counts = counts[:, np.array(kept)].copy()
    return _genes(recipe, select_panel(counts, rules, batches=counts.obs[recipe.conditions[0].key].to_numpy(dtype=str)))


def _whole(rules: Programs, programs: Sequence[Program]) -> list[Program]:
    """Return the programs whose genes are all to be in the panel."""
    known = {program.id: program for program in programs}
    if strangers := [name for name in rules.whole if name not in known]:
        raise errors.VocabularyError(
            f"programs.whole names {errors.names(strangers)}, which the file has not; it takes ids, such as "
            f"{errors.names(list(known), shown=2)}.",
            field="programs.whole",
            unknown=strangers,
            known=list(known),
        )
    return [known[name] for name in rules.whole]


def _chosen(recipe: Recipe, panel: Genes, programs: Sequence[Program]) -> Chosen | None:
    rule = recipe.programs
    if rule is None:
        return None
    settings = rule.model_dump(include={"min_genes", "max_genes", "max_overlap", "source", "release", "license"})
    return as_terms(programs, genes.Panel.over(panel, human=_human(recipe)), **settings)


def _human(recipe: Recipe) -> bool:
    return recipe.organism.id == genes.HUMAN


def _draft(recipe: Recipe, source: datasets.Reference, programs: Sequence[Program]) -> Manifest:
    obs = source.counts.obs
    panel = _panel(recipe, source, programs)
    chosen = _chosen(recipe, panel, programs)
    prototypical = recipe.labels if "prototypes" in recipe.architecture.parts else ()
    return Manifest(
        **{name: getattr(recipe, name) for name in _COPIED},
        created=datetime.now(UTC).replace(microsecond=0),
        organism=recipe.term(recipe.organism),
        tissue=tuple(map(recipe.term, recipe.tissue)),
        assay=tuple(map(recipe.term, recipe.assay)),
        disease=tuple(map(recipe.term, recipe.disease)),
        genes=panel,
        proteins=_proteins(recipe, source),
        terms=chosen.terms if chosen else (),
        conditions=tuple(
            Condition(**dict(rule), categories=datasets.categories(obs[rule.key])) for rule in recipe.conditions
        ),
        combinations=_combinations(recipe, obs),
        labels=tuple(_level(recipe, rule) for rule in recipe.labels),
        prototypes=Prototypes(levels=tuple(PrototypeLevel.of(i, rule.key) for i, rule in enumerate(prototypical))),
        training=Training(datasets=source.records),
    )


def _proteins(recipe: Recipe, source: datasets.Reference) -> Proteins | None:
    """Return the panel of all proteins that the data sets measured; training finds out which each batch did."""
    if datasets.PROTEINS not in source.counts.obsm:
        return None
    keys = [dataset.proteins.key for dataset in recipe.datasets if dataset.proteins]
    return Proteins(panel=tuple(source.counts.obsm[datasets.PROTEINS].columns), source=keys[0])


_COPIED = (
    *("name", "version", "title", "summary", "authors", "citation", "license", "data_license", "suspension_type"),
    *("gene_annotation", "architecture", "input", "query_plan", "intended_use", "limitations"),
)
"""Fields that a manifest takes over from the recipe."""


def _genes(recipe: Recipe, names: tuple[str, ...]) -> Genes:
    rules = recipe.panel
    own = "id" if rules.id_type == "ensembl" else "symbol"
    panel = paired(names, id_type=rules.id_type) if _human(recipe) else tuple(Gene(**{own: name}) for name in names)
    return Genes(
        id_type=rules.id_type,
        panel=panel,
        coverage_warn=rules.coverage_warn,
        coverage_refuse=rules.coverage_refuse,
        missing=rules.missing,
        duplicates=rules.duplicates,
    )


def _combinations(recipe: Recipe, obs: Any) -> tuple[Combination, ...]:
    if len(recipe.conditions) < 2:
        return ()
    rows = zip(*(obs[rule.key] for rule in recipe.conditions), strict=True)
    return tuple(Combination(values=row) for row in sorted(set(rows)))


def _level(recipe: Recipe, rule: LabelRule) -> LabelLevel:
    prefixes = sorted({curie.partition(":")[0] for curie in rule.ontology.values()})
    return LabelLevel(
        key=rule.key,
        categories=tuple(sorted(rule.ids)),
        ontology=rule.ids,
        ontology_release=", ".join(f"{prefix} {recipe.ontologies[prefix]}" for prefix in prefixes) or None,
        parents=rule.parents,
        unlabelled=rule.unlabelled,
    )


# --- judged by the held-out cells --------------------------------------------------------------------------------


def _judge(model: Model, held_out: Cells, recipe: Recipe) -> None:
    """Calibrate a trained model, put its metrics into the manifest, and refuse it if it fails a gate."""
    if not recipe.labels:
        return
    decided = recipe.trust.model_dump(exclude={"distance_quantile"})  # before anything is fitted
    unfitted = [Calibration(level=rule.key, temperature=1.0, **decided) for rule in recipe.labels]
    model.manifest = model.manifest.changed(trust=_trust(model, unfitted))
    labels = {level: pd.Series(names, index=held_out.obs_names) for level, names in held_out.labels.items()}
    report = evaluate(_cross_fitted(model, held_out, recipe), labels)
    validated_on = f"{len(held_out):,} cells of the reference's own data sets that were not trained on"
    model.manifest = model.manifest.changed(
        trust=_trust(model, _calibrations(model, held_out, recipe), validated_on=validated_on),
        metrics=_metrics(report, held_out, model.manifest, recipe),
    )
    _check_gates(recipe, report)


def _trust(model: Model, calibrations: Iterable[Calibration], *, validated_on: str | None = None) -> Trust:
    return model.manifest.trust.model_copy(update={"calibrations": tuple(calibrations), "validated_on": validated_on})


def _calibrations(model: Model, cells: Cells, recipe: Recipe) -> tuple[Calibration, ...]:
    evidences = evidence(model, embed(model, cells), cells=cells)
    quantile = recipe.trust.distance_quantile
    chosen = [c for c in model.manifest.trust.calibrations if c.level in evidences]
    return tuple(
        calibrate(evidences[c.level], cells.labels[c.level], calibration=c, distance_quantile=quantile) for c in chosen
    )


def _cross_fitted(model: Model, cells: Cells, recipe: Recipe) -> Predictions:
    """Return predictions in which each half of the cells is calibrated on the other half."""
    parts = []
    one, other = (rows.numpy() for rows in split(cells, model.vocabulary, fraction=0.5, seed=recipe.seed))
    for fitted, judged in ((one, other), (other, one)):
        trust = _trust(model, _calibrations(model, cells.rows(fitted), recipe))
        parts.append(predict(replace(model, manifest=model.manifest.changed(trust=trust)), cells.rows(judged)))
    return joined(parts)


def _metrics(report: Report, cells: Cells, manifest: Manifest, recipe: Recipe) -> tuple[Metric, ...]:
    same: Mapping[str, Any] = {
        "dataset": " + ".join(dataset.name for dataset in recipe.datasets),
        "dataset_fingerprint": fingerprint(cells.x, manifest.genes.names),
        "split": f"held out ({recipe.holdout.fraction:.0%}, stratified by conditions and label, never trained on)",
        "seed": recipe.seed,
    }
    return tuple(
        Metric(
            name=f"{level.level}.{name}",
            definition=definition + (_never_true(level) if name == "macro_f1" else ""),
            value=getattr(level, name),
            n=level.cells,
            **same,
        )
        for level in report.levels
        for name, definition in METRICS.items()
        if getattr(level, name) is not None
    )


def _never_true(level: LevelReport) -> str:
    """Return which labels pull a macro-F1 down though no cell has them; "" where all that are given are true."""
    given = errors.names(f"{label} ({cells:,} cells)" for label, cells in level.never_true.items())
    return f"; given and never true, each an F1 of 0: {given}" if given else ""


def _check_gates(recipe: Recipe, report: Report) -> None:
    values = {(gate.level, gate.metric): getattr(report[gate.level], gate.metric) for gate in recipe.gates}
    failed = [line for gate in recipe.gates if (line := _fault(gate, values[gate.level, gate.metric]))]
    if failed:
        raise errors.InvalidInput(
            f"{recipe.name} {recipe.version} was not written: its held-out cells fail gates of the recipe:\n  "
            + "\n  ".join(failed),
            facts={f"{level}.{metric}": value for (level, metric), value in values.items()},
        )


def _fault(gate: Gate, value: float) -> str | None:
    """Return how a value misses a gate; None if it passes."""
    what = f"{gate.level}.{gate.metric} is {value:.4f}, wanted"
    if gate.at_least is not None and value < gate.at_least:
        return f"{what} at least {gate.at_least:g}"
    if gate.at_most is not None and value > gate.at_most:
        return f"{what} at most {gate.at_most:g}"
    return None

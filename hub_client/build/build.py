"""build(): train, judge and write a release from a recipe and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hub_client import _resources, errors
from hub_client.build import datasets
from hub_client.build.audits import audits, lines
from hub_client.build.criticism import Source, criticise
from hub_client.build.judge import Training as Trained
from hub_client.build.judge import judge
from hub_client.build.panel import allowed, paired, select_panel
from hub_client.checks.verify import with_test_vectors
from hub_client.data import genes
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.data.depth import depth_of
from hub_client.labels.atlas import with_atlas
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.novelty import LEAST_REFERENCE, with_novelty
from hub_client.labels.rules import RULES, Part
from hub_client.manifest.configs import having
from hub_client.manifest.corrections import AppliedCorrection
from hub_client.manifest.inputs import Gene, Genes, Proteins
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import Training
from hub_client.manifest.recipe import LabelRule, Programs, Recipe
from hub_client.manifest.recommended import plan_with_given, recommended, with_given
from hub_client.manifest.v1 import Combination, Condition, LabelLevel, Manifest, PrototypeLevel, Prototypes
from hub_client.models.model import Model, device_of
from hub_client.models.train import train
from hub_client.nn.training import say, split
from hub_client.programs.programs import Chosen, Program, as_terms, genes_of, read
from hub_client.release import card


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
    source = datasets.load(recipe, Path(data))
    model, training, held_out = _prepared(recipe, source, data=Path(data))
    audited = audits(recipe, source)
    for line in lines(audited) if progress else ():
        say(line)
    cells = len(training) + len(held_out)
    if progress and recipe.recipe_version > 1:
        say(f"what the recipe leaves out is {recommended(recipe.architecture.kind, cells=cells).reason}")
    recipe = _settled(recipe, cells=cells)
    runtime: dict[str, Any] = {"seed": recipe.seed, "accelerator": accelerator, "progress": progress}
    fitted: Callable[[Model, Cells], Model] = partial(_fitted, recipe=recipe, **runtime)
    model = fitted(model, training)
    model.record(model.manifest.training.model_copy(update={"label_audits": tuple(one.record for one in audited)}))
    _state_depth(model, training)
    studies = source.studies[training.obs_names.astype(int)]
    judge(model, Trained(training, studies, fitted, progress, device_of(accelerator)), held_out, recipe)
    _criticise(model, training, held_out, recipe, progress=progress)
    model = with_test_vectors(model, training, count=recipe.test_cells, seed=recipe.seed)
    model.save(folder, overwrite=overwrite)
    if Path(out).resolve() == _resources.released().resolve():
        card.render_zoo(_resources.released(), _resources.cards())
    return folder


def _fitted(model: Model, training: Cells, *, recipe: Recipe, **runtime: Any) -> Model:
    """Return an untrained model, trained, with what its labels are transferred from."""
    if recipe.pretraining is not None:
        _pretrain(model, training, plan=recipe.pretraining, **runtime)
    _train_whole(model, training, plan=recipe.plan, **runtime)
    model = with_atlas(model, training) if recipe.carries_atlas else model
    if "expression" in RULES[recipe.trust.transfer].needs:
        model = with_expression_classifiers(model, training)
    needed = "expression_votes" in RULES[recipe.trust.transfer].needs
    enough = needed or len(training) >= LEAST_REFERENCE  # what needs it and has too few cells is refused
    return with_novelty(model, training) if recognises(recipe) and enough else model


def _state_depth(model: Model, training: Cells) -> None:
    """Put into the manifest how deep the reference's cells are, which a query's are compared with."""
    if model.manifest.input.kind == "counts":
        trust = model.manifest.trust.model_copy(update={"depth": depth_of(training)})
        model.manifest = model.manifest.changed(trust=trust)


def recognises(recipe: Recipe) -> bool:
    """Return whether a release recognises strangers: not one of the first recipes, which make what they made before."""
    named = recipe.carries_atlas or bool(recipe.labels)
    return recipe.recipe_version > 1 and named and recipe.input.kind == "counts"


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
    return _prepared(recipe, datasets.load(recipe, data), data=data)


def _prepared(recipe: Recipe, source: datasets.Reference, *, data: Path) -> tuple[Model, Cells, Cells]:
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
    atlas = None if recipe.carries_atlas else "the atlas: set atlas = true"
    prototypes = f"prototypes, which {kind} has not: set atlas = true and trust.transfer = 'neighbors', for one"
    lacking: dict[Part, str | None] = {
        "distances": None if "prototypes" in config.parts else prototypes,
        "mahalanobis_squared": None if "prototypes" in config.parts else prototypes,
        "votes": atlas,
        "densities": atlas,
        "expression": None if values == "counts" else f"counts; input.kind is {values!r}",
        "expression_votes": _by_expression(recipe),
        "network": None if "classifier" in config.parts else f"a classifier, which {owners} has and {kind} has not",
    }
    needs = RULES[recipe.trust.transfer].needs if recipe.labels else ()
    return [what for part in needs if (what := lacking.get(part))]


def _by_expression(recipe: Recipe) -> str | None:
    """Return what it takes to keep where the reference lies in expression, if the release would not."""
    return None if recognises(recipe) else "the reference's expression: set recipe_version = 2; input.kind is 'counts'"


def _without_latent_labels(recipe: Recipe) -> list[str]:
    """Return the gates on labels from the latent alone of a recipe whose model would give none."""
    if recipe.carries_atlas or {"prototypes", "classifier"} & set(recipe.architecture.parts):
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
    prototypical = recipe.own_levels if "prototypes" in recipe.architecture.parts else ()
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
        labels=tuple(_level(recipe, rule, source.corrections.get(rule.key, ())) for rule in recipe.labels),
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


def _level(recipe: Recipe, rule: LabelRule, corrections: tuple[AppliedCorrection, ...]) -> LabelLevel:
    prefixes = sorted({curie.partition(":")[0] for curie in rule.ontology.values()})
    return LabelLevel(
        key=rule.key,
        categories=tuple(sorted(rule.ids)),
        ontology=rule.ids,
        ontology_release=", ".join(f"{prefix} {recipe.ontologies[prefix]}" for prefix in prefixes) or None,
        parents=rule.parents,
        unlabelled=rule.unlabelled,
        markers=rule.markers,
        derived_from=rule.derived_from,
        corrections=corrections,
    )


# --- judged -----------------------------------------------------------------------------------------------------


def _criticise(model: Model, training: Cells, held_out: Cells, recipe: Recipe, *, progress: bool) -> None:
    """Add to the manifest's metrics how well a model reproduces its data, and what its latent is worth."""
    found = criticise(model, training, held_out, source=Source.of(recipe), rule=recipe.criticism, progress=progress)
    model.manifest = model.manifest.changed(metrics=(*model.manifest.metrics, *found))

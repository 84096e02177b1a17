"""Recipes: all that a person writes for a release, and nothing that a program can derive from the data.

A recipe is a TOML file in ``zoo/recipes``. :func:`hub_client.build.build` turns it, with its data, into a release.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from hub_client import errors
from hub_client.manifest._frozen import Frozen
from hub_client.manifest.axes import Markers
from hub_client.manifest.calibration import Transfer
from hub_client.manifest.configs import ArchitectureConfig, having
from hub_client.manifest.corrections import Correction
from hub_client.manifest.inputs import GeneAnnotation, InputSpec
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import Author, Citation, OntologyTerm
from hub_client.manifest.reading import read_toml
from hub_client.manifest.scalars import Curie, Doi, Key, RelativePath, SemVer, Sha256, Slug, Spdx, Text, UnitInterval
from hub_client.manifest.v1 import Embedding, OneHot

Fraction = Annotated[float, Field(gt=0, lt=1)]
DataPath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")]
"""A file inside the data folder."""


class Term(Frozen):
    """An ontology term; the release it was read from stands once, in the recipe's ``ontologies``."""

    id: Curie
    label: Text
    """The term's label in that release: a reader should not need to look it up, a reviewer does."""


class Constant(Frozen):
    """One value for every cell of a data set."""

    constant: Text


class ProteinCounts(Frozen):
    """Where a data set's protein counts are."""

    key: Text
    """The key of ``obsm``."""
    fingerprint: Sha256
    """Content hash of names and counts: :func:`hub_client.data.fingerprint.fingerprint` of the whole file's."""


class Dataset(Frozen):
    """One file of cells, and where its conditions and labels are."""

    name: Text
    file: RelativePath
    """Its ``.h5ad`` file in the data folder."""
    source: Text
    """Where the file can be had, in words or as an address."""
    fingerprint: Sha256
    """Content hash of genes and counts: :func:`hub_client.data.fingerprint.fingerprint` of the whole file."""
    doi: Doi | None = None
    license: Spdx | None = None
    layer: Text | None = None
    """The layer that holds the counts; None is ``X``."""
    genes: Text | None = None
    """The ``var`` column that holds the genes' names under ``panel.id_type``; None is the ``var`` index."""
    proteins: ProteinCounts | None = None
    """Of totalVI; a data set without proteins has none measured."""
    keep: dict[str, tuple[str, ...]] = {}
    """The obs column and the values its cells may have; cells with another value are left out."""
    conditions: dict[Key, Text | Constant]
    """Condition key to obs column, or ``{ constant = "..." }``."""
    labels: dict[Key, Text] = {}
    """Label level to obs column; a level not named here has no labels in this data set."""
    rename: dict[Key, dict[str, str]] = {}
    """Label level to the labels of this data set that are called otherwise in the release."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if strangers := sorted(self.rename.keys() - self.labels.keys()):
            raise ValueError(f"rename is for the label levels in labels; {errors.names(strangers)} not among them")
        return self


class Panel(Frozen):
    """How the genes are chosen, among those that every data set measures."""

    id_type: Literal["ensembl", "symbol"] = "symbol"
    size: PositiveInt | None = 2000
    """Genes in all; None takes every shared gene."""
    method: Literal["pearson_residuals", "seurat", "cell_ranger"] = "pearson_residuals"
    """scanpy's ranking of highly variable genes: within each batch, then merged over batches."""
    min_cells: NonNegativeInt = 0
    """A gene that fewer of the reference's cells express is not chosen by rank, nor with a whole program: what is never
    seen teaches no weight."""
    include: tuple[Text, ...] = ()
    """Genes that are in the panel whatever their rank."""
    include_measured: tuple[Literal["pbmc68k_reduced"], ...] = ()
    """scanpy's bundled data sets whose genes (symbols) are in the panel, so far as every data set measures them."""
    exclude: tuple[Text, ...] = ()
    """Regular expressions; a gene whose name one of them matches is not chosen by rank, nor with a whole program."""
    coverage_warn: UnitInterval = 0.8
    coverage_refuse: UnitInterval = 0.5
    missing: Literal["zero", "mean"] = "zero"
    """What a gene that a query lacks counts as: zero, or the reference's mean at the cell's depth
    (benchmarks/missing_genes.py compares them)."""
    duplicates: Literal["error", "sum", "first"] = "error"

    @field_validator("exclude")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.include_measured and self.id_type != "symbol":
            raise ValueError("include_measured names genes by symbol, so it needs id_type = 'symbol'")
        return self


class Programs(Frozen):
    """The gene programs of an expiMap: a file of them, and which become terms."""

    file: DataPath
    """Its ``.gmt`` file in the data folder, or a table (``.csv``, ``.tsv``) with columns ``source``, ``target`` and, if
    there are such, ``weight`` and ``id``."""
    sha256: Sha256
    """Of the file."""
    source: Text
    """The database they come from."""
    release: Text
    license: Spdx
    min_genes: PositiveInt = 12
    """Programs with fewer genes in the panel are dropped."""
    max_genes: PositiveInt | None = None
    max_overlap: UnitInterval | None = None
    """Programs that share more than this of their genes (the Jaccard index) with a larger one are dropped."""
    whole: tuple[Text, ...] = ()
    """Ids of programs whose measured genes are all in the panel, however little they vary in the reference."""
    only: bool = True
    """Whether the panel takes genes of programs only, besides those it includes; a gene outside of all programs is
    explained by no term."""


class ConditionRule(Frozen):
    """A condition key; its categories come from the data."""

    key: Key
    role: Literal["batch", "covariate", "donor"] = "batch"
    encoding: Annotated[OneHot | Embedding, Field(discriminator="kind")]
    unknown: Literal["extend", "error"] = "extend"


class LabelRule(Frozen):
    """A label level; its categories come from the data and must be the ones named here."""

    key: Key
    ontology: dict[str, Curie] = {}
    """The Cell Ontology id of each category."""
    without_id: tuple[Text, ...] = ()
    """The categories that have none."""
    parents: dict[str, str] = {}
    """The label of a coarser level that a category belongs to."""
    unlabelled: Text | None = None
    """The value in obs that means a cell has no label."""
    derived_from: Key | None = None
    """The finer level whose labels, through their ``parents``, are this level's, after its corrections. None reads the
    level from ``datasets.labels``."""
    markers: dict[str, Markers] = {}
    """Genes that a category's cells have counts of, and genes that they have none of: the audit before training checks
    the cells by them."""
    corrections: tuple[Correction, ...] = ()
    """Rules that relabel, unlabel or leave out cells before anything is trained."""

    @property
    def ids(self) -> dict[str, str | None]:
        """Every category and its Cell Ontology id."""
        return {**self.ontology, **dict.fromkeys(self.without_id)}


class Holdout(Frozen):
    """The cells that are never trained on: the release's metrics and calibration come from them."""

    fraction: Fraction = 0.1
    """Share of the cells, drawn under the seed and stratified by condition and finest label."""


class Gate(Frozen):
    """What a metric of the held-out cells must be for the release to be written."""

    level: Key
    metric: Literal["accuracy", "latent_accuracy", "macro_f1", "latent_macro_f1", "calibration_error"]
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a gate needs at_least, at_most or both")
        return self


class TrustRule(Frozen):
    """Where labels come from and how their uncertainty is calibrated."""

    transfer: Transfer = "prototypes"
    """Where labels come from: as in a manifest's calibrations; reference cells are those of the atlas."""
    neighbors: PositiveInt = 50
    """How many cells of the atlas vote."""
    prior: Annotated[float, Field(ge=0)] = 0.0
    """Gaussians and mixtures: the power of each label's share of the reference's cells in its probability."""
    unknown_above: UnitInterval = 0.5
    """Uncertainty above which a cell is called unknown."""
    left_out: bool = True
    """Version 2: whether labels are calibrated by models of the reference without one of its batches, which are trained
    for it, at most five (of three data sets or more: without one of these). Without, and where there is one batch, the
    held-out cells do."""
    distance_quantile: Fraction | None = 0.99
    """How near its prototype this share of well-labelled held-out cells is; cells farther off are unsure. None applies
    no such rule."""


class CriticismRule(Frozen):
    """What a trained model is asked beside its labels; the answers are among the release's metrics."""

    reproduction: bool = True
    """Whether counts drawn from the model are compared with its data, gene by gene and cell by cell."""
    integration: bool = True
    """Whether its latent is compared with principal components of the same cells. With scib-metrics installed
    (``archzoo[criticism]``) that takes one to two minutes more."""


class Recipe(Frozen):
    """A release, as people describe it (recipe format 1)."""

    recipe_version: Literal[1, 2]
    """Of version 2, what ``architecture``, ``plan`` and ``query_plan`` leave out is as
    :func:`hub_client.manifest.recommended.recommended` has it for the data; of version 1 it is the defaults of 1.0."""
    name: Slug
    version: SemVer
    title: Text
    summary: Text
    authors: Annotated[tuple[Author, ...], Field(min_length=1)]
    citation: Citation | None = None
    license: Spdx
    """Of the weights."""
    data_license: Spdx
    """Of the data they were trained on."""
    intended_use: Text
    limitations: Text
    ontologies: dict[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], Text]
    """CURIE prefix to the release its ids and labels were read from."""
    organism: Term
    tissue: tuple[Term, ...] = ()
    assay: tuple[Term, ...] = ()
    disease: tuple[Term, ...] = ()
    suspension_type: Literal["cell", "nucleus"] | None = None
    gene_annotation: GeneAnnotation | None = None
    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1)]
    panel: Panel = Panel()
    programs: Programs | None = None
    """Of expiMap."""
    conditions: Annotated[tuple[ConditionRule, ...], Field(min_length=1)]
    labels: tuple[LabelRule, ...] = ()
    architecture: ArchitectureConfig
    input: InputSpec = InputSpec()
    plan: Plan = Plan()
    pretraining: Plan | None = None
    """scANVI: how the scVI that it starts from is trained; None trains it at once."""
    query_plan: Plan | None = None
    """What the release recommends for training on queries; None is the defaults."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the held-out split, the first weights, training and the test vectors."""
    holdout: Holdout = Holdout()
    trust: TrustRule = TrustRule()
    criticism: CriticismRule = CriticismRule()
    gates: tuple[Gate, ...] = ()
    atlas: bool = False
    """Whether the release carries the latent, labels and conditions of the cells it was trained on; of version 2, one
    with labels always does."""
    test_cells: PositiveInt = 8
    """Simulated cells in the test vectors."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the recipe in a TOML file.

        Raises
        ------
        NotFound
            If there is no such file.
        ManifestError
            If it is not TOML, or does not state what the format asks; ``problems`` names each key.
        """
        return read_toml(Path(path), cls, what="recipe")

    @property
    def own_levels(self) -> tuple[LabelRule, ...]:
        """The label levels that are fitted; the others are derived from these."""
        return tuple(rule for rule in self.labels if rule.derived_from is None)

    @property
    def carries_atlas(self) -> bool:
        """Whether the release carries where the cells it was trained on lie: what labels cells is seen with it."""
        return self.atlas or (self.recipe_version > 1 and bool(self.labels))

    def term(self, term: Term) -> OntologyTerm:
        """Return the term with its ontology's release."""
        return OntologyTerm(id=term.id, label=term.label, release=self.ontologies[_prefix(term.id)])

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_unique("datasets", [dataset.name for dataset in self.datasets])
        _check_unique("conditions", [rule.key for rule in self.conditions])
        _check_unique("labels", [rule.key for rule in self.labels])
        for dataset in self.datasets:
            _check_keys(self, dataset)
        _check_gates(self)
        _check_levels(self)
        _check_programs(self)
        _check_proteins(self)
        _check_plans(self)
        _check_ontologies(self)
        return self


def _check_unique(what: str, names: list[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} must have different names; {errors.names(repeated)} repeated")


def _check_keys(recipe: Recipe, dataset: Dataset) -> None:
    conditions = {rule.key for rule in recipe.conditions}
    if conditions != dataset.conditions.keys():
        raise ValueError(
            f"data set {dataset.name!r} gives the conditions {errors.names(sorted(dataset.conditions)) or 'none'}; "
            f"the recipe's are {errors.names(sorted(conditions))}"
        )
    if strangers := sorted(dataset.labels.keys() - {rule.key for rule in recipe.labels}):
        raise ValueError(f"data set {dataset.name!r} has the label levels {errors.names(strangers)}, unknown to labels")


def _check_gates(recipe: Recipe) -> None:
    levels = [rule.key for rule in recipe.labels]
    if strangers := [gate.level for gate in recipe.gates if gate.level not in levels]:
        raise ValueError(f"gates name the label levels {errors.names(strangers)}, unknown to labels")


def _check_levels(recipe: Recipe) -> None:
    rules = {rule.key: rule for rule in recipe.labels}
    for rule in recipe.labels:
        if strangers := sorted(rule.markers.keys() - rule.ids.keys()):
            raise ValueError(
                f"labels {rule.key!r}: markers are of {errors.names(strangers)}, which are no labels of it"
            )
        _check_corrections(rule, [dataset.name for dataset in recipe.datasets])
        if rule.derived_from is not None:
            _check_derived(rule, rules, recipe.datasets)


def _check_corrections(rule: LabelRule, datasets: list[str]) -> None:
    for correction in rule.corrections:
        if correction.to is not None and correction.to not in rule.ids:
            raise ValueError(f"labels {rule.key!r}: a correction gives {correction.to!r}, which is no label of it")
        if strangers := sorted(set(correction.datasets) - set(datasets)):
            raise ValueError(
                f"labels {rule.key!r}: a correction is for the data sets {errors.names(strangers)}, unknown"
            )


def _check_derived(rule: LabelRule, rules: dict[str, LabelRule], datasets: tuple[Dataset, ...]) -> None:
    finer = rules.get(rule.derived_from or "")
    if finer is not None and list(rules).index(finer.key) > list(rules).index(rule.key):
        raise ValueError(f"labels {rule.key!r} come from {finer.key!r}: put it behind that level")
    if finer is None or finer.derived_from is not None:
        raise ValueError(
            f"labels {rule.key!r}: derived_from is {rule.derived_from!r}, which is no level with own labels"
        )
    if rule.corrections or rule.unlabelled or any(rule.key in dataset.labels for dataset in datasets):
        raise ValueError(
            f"labels {rule.key!r} come from {finer.key!r}: they have no datasets.labels, corrections or unlabelled"
        )
    if lost := sorted(finer.ids.keys() - finer.parents.keys()):
        raise ValueError(f"labels {rule.key!r}: {errors.names(lost)} of {finer.key!r} have no parents")
    if set(finer.parents.values()) != rule.ids.keys():
        raise ValueError(
            f"labels {rule.key!r} must be the parents of {finer.key!r}, which are "
            f"{errors.names(sorted(set(finer.parents.values())))}; they are {errors.names(sorted(rule.ids))}"
        )


def _check_programs(recipe: Recipe) -> None:
    if (recipe.programs is not None) != ("terms" in recipe.architecture.parts):
        owners = " and ".join(having("terms"))
        raise ValueError(f"programs are for {owners}, and {owners} needs them")


def _check_proteins(recipe: Recipe) -> None:
    measured = any(dataset.proteins for dataset in recipe.datasets)
    if measured != ("proteins" in recipe.architecture.parts):
        owners = " and ".join(having("proteins"))
        raise ValueError(f"datasets.proteins are for {owners}, and {owners} needs them in one data set at least")


def _check_plans(recipe: Recipe) -> None:
    kind, start = recipe.architecture.kind, recipe.architecture.starts_from
    if recipe.pretraining is not None and start is None:
        raise ValueError("pretraining is for scanvi, which can start from a scVI")
    for key, trained in {"plan": kind, "pretraining": start.kind if start else kind, "query_plan": kind}.items():
        if plan := getattr(recipe, key):
            plan.checked_for(trained, called=key)


def _check_ontologies(recipe: Recipe) -> None:
    terms = [recipe.organism, *recipe.tissue, *recipe.assay, *recipe.disease]
    ids = [term.id for term in terms] + [curie for rule in recipe.labels for curie in rule.ontology.values()]
    if lost := sorted({_prefix(curie) for curie in ids} - recipe.ontologies.keys()):
        raise ValueError(f"ontologies lacks the release of {errors.names(lost)}")


def _prefix(curie: str) -> str:
    return curie.partition(":")[0]

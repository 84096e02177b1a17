"""Manifest format 1: everything a release says about itself.

The release digest is the sha256 of :meth:`Manifest.to_bytes`. Readers for other format versions are in ``reading``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from hub_client import errors
from hub_client.manifest._frozen import Frozen, problems
from hub_client.manifest.configs import ArchitectureConfig, Part, having
from hub_client.manifest.plan import Plan

SCHEMA_VERSION = "1.0"

Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[-_.][a-z0-9]+)*$", max_length=96)]
Key = Annotated[str, Field(pattern=r"^[^\s./+*]+$", max_length=96)]
SemVer = Annotated[str, Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Curie = Annotated[str, Field(pattern=r"^[A-Za-z]+:[A-Za-z0-9_]+$")]
Spdx = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*$")]
Orcid = Annotated[str, Field(pattern=r"^\d{4}-\d{4}-\d{4}-\d{3}[\dX]$")]
Doi = Annotated[str, Field(pattern=r"^10\.\d{4,9}/\S+$")]
RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=128)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Axis = Annotated[str, Field(pattern=r"^[^\s+*]+(?:\+[^\s+*]+)*$", max_length=256)]


def _repeated(values: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def _unique(what: str, values: Iterable[str]) -> None:
    if again := _repeated(values):
        raise ValueError(f"{what} must be unique; repeated: {', '.join(again[:5])}")


class Author(Frozen):
    """Who made the release."""

    name: Text
    orcid: Orcid | None = None


class Citation(Frozen):
    """What to cite for the model."""

    doi: Doi | None = None
    bibtex: str | None = None


class OntologyTerm(Frozen):
    """A CURIE, the label it stands for, and the ontology release both were read from."""

    id: Curie
    label: Text
    release: Text


class GeneAnnotation(Frozen):
    """The genome annotation the gene ids belong to."""

    assembly: Text
    source: Text
    release: Text


class Gene(Frozen):
    """One gene by Ensembl id, symbol, or both."""

    id: Annotated[str, Field(pattern=r"^ENS[A-Z]*G\d{11}$")] | None = None
    symbol: Text | None = None


class Genes(Frozen):
    """The ordered gene panel. Order is the contract; matching is by name."""

    id_type: Literal["ensembl", "symbol"]
    panel: Annotated[tuple[Gene, ...], Field(min_length=1)]
    coverage_warn: UnitInterval = 0.8
    coverage_refuse: UnitInterval = 0.5
    missing: Literal["zero", "mean"] = "zero"
    """What a gene the query did not measure counts as: zero, or the reference's mean count (tensor ``gene_means``)."""
    duplicates: Literal["error", "sum", "first"] = "error"
    """What happens when two of the query's genes are the same gene of the panel."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each gene under ``id_type``, in panel order."""
        return tuple(str(gene.id if self.id_type == "ensembl" else gene.symbol) for gene in self.panel)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "None" in self.names:
            raise ValueError(f"every gene needs its {self.id_type} name: id_type is {self.id_type!r}")
        _unique("gene names", self.names)
        if self.coverage_refuse > self.coverage_warn:
            raise ValueError("coverage_refuse must not exceed coverage_warn")
        return self


class Proteins(Frozen):
    """The ordered protein panel (totalVI)."""

    panel: Annotated[tuple[Text, ...], Field(min_length=1)]
    measured: dict[str, tuple[NonNegativeInt, ...]] = {}
    """Batch name to the indices of the proteins measured in it; a batch not named measured all."""
    source: Text | None = None
    """The key of obsm, or the modality, that the reference's protein counts were in: a hint for finding the query's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _unique("proteins", self.panel)
        if any(index >= len(self.panel) for indices in self.measured.values() for index in indices):
            raise ValueError("proteins.measured names an index beyond the panel")
        return self


class InputSpec(Frozen):
    """What the network reads."""

    kind: Literal["counts", "log1p"] = "counts"
    target_sum: Annotated[float, Field(gt=0)] | None = None
    """log1p input: the total each cell was scaled to before log1p; None when it was not scaled."""
    layer: str | None = None
    """The layer the reference's counts were in: a hint for finding the query's."""
    size_factor: Text | None = None
    """The obs column that holds each cell's size factor; None is the sum over the model's genes."""


class OneHot(Frozen):
    """One column per category."""

    kind: Literal["one-hot"] = "one-hot"


class Embedding(Frozen):
    """One learned row per category."""

    kind: Literal["embedding"] = "embedding"
    dim: PositiveInt = 10
    max_norm: Annotated[float, Field(gt=0)] | None = 1.0


class Condition(Frozen):
    """A condition key and its ordered categories; categories are only ever appended."""

    key: Key
    role: Literal["batch", "covariate", "donor"] = "batch"
    categories: Annotated[tuple[Text, ...], Field(min_length=1)]
    encoding: Annotated[OneHot | Embedding, Field(discriminator="kind")]
    unknown: Literal["extend", "error"] = "extend"
    added_in: dict[str, SemVer] = {}
    """The version that added a category by surgery; categories not named here are the original reference's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _unique(f"categories of condition {self.key!r}", self.categories)
        _appended_last(f"condition {self.key!r}", self.categories, self.added_in)
        return self


class Combination(Frozen):
    """One category per condition key, in the order of ``conditions``: what shares a column of theta."""

    values: Annotated[tuple[str, ...], Field(min_length=2)]
    added_in: SemVer | None = None


class Covariates(Frozen):
    """Covariates as scvi-tools knows them."""

    categorical: tuple[Condition, ...] = ()
    continuous: tuple[Text, ...] = ()


class LabelLevel(Frozen):
    """One level of labels (an obs column) and its ordered categories."""

    key: Key
    categories: Annotated[tuple[Text, ...], Field(min_length=1)]
    ontology: dict[str, Curie | None]
    """The Cell Ontology id of each category, or an explicit null."""
    ontology_release: str | None = None
    parents: dict[str, str] = {}
    """The label of a coarser level that a category belongs to."""
    unlabelled: str | None = None
    """The value in obs that means the cell has no label."""
    added_in: dict[str, SemVer] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        _unique(f"labels of {self.key!r}", self.categories)
        if self.unlabelled in self.categories:
            raise ValueError(f"labels of {self.key!r}: the unlabelled value {self.unlabelled!r} is also a category")
        if set(self.ontology) != set(self.categories):
            raise ValueError(f"labels of {self.key!r}: ontology needs an id or null for each category, and no other")
        if strangers := set(self.parents) - set(self.categories):
            raise ValueError(f"labels of {self.key!r}: parents names unknown categories {sorted(strangers)[:5]}")
        _appended_last(f"labels of {self.key!r}", self.categories, self.added_in)
        return self


def _appended_last(what: str, categories: tuple[str, ...], added_in: dict[str, str]) -> None:
    if strangers := set(added_in) - set(categories):
        raise ValueError(f"{what}: added_in names unknown categories {sorted(strangers)[:5]}")
    _oldest_first(what, [added_in.get(name) for name in categories])


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(map(int, (version or "0.0.0").split(".")))


def _oldest_first(what: str, versions: Iterable[str | None]) -> None:
    order = [_numbers(version) for version in versions]
    if order != sorted(order):
        raise ValueError(f"{what}: what was added must stand after the reference's, oldest version first")


class Term(Frozen):
    """One gene program of expiMap."""

    id: Text
    name: Text
    source: str | None = None
    release: str | None = None
    license: Spdx | None = None
    genes: tuple[NonNegativeInt, ...] = ()
    """Indices into the gene panel."""
    kind: Literal["annotated", "constrained", "unconstrained"] = "annotated"
    """Annotated programs stand first. Extensions follow in the order of the versions that added them, so that columns
    of the latent are only ever appended; within a version, constrained ones stand before unconstrained ones."""
    active: bool = True
    """Whether any gene has a weight in it after training."""
    direction: Literal[-1, 0, 1] = 1
    """Whether the program is expressed more (1) or less (-1) as the score rises; 0 without weights.

    A score times it is high where the program is. It goes by the square roots of the genes' expected shares of counts;
    with a last layer other than softmax, and for a term that holds every gene, by the sum of the weights.
    """
    added_in: SemVer | None = None


class PrototypeLevel(Frozen):
    """The tensors of one label level's prototypes; rows are the level's categories in order."""

    level: Key
    means: Text
    covariances: Text | None = None

    @classmethod
    def of(cls, position: int, level: str) -> Self:
        """Return the level's prototypes under the names scPoli's tensors have."""
        return cls(level=level, means=f"prototypes.{position}.means", covariances=f"prototypes.{position}.covariances")


class Prototypes(Frozen):
    """scPoli's prototypes."""

    levels: tuple[PrototypeLevel, ...] = ()
    unlabelled: NonNegativeInt = 0
    """How many unlabelled prototypes there are: the length of the axis ``prototypes.unlabelled``."""


class TensorSpec(Frozen):
    """One tensor of ``model.safetensors``; each axis is a sum of names and whole numbers, as in ``latent`` or ``1``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=256)]
    dtype: Literal["F32", "F64", "I64", "I32", "BOOL", "U8"]
    shape: Annotated[tuple[Axis, ...], Field(max_length=8)]


class FileSpec(Frozen):
    """One file of the release."""

    path: RelativePath
    size: NonNegativeInt
    sha256: Sha256
    role: Literal["weights", "reference", "card"]


class DatasetRecord(Frozen):
    """A data set a model was trained or judged on."""

    name: Text
    doi: Doi | None = None
    source: str | None = None
    license: Spdx | None = None
    cells: PositiveInt
    fingerprint: Sha256
    """Content hash of genes and counts; independent of file format."""


class Training(Frozen):
    """How the weights came to be."""

    datasets: tuple[DatasetRecord, ...] = ()
    plan: Plan | None = None
    seed: int | None = None
    epochs: NonNegativeInt = 0
    losses: dict[str, float] = {}
    """Last recorded value of each loss term (nats per cell)."""
    versions: dict[str, str] = {}
    device: str | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None


class Metric(Frozen):
    """One figure the card shows."""

    name: Text
    definition: Text
    dataset: Text
    dataset_fingerprint: Sha256 | None = None
    split: Text
    value: float
    n: NonNegativeInt
    seed: int | None = None


Transfer = Literal["prototypes", "gaussians", "neighbors", "average", "mixtures", "expression", "consensus", "network"]


class Calibration(Frozen):
    """How one label level's evidence becomes labels and their probabilities."""

    level: Key
    transfer: Transfer = "prototypes"
    """Where labels come from: ``prototypes`` (distances to them), ``gaussians`` (prototypes with the covariance their
    cells share), ``neighbors`` (votes of the nearest cells of ``reference.zarr.zip``), the ``average`` of the
    probabilities of prototypes and neighbors, ``mixtures`` (a Gaussian for each label in each condition of
    ``reference.zarr.zip``), ``expression`` (a linear classifier of normalised counts), the ``consensus``, which is the
    mean of the probabilities of mixtures and expression, or the ``network``'s own classifier, as scANVI has one."""
    neighbors: PositiveInt = 50
    """How many reference cells vote."""
    prior: Annotated[float, Field(ge=0)] = 0.0
    """Gaussians and mixtures: the power of each label's share of the reference's cells in its probability; 0 holds all
    labels equally likely beforehand."""
    temperature: Annotated[float, Field(gt=0)]
    """Logits (minus the distance, or a Gaussian's log density) are divided by this before the softmax."""
    sharpness: Annotated[float, Field(gt=0)] = 1.0
    """Probabilities are raised to this power and normalised again: above 1 sharpens them, below 1 flattens them."""
    distance_scale: Annotated[float, Field(gt=0)] | None = None
    """A cell at d times this distance from its nearest prototype, d above 1, keeps 1/d of its confidence; None applies
    no distance rule."""
    unknown_above: UnitInterval = 0.5
    """Uncertainty above which a cell is called unknown."""


class ExpressionClassifier(Frozen):
    """A linear classifier of a level's labels by log-normalised counts, and the tensors that hold it."""

    level: Key
    weight: Text
    """``(labels, genes)``: the labels known when it was fitted, the level's first."""
    bias: Text
    """``(labels,)``"""
    centre: Text
    """``(genes,)``: mean log-normalised counts, which a gene that was not measured counts as."""


class Trust(Frozen):
    """Read by the mapper: what uncertainty means for this model, and what that was checked on."""

    calibrations: tuple[Calibration, ...] = ()
    classifiers: tuple[ExpressionClassifier, ...] = ()
    validated_on: str | None = None


class TestVectors(Frozen):
    """A small input with its expected outputs; ``tensors`` maps each part to a tensor's name."""

    cells: PositiveInt
    tensors: dict[str, str]
    rtol: Annotated[float, Field(ge=0)] = 1e-4
    atol: Annotated[float, Field(ge=0)] = 1e-5


class Parent(Frozen):
    """The release this one was made from."""

    name: Text
    version: SemVer | None = None
    commit: Commit | None = None
    digest: Sha256


class Lineage(Frozen):
    """Where the model comes from."""

    parent: Parent | None = None
    relation: Literal["surgery", "retrain", "import"]
    new_rows: Literal["random", "mean", "best"] | None = None
    """How surgery started the rows of new conditions."""
    copied: dict[str, str] = {}
    """For ``best``: the new condition and the reference condition its rows were copied from."""
    retrained_extensions: bool = False
    """expiMap's surgery: whether the extension terms that the reference had were trained again; their columns of
    reference cells moved then, and no others."""


class Delta(Frozen):
    """How hubs keep a release that surgery grew: what it adds to its parent, from which the rest is taken.

    ``files`` of the manifest describe the whole release, which is what is pulled, checked and cited.
    """

    path: Literal["delta.safetensors"] = "delta.safetensors"
    size: NonNegativeInt
    sha256: Sha256
    inherited: tuple[RelativePath, ...] = ()
    """Files that are the parent's, byte for byte, and are not kept a second time."""


class Signature(Frozen):
    """An ed25519 signature of the manifest's canonical JSON without this field."""

    publisher: Text
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The public key, in hexadecimal digits; whether it is the publisher's is said by whoever trusts it."""
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class OriginalFile(Frozen):
    """A file a model was imported from."""

    path: Text
    sha256: Sha256


class ImportedFrom(Frozen):
    """The foreign format a model came from, and what it could not bring along."""

    format: Text
    files: tuple[OriginalFile, ...]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """The file a manifest was read from: its sha256, the fields as read, and what this format does not know.

    All are equal, so that manifests are compared by what they say and not by how it was formatted.
    """

    digest: str = field(default="", compare=False)
    fields: dict[str, Any] = field(default_factory=dict, compare=False)
    unknown: dict[str, JsonValue] = field(default_factory=dict, compare=False)


class Manifest(Frozen):
    """The contract of one release (format 1)."""

    schema_version: Annotated[str, Field(pattern=r"^1\.\d+$")] = SCHEMA_VERSION
    name: Slug
    version: SemVer = "1.0.0"
    title: str = ""
    summary: str = ""
    created: AwareDatetime | None = None
    authors: tuple[Author, ...] = ()
    citation: Citation | None = None
    license: Spdx | None = None
    data_license: Spdx | None = None
    organism: OntologyTerm | None = None
    tissue: tuple[OntologyTerm, ...] = ()
    assay: tuple[OntologyTerm, ...] = ()
    disease: tuple[OntologyTerm, ...] = ()
    suspension_type: Literal["cell", "nucleus"] | None = None
    gene_annotation: GeneAnnotation | None = None
    architecture: ArchitectureConfig
    genes: Genes
    proteins: Proteins | None = None
    input: InputSpec = InputSpec()
    conditions: tuple[Condition, ...] = ()
    combinations: tuple[Combination, ...] = ()
    """The observed combinations of several condition keys; empty means every combination, as with one key."""
    covariates: Covariates = Covariates()
    labels: tuple[LabelLevel, ...] = ()
    terms: tuple[Term, ...] = ()
    prototypes: Prototypes = Prototypes()
    tensors: tuple[TensorSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    training: Training = Training()
    query_plan: Plan | None = None
    """How the release's maker recommends to train on queries; None is the defaults."""
    metrics: tuple[Metric, ...] = ()
    trust: Trust = Trust()
    test_vectors: TestVectors | None = None
    lineage: Lineage | None = None
    delta: Delta | None = None
    signature: Signature | None = None
    imported_from: ImportedFrom | None = None
    intended_use: str = ""
    limitations: str = ""
    extensions: dict[Annotated[str, Field(pattern=r"^x-[a-z0-9-]+$")], JsonValue] = {}

    _origin: Origin = PrivateAttr(default=Origin())

    def to_bytes(self) -> bytes:
        """Return the canonical JSON: sorted keys, UTF-8, newline at the end.

        Raises
        ------
        ManifestError
            If the manifest is of a newer minor format: writing it would lose the fields this version does not know.
        """
        if self.schema_version != SCHEMA_VERSION:
            raise errors.ManifestError(
                f"{self.name}: the manifest is of format {self.schema_version}, this archzoo writes {SCHEMA_VERSION}. "
                f"It can be used but not saved again; upgrade to an archzoo that writes {self.schema_version}."
            )
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """The release digest, 64 hex digits: sha256 of the file this was read from, or of the canonical JSON."""
        if self._origin.fields == self.__dict__:
            return self._origin.digest
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def as_read(self) -> bool:
        """Whether this says what the file said that it was read from."""
        return bool(self._origin.digest) and self._origin.fields == self.__dict__

    @property
    def unknown(self) -> dict[str, JsonValue]:
        """What a newer minor format says that this one does not know: dotted place to value."""
        return dict(self._origin.unknown)

    def read_from(self, data: bytes, *, unknown: dict[str, JsonValue] | None = None) -> Self:
        """Return this manifest knowing the bytes it was read from: they, not our rewriting, make the digest."""
        copy = self.model_copy()
        copy._origin = Origin(hashlib.sha256(data).hexdigest(), dict(copy.__dict__), unknown or {})
        return copy

    def changed(self, **fields: Any) -> Self:
        """Return a copy with other fields, validated as a whole.

        Raises
        ------
        ManifestError
            If a field is unknown or the copy contradicts itself.
        """
        try:
            copy = type(self).model_validate({**self.__dict__, **fields})
        except ValidationError as error:
            raise errors.ManifestError(f"{self.name}: the change is not valid", problems=problems(error)) from None
        copy._origin = self._origin
        return copy

    @property
    def categorical(self) -> tuple[Condition, ...]:
        """Every categorical key: the conditions, then the covariates."""
        return (*self.conditions, *self.covariates.categorical)

    @property
    def term_blocks(self) -> tuple[tuple[Term, ...], ...]:
        """The terms that came together, in their order: the annotated ones, then each version's extensions."""
        blocks = groupby(self.terms, key=lambda term: (term.kind == "annotated", term.added_in))
        return tuple(tuple(block) for _, block in blocks)

    def axes(self) -> dict[str, int]:
        """Return the length of every named axis that tensor shapes may use.

        ``genes`` ``proteins`` ``latent`` ``hidden.<i>`` ``classifier`` (its hidden width) ``conditions.<key>``
        ``combinations`` ``embedding.<key>`` ``embedding`` (their sum) ``categorical.<key>`` ``continuous``
        ``labels.<key>`` ``terms`` ``terms.<kind>`` ``terms.<i>`` (of one block) ``prototypes.unlabelled``
        ``test_cells``.
        """
        sizes = {"genes": len(self.genes.panel), "prototypes.unlabelled": self.prototypes.unlabelled}
        sizes |= self.architecture.axes() | _term_axes(self)
        sizes |= {f"conditions.{c.key}": len(c.categories) for c in self.conditions}
        dims = {f"embedding.{c.key}": c.encoding.dim for c in self.conditions if isinstance(c.encoding, Embedding)}
        sizes |= dims | {"embedding": sum(dims.values())}
        sizes["combinations"] = len(self.combinations) or math.prod(len(c.categories) for c in self.conditions)
        sizes |= {f"categorical.{c.key}": len(c.categories) for c in self.covariates.categorical}
        sizes["continuous"] = len(self.covariates.continuous)
        sizes |= {f"labels.{level.key}": len(level.categories) for level in self.labels}
        if self.proteins:
            sizes["proteins"] = len(self.proteins.panel)
        if self.test_vectors:
            sizes["test_cells"] = self.test_vectors.cells
        return sizes

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the sizes a tensor must have, evaluated from its axis names."""
        return _shape(spec, self.axes())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the sizes of every tensor in ``tensors``, by name."""
        sizes = self.axes()
        return {spec.name: _shape(spec, sizes) for spec in self.tensors}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in _CHECKS:
            check(self)
        return self


def _shape(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sum(int(part) if _whole(part) else sizes[part] for part in axis.split("+")) for axis in spec.shape)


def _whole(part: str) -> bool:
    return part.isascii() and part.isdecimal()


def _term_axes(manifest: Manifest) -> dict[str, int]:
    """Return the axes of gene programs, each of which is a dimension of the latent."""
    if "terms" not in manifest.architecture.parts:
        return {}
    kinds: list[str] = [term.kind for term in manifest.terms]
    counts = {f"terms.{kind}": kinds.count(kind) for kind in _TERM_ORDER}
    counts |= {f"terms.{position}": len(block) for position, block in enumerate(manifest.term_blocks)}
    return counts | {"terms": len(kinds), "latent": len(kinds)}


def _check_unique(manifest: Manifest) -> None:
    _unique(
        "condition and covariate keys", [c.key for c in manifest.categorical] + list(manifest.covariates.continuous)
    )
    _unique("label levels", (level.key for level in manifest.labels))
    _unique("term ids", (term.id for term in manifest.terms))
    _unique("term names", (term.name for term in manifest.terms))
    _unique("levels of prototypes", (p.level for p in manifest.prototypes.levels))
    _unique("levels of calibrations", (c.level for c in manifest.trust.calibrations))
    _unique("levels of classifiers", (c.level for c in manifest.trust.classifiers))
    _unique("tensor names", (spec.name for spec in manifest.tensors))
    _unique("file paths (in lower case)", (file.path.lower() for file in manifest.files))


def _check_input(manifest: Manifest) -> None:
    likelihood = manifest.architecture.likelihood
    expected = _INPUT.get(likelihood, ("counts",))
    if manifest.input.kind not in expected:
        raise ValueError(
            f"input.kind is {manifest.input.kind!r}, but likelihood {likelihood!r} reads {' or '.join(expected)}"
        )
    if manifest.input.kind == "counts" and manifest.input.target_sum is not None:
        raise ValueError("input.target_sum is for log1p input only")


def _check_kind(manifest: Manifest) -> None:
    """Refuse parts that belong to another architecture."""
    config = manifest.architecture
    given: dict[Part, object] = {"terms": manifest.terms, "proteins": manifest.proteins}
    for part, value in given.items():
        if value and part not in config.parts:
            raise ValueError(f"{part} are for {' and '.join(having(part))}, not for {config.kind}")
    if "proteins" in config.parts and manifest.proteins is None:
        raise ValueError(f"{config.kind} needs proteins")
    for condition in manifest.conditions:
        if config.encoding and condition.encoding.kind != config.encoding:
            raise ValueError(
                f"condition {condition.key!r} is encoded as {condition.encoding.kind}; "
                f"{config.kind} has {config.encoding}"
            )


def _check_proteins(manifest: Manifest) -> None:
    batches = {name for condition in manifest.conditions for name in condition.categories}
    if manifest.proteins and (lost := sorted(manifest.proteins.measured.keys() - batches)):
        raise ValueError(f"proteins.measured names batches that are no condition's: {lost[:5]}")


def _check_terms(manifest: Manifest) -> None:
    config = manifest.architecture
    if "terms" not in config.parts:
        return
    kinds: list[str] = [term.kind for term in manifest.terms]
    if "annotated" not in kinds:
        raise ValueError(f"{config.kind} needs annotated terms: its latent has one dimension for each term")
    places = [_term_place(term) for term in manifest.terms]
    if places != sorted(places):
        raise ValueError(
            f"terms must stand in the order {', '.join(_TERM_ORDER)}, extensions of an older version first"
        )
    for kind, number in config.extensions.items():
        if kinds.count(kind) != number:
            raise ValueError(f"architecture.{kind}_extensions is {number}, but {kinds.count(kind)} terms are {kind}")
    if any(index >= len(manifest.genes.panel) for term in manifest.terms for index in term.genes):
        raise ValueError("a term names a gene index beyond the panel")


def _term_place(term: Term) -> tuple[bool, tuple[int, ...], int]:
    extension = term.kind != "annotated"
    return extension, _numbers(term.added_in if extension else None), _TERM_ORDER.index(term.kind)


def _check_combinations(manifest: Manifest) -> None:
    if not manifest.combinations:
        return
    if len(manifest.conditions) < 2:
        raise ValueError("combinations are for two or more conditions; with one they are its categories")
    known = [set(condition.categories) for condition in manifest.conditions]
    for combination in manifest.combinations:
        values = combination.values
        if len(values) != len(known) or any(value not in names for value, names in zip(values, known, strict=True)):
            raise ValueError(f"combination {values} does not name one known category per condition")
    _unique("combinations", (json.dumps(c.values) for c in manifest.combinations))
    _oldest_first("combinations", (c.added_in for c in manifest.combinations))


def _check_labels(manifest: Manifest) -> None:
    levels = {level.key: set(level.categories) for level in manifest.labels}
    wanted = [p.level for p in manifest.prototypes.levels] + [c.level for c in manifest.trust.calibrations]
    wanted += [c.level for c in manifest.trust.classifiers]
    if lost := [key for key in wanted if key not in levels]:
        raise ValueError(f"label levels named but not described: {lost[:5]}")
    for level in manifest.labels:
        coarser = {name for key, names in levels.items() if key != level.key for name in names}
        if lost := sorted(set(level.parents.values()) - coarser):
            raise ValueError(f"labels of {level.key!r}: parents are labels of no other level: {lost[:5]}")


def _check_delta(manifest: Manifest) -> None:
    if manifest.delta is None:
        return
    if manifest.lineage is None or manifest.lineage.parent is None:
        raise ValueError("delta needs lineage.parent: the release it adds to")
    listed = {file.path for file in manifest.files}
    if listed and (lost := sorted(set(manifest.delta.inherited) - listed)):
        raise ValueError(f"delta.inherited names files that the release does not have: {lost[:5]}")


def _check_tensors(manifest: Manifest) -> None:
    sizes = manifest.axes()
    parts = {part for spec in manifest.tensors for axis in spec.shape for part in axis.split("+")}
    if lost := sorted(part for part in parts if not _whole(part) and part not in sizes):
        raise ValueError(f"tensor shapes use axes this manifest does not have: {lost[:5]}")
    described = {spec.name for spec in manifest.tensors}
    if described and (lost := [name for name in _named_tensors(manifest) if name not in described]):
        raise ValueError(f"tensors named but not described: {lost[:5]}")


def _named_tensors(manifest: Manifest) -> list[str]:
    named = [p.means for p in manifest.prototypes.levels]
    named += [p.covariances for p in manifest.prototypes.levels if p.covariances]
    named += [name for c in manifest.trust.classifiers for name in (c.weight, c.bias, c.centre)]
    named += list(manifest.test_vectors.tensors.values()) if manifest.test_vectors else []
    return named + (["gene_means"] if manifest.genes.missing == "mean" else [])


_INPUT = {"mse": ("log1p",), "normal": ("counts", "log1p")}
"""What a likelihood reads; the count distributions read counts."""
_TERM_ORDER = ("annotated", "constrained", "unconstrained")
_CHECKS = (
    _check_unique,
    _check_input,
    _check_kind,
    _check_proteins,
    _check_terms,
    _check_combinations,
    _check_labels,
    _check_delta,
    _check_tensors,
)

"""Manifest format 1: everything a release states about itself.

The release digest is the sha256 of :meth:`Manifest.to_bytes`. Readers for other format versions are in ``reading``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from hub_client import errors
from hub_client.manifest._frozen import Frozen, as_json, problems
from hub_client.manifest.axes import (
    TERM_ORDER,
    Combination,
    Condition,
    Covariates,
    Embedding,
    LabelLevel,
    OneHot,
    PrototypeLevel,
    Prototypes,
    TensorSpec,
    Term,
)
from hub_client.manifest.calibration import Metric, Trust
from hub_client.manifest.configs import ArchitectureConfig, Part, having
from hub_client.manifest.header import Delta, FileSpec, Signature
from hub_client.manifest.inheritance import shortened
from hub_client.manifest.inputs import GeneAnnotation, Genes, InputSpec, Proteins
from hub_client.manifest.migrations import migrated
from hub_client.manifest.plan import Plan
from hub_client.manifest.provenance import (
    Author,
    Citation,
    DatasetRecord,
    ImportedFrom,
    Lineage,
    OntologyTerm,
    Training,
)
from hub_client.manifest.scalars import (
    SemVer,
    Slug,
    Spdx,
    check_oldest_first,
    check_unique,
    numbers,
)

SCHEMA_VERSION = "1.1"


class TestVectors(Frozen):
    """A small input with its expected outputs; ``tensors`` maps each part to a tensor's name."""

    cells: PositiveInt
    tensors: dict[str, str]
    rtol: Annotated[float, Field(ge=0)] = 1e-4
    atol: Annotated[float, Field(ge=0)] = 1e-5


@dataclass(frozen=True)
class Origin:
    """The file a manifest was read from: its bytes and sha256, the fields as read, and what this format does not know.

    All are equal, so that manifests are compared by what they state and not by how it was formatted.
    """

    digest: str = field(default="", compare=False)
    document: bytes = field(default=b"", compare=False)
    inherited: bytes = field(default=b"", compare=False)
    """The manifest it inherits from, as it was read; empty for one that states everything itself."""
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
        """Return the file's bytes: those it was read from, or the canonical JSON if anything changed or it is new.

        So what was released in an older format stays the same release; what is made from it is of this format.

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
        return self._origin.document if self.as_read else self.canonical()

    def canonical(self) -> bytes:
        """Return the canonical JSON, sorted keys, UTF-8, newline at the end, without what a delta inherits."""
        fields = self.model_dump(mode="json")
        return as_json(shortened(fields, self.delta.inherits) if self.delta else fields)

    @property
    def digest(self) -> str:
        """The release digest, 64 hex digits: sha256 of the file this was read from, or of the canonical JSON."""
        if self._origin.fields == self.__dict__:
            return self._origin.digest
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def as_read(self) -> bool:
        """Whether this states what the file stated that it was read from."""
        return bool(self._origin.digest) and self._origin.fields == self.__dict__

    @property
    def unknown(self) -> dict[str, JsonValue]:
        """What a newer minor format states that this one does not know: dotted place to value."""
        return dict(self._origin.unknown)

    @property
    def inherited_document(self) -> bytes:
        """The manifest that this one inherits from, as it was read; empty for one that states everything itself."""
        return self._origin.inherited

    def read_from(self, data: bytes, *, inherited: bytes = b"", unknown: dict[str, JsonValue] | None = None) -> Self:
        """Return this manifest knowing the bytes it was read from: they, not our rewriting, make the digest."""
        copy = self.model_copy()
        copy._origin = Origin(hashlib.sha256(data).hexdigest(), data, inherited, dict(copy.__dict__), unknown or {})
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
    def own_levels(self) -> tuple[LabelLevel, ...]:
        """The label levels that have labels of their own; the others are derived from these."""
        return tuple(level for level in self.labels if level.derived_from is None)

    @property
    def known_combinations(self) -> tuple[tuple[str, ...], ...]:
        """The combinations of conditions that the model knows: those listed, or all."""
        listed = tuple(combination.values for combination in self.combinations)
        return listed or tuple(product(*(c.categories for c in self.conditions)))

    @property
    def as_started(self) -> bool:
        """Whether it came of surgery and nothing was trained since: the rows of new conditions are as they started."""
        return self.lineage is not None and self.lineage.relation == "surgery" and not self.training.epochs

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

    def named_axes(self) -> dict[str, tuple[object, ...]]:
        """Return every list of names that surgery appends to, by what it lists."""
        axes: dict[str, tuple[object, ...]] = {"condition keys": tuple((c.key, c.encoding) for c in self.conditions)}
        axes |= {f"condition {c.key!r}": c.categories for c in self.conditions}
        axes |= {f"covariate {c.key!r}": c.categories for c in self.covariates.categorical}
        axes |= {"combinations": tuple(c.values for c in self.combinations)}
        axes |= {f"labels of {level.key!r}": level.categories for level in self.labels}
        return axes | {"terms": tuple((term.id, term.kind, term.genes) for term in self.terms)}

    def fixed(self) -> dict[str, object]:
        """Return what no surgery changes: beside names that are only appended, all that weights depend on."""
        return {
            "architecture": self.architecture.model_dump(exclude=set(self.architecture.grown)),
            "input": self.input,
            "genes": (self.genes.id_type, self.genes.panel),
            "proteins": self.proteins and self.proteins.panel,
            "covariates": ([c.key for c in self.covariates.categorical], self.covariates.continuous),
        }

    def places(self, spec: TensorSpec, *, before: Manifest) -> tuple[list[int], ...]:
        """Return where along each axis of a tensor the entries are that it had in ``before``, which grew to this."""
        return spec.places(self.axes(), before=before.axes())

    def grown(
        self,
        values: Mapping[str, Iterable[str]],
        *,
        labels: Mapping[str, Iterable[str]],
        measured: Mapping[str, tuple[str, ...]],
        lineage: Lineage,
        datasets: tuple[DatasetRecord, ...] = (),
    ) -> Self:
        """Return the next minor version, with room for a query's categories, combinations, labels and proteins.

        What is of this release alone is left out: date, training, metrics, files, delta and signature.

        Parameters
        ----------
        values
            Key of a condition or categorical covariate to the category of each cell, ``(cells,)``.
        labels
            Label level to the label of each cell, ``(cells,)``; ``""`` is none.
        measured
            Batch to the proteins that the query measured in it, as in :class:`Proteins`.
        lineage
            Where the new version comes from.
        datasets
            What the new version is trained on, beside what its parent was.

        Raises
        ------
        VocabularyError
            If a category is new to a condition that takes none.
        """
        major, minor, _ = self.version.split(".")
        version = f"{major}.{int(minor) + 1}.0"
        covariates = tuple(c.grown(values[c.key], version=version) for c in self.covariates.categorical)
        return self.changed(
            version=version,
            created=None,
            conditions=tuple(c.grown(values[c.key], version=version) for c in self.conditions),
            combinations=_grown_combinations(self, values, version),
            covariates=self.covariates.model_copy(update={"categorical": covariates}),
            proteins=_grown_proteins(self, measured),
            labels=tuple(level.grown(labels.get(level.key, ()), version=version) for level in self.labels),
            prototypes=self.prototypes.model_copy(update={"unlabelled": 0}),
            lineage=lineage,
            training=Training(datasets=datasets),
            metrics=(),
            files=(),
            delta=None,
            signature=None,
        )

    def renamed(self, *, name: str, version: str, created: datetime) -> Self:
        """Return the manifest under the name, version and date of its release; itself where it has them already.

        What it reports as added by its own version, the new version adds: the categories, combinations, labels and gene
        programs that surgery brought move along with it, or they would count as the reference's.

        Parameters
        ----------
        name
            The repository's last part.
        version
            The version it is released as.
        created
            When, if the manifest does not state it.
        """
        fields: dict[str, Any] = {"name": name, "created": self.created or created}
        if version != self.version:
            fields |= {"version": version, **_moved(self, version)}
        return self if all(getattr(self, key) == value for key, value in fields.items()) else self.changed(**fields)

    @property
    def vector_tensors(self) -> frozenset[str]:
        """Names of the tensors that are test vectors."""
        return frozenset(self.test_vectors.tensors.values() if self.test_vectors else ())

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the sizes a tensor must have, evaluated from its axis names."""
        return spec.sizes(self.axes())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the sizes of every tensor in ``tensors``, by name."""
        sizes = self.axes()
        return {spec.name: spec.sizes(sizes) for spec in self.tensors}

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, raw: Any) -> Any:
        return migrated(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in _CHECKS:
            check(self)
        return self


def _grown_combinations(
    manifest: Manifest, values: Mapping[str, Iterable[str]], version: str
) -> tuple[Combination, ...]:
    """Return the known combinations, which are all where none are listed, and behind them the query's new ones."""
    if len(manifest.conditions) < 2:
        return ()
    known = manifest.known_combinations
    rows = {tuple(map(str, row)) for row in zip(*(values[c.key] for c in manifest.conditions), strict=True)}
    new = (Combination(values=row, added_in=version) for row in sorted(rows - set(known)))
    return (*(manifest.combinations or (Combination(values=row) for row in known)), *new)


def _grown_proteins(manifest: Manifest, measured: Mapping[str, tuple[str, ...]]) -> Proteins | None:
    """Return the protein panel with what the query's new batches measured of it."""
    if manifest.proteins is None or not manifest.conditions:
        return manifest.proteins
    new = {batch: names for batch, names in measured.items() if batch not in manifest.conditions[0].categories}
    return manifest.proteins.model_copy(update={"measured": manifest.proteins.measured | new})


def _moved(manifest: Manifest, version: str) -> dict[str, Any]:
    """Return every field that states which version added something, the manifest's own version replaced."""

    def moved(added: Any) -> Any:
        if isinstance(added, dict):
            return {key: moved(value) for key, value in added.items()}
        return version if added == manifest.version else added

    def each(records: Iterable[Frozen]) -> tuple[Frozen, ...]:
        return tuple(record.model_copy(update={"added_in": moved(record.added_in)}) for record in records)  # type: ignore[attr-defined]

    covariates = manifest.covariates.model_copy(update={"categorical": each(manifest.covariates.categorical)})
    fields = {name: each(getattr(manifest, name)) for name in ("conditions", "labels", "combinations", "terms")}
    return {**fields, "covariates": covariates}


def _term_axes(manifest: Manifest) -> dict[str, int]:
    """Return the axes of gene programs, each of which is a dimension of the latent."""
    if "terms" not in manifest.architecture.parts:
        return {}
    kinds: list[str] = [term.kind for term in manifest.terms]
    counts = {f"terms.{kind}": kinds.count(kind) for kind in TERM_ORDER}
    counts |= {f"terms.{position}": len(block) for position, block in enumerate(manifest.term_blocks)}
    return counts | {"terms": len(kinds), "latent": len(kinds)}


# --- whether the parts agree: each check raises ValueError for what it finds ------------------------------------------


def _check_unique(manifest: Manifest) -> None:
    check_unique(
        "condition and covariate keys", [c.key for c in manifest.categorical] + list(manifest.covariates.continuous)
    )
    check_unique("label levels", (level.key for level in manifest.labels))
    check_unique("term ids", (term.id for term in manifest.terms))
    check_unique("term names", (term.name for term in manifest.terms))
    check_unique("levels of prototypes", (p.level for p in manifest.prototypes.levels))
    check_unique("levels of calibrations", (c.level for c in manifest.trust.calibrations))
    check_unique("levels of classifiers", (c.level for c in manifest.trust.classifiers))
    check_unique("tensor names", (spec.name for spec in manifest.tensors))
    check_unique("file paths (in lower case)", (file.path.lower() for file in manifest.files))


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
        raise ValueError(f"terms must stand in the order {', '.join(TERM_ORDER)}, extensions of an older version first")
    for kind, number in config.extensions.items():
        if kinds.count(kind) != number:
            raise ValueError(f"architecture.{kind}_extensions is {number}, but {kinds.count(kind)} terms are {kind}")
    panel = {*manifest.genes.names}
    for term in manifest.terms:
        if lost := sorted({*term.genes} - panel):
            raise ValueError(f"term {term.id!r} names genes that are not of the panel: {lost[:5]}")


def _term_place(term: Term) -> tuple[bool, tuple[int, ...], int]:
    extension = term.kind != "annotated"
    return extension, numbers(term.added_in if extension else None), TERM_ORDER.index(term.kind)


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
    check_unique("combinations", (json.dumps(c.values) for c in manifest.combinations))
    check_oldest_first("combinations", (c.added_in for c in manifest.combinations))


def _check_labels(manifest: Manifest) -> None:
    levels = {level.key: set(level.categories) for level in manifest.labels}
    wanted = [p.level for p in manifest.prototypes.levels] + [c.level for c in manifest.trust.calibrations]
    wanted += [c.level for c in manifest.trust.classifiers]
    wanted += manifest.trust.novelty.labels if manifest.trust.novelty else []
    if lost := [key for key in wanted if key not in levels]:
        raise ValueError(f"label levels named but not described: {lost[:5]}")
    for level in manifest.labels:
        coarser = {name for key, names in levels.items() if key != level.key for name in names}
        if lost := sorted(set(level.parents.values()) - coarser):
            raise ValueError(f"labels of {level.key!r}: parents are labels of no other level: {lost[:5]}")
        if level.derived_from is not None:
            _check_derived(level, {one.key: one for one in manifest.labels}, own=wanted)


def _check_derived(level: LabelLevel, levels: Mapping[str, LabelLevel], *, own: list[str]) -> None:
    finer = levels.get(level.derived_from or "")
    if finer is None or finer.derived_from is not None:
        raise ValueError(f"labels of {level.key!r}: derived_from is {level.derived_from!r}, no level with own labels")
    if strangers := sorted(set(finer.parents.values()) - set(level.categories)):
        raise ValueError(f"labels of {level.key!r}: {finer.key!r} has parents that are none of them: {strangers[:5]}")
    if level.key in own:
        raise ValueError(f"labels of {level.key!r} are sums over {finer.key!r}: nothing of their own is fitted")


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
    named = {name for spec in manifest.tensors for name in spec.axes()}
    if lost := sorted(named - sizes.keys()):
        raise ValueError(f"tensor shapes use axes this manifest does not have: {lost[:5]}")
    described = {spec.name for spec in manifest.tensors}
    if described and (lost := [name for name in _named_tensors(manifest) if name not in described]):
        raise ValueError(f"tensors named but not described: {lost[:5]}")


def _named_tensors(manifest: Manifest) -> list[str]:
    named = [p.means for p in manifest.prototypes.levels]
    named += [p.covariances for p in manifest.prototypes.levels if p.covariances]
    named += [name for c in manifest.trust.classifiers for name in (c.weight, c.bias, c.centre)]
    kept = manifest.trust.novelty
    named += [*kept.tensors.values(), *kept.labels.values()] if kept else []
    named += list(manifest.test_vectors.tensors.values()) if manifest.test_vectors else []
    return named + (["gene_means"] if manifest.genes.missing == "mean" else [])


_INPUT = {"mse": ("log1p",), "normal": ("counts", "log1p")}
"""What a likelihood reads; the count distributions read counts."""
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
"""All of them, in the order in which problems are reported."""

__all__ = [
    "SCHEMA_VERSION",
    "Combination",
    "Condition",
    "Covariates",
    "Delta",
    "Embedding",
    "FileSpec",
    "LabelLevel",
    "Manifest",
    "OneHot",
    "PrototypeLevel",
    "Prototypes",
    "Signature",
    "TensorSpec",
    "Term",
    "TestVectors",
]

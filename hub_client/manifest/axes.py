"""The named axes of a model: conditions, labels, gene programs, prototypes, and the tensors that lie along them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hub_client import errors
from hub_client.manifest._frozen import Frozen, as_before
from hub_client.manifest.corrections import AppliedCorrection
from hub_client.manifest.scalars import Axis, Curie, Key, SemVer, Spdx, Text, check_oldest_first, check_unique


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
        check_unique(f"categories of condition {self.key!r}", self.categories)
        _appended_last(f"condition {self.key!r}", self.categories, self.added_in)
        return self

    def grown(self, values: Iterable[str], *, version: str) -> Self:
        """Return the condition with the values that it does not know, which this version adds.

        Raises
        ------
        VocabularyError
            If there are such values and the condition takes none.
        """
        new = _new(values, self.categories)
        if new and self.unknown == "error":
            raise errors.VocabularyError(
                f"condition {self.key!r} takes no new categories, and the query has {errors.names(new)}; "
                f"known are {errors.names(self.categories)}. Map the query's values onto those.",
                field=self.key,
                unknown=new,
                known=self.categories,
            )
        return type(self)(**dict(self) | _appended(self, new, version))


class Combination(Frozen):
    """One category per condition key, in the order of ``conditions``: what shares a column of theta."""

    values: Annotated[tuple[str, ...], Field(min_length=2)]
    added_in: SemVer | None = None


class Covariates(Frozen):
    """Covariates as scvi-tools knows them."""

    categorical: tuple[Condition, ...] = ()
    continuous: tuple[Text, ...] = ()


class Markers(Frozen):
    """Genes by which a label can be checked, under the names that the panel or the recipe's data have them."""

    present: tuple[Text, ...] = ()
    """A cell of this label has a count of at least one of these, where its depth allows."""
    absent: tuple[Text, ...] = ()
    """A cell of this label has no count of any of these."""


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
    markers: dict[str, Markers] = {}
    """What a category's cells express and what they do not: the mapper checks predicted labels by it."""
    derived_from: Key | None = None
    """The finer level whose labels, through their ``parents``, are this level's: a cell's probability of a label is the
    sum of its children's, and nothing is fitted. None is a level of its own."""
    corrections: tuple[AppliedCorrection, ...] = ()
    """The rules by which labels of the reference's cells were corrected before training."""

    @model_serializer(mode="wrap")
    def _as_before(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields; those that came later, at their default, are left out: releases keep their bytes."""
        return as_before(nested(self), LABELS_LATER)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unique(f"labels of {self.key!r}", self.categories)
        if self.unlabelled in self.categories:
            raise ValueError(f"labels of {self.key!r}: the unlabelled value {self.unlabelled!r} is also a category")
        if set(self.ontology) != set(self.categories):
            raise ValueError(f"labels of {self.key!r}: ontology needs an id or null for each category, and no other")
        if strangers := set(self.parents) - set(self.categories):
            raise ValueError(f"labels of {self.key!r}: parents names unknown categories {sorted(strangers)[:5]}")
        if strangers := set(self.markers) - set(self.categories):
            raise ValueError(f"labels of {self.key!r}: markers names unknown categories {sorted(strangers)[:5]}")
        _appended_last(f"labels of {self.key!r}", self.categories, self.added_in)
        return self

    def grown(self, values: Iterable[str], *, version: str) -> Self:
        """Return the level with the labels that it does not know, which this version adds; they have no ontology id."""
        new = [name for name in _new(values, self.categories) if name != self.unlabelled]
        ontology = {"ontology": self.ontology | dict.fromkeys(new)}
        return type(self)(**dict(self) | ontology | _appended(self, new, version))


LABELS_LATER: Mapping[str, Any] = {"markers": {}, "derived_from": None, "corrections": []}
"""Fields that label levels of the first releases did not have, and what they would have stated."""


def _new(values: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Return the values that are not known, sorted, so that the order of cells does not matter."""
    return sorted({str(value) for value in values} - {*known, ""})


def _appended(record: Condition | LabelLevel, new: list[str], version: str) -> dict[str, Any]:
    return {"categories": (*record.categories, *new), "added_in": record.added_in | dict.fromkeys(new, version)}


def _appended_last(what: str, categories: tuple[str, ...], added_in: dict[str, str]) -> None:
    if strangers := set(added_in) - set(categories):
        raise ValueError(f"{what}: added_in names unknown categories {sorted(strangers)[:5]}")
    check_oldest_first(what, [added_in.get(name) for name in categories])


TERM_ORDER = ("annotated", "constrained", "unconstrained")


class Term(Frozen):
    """One gene program of expiMap."""

    id: Text
    name: Text
    source: str | None = None
    release: str | None = None
    license: Spdx | None = None
    genes: tuple[Text, ...] = ()
    """Its genes, each by the name that the panel has it under."""
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

    def axes(self) -> set[str]:
        """Return the names of axes that the shape uses."""
        return {part for axis in self.shape for part in axis.split("+") if not _whole(part)}

    def sizes(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape in numbers, by the length of each named axis."""
        return tuple(sum(_length(part, axes) for part in axis.split("+")) for axis in self.shape)

    def places(self, axes: Mapping[str, int], *, before: Mapping[str, int]) -> tuple[list[int], ...]:
        """Return where along each axis the entries are that were there before; each part of a sum grew at its end."""
        return tuple(_places(axis.split("+"), axes, before) for axis in self.shape)


def _whole(part: str) -> bool:
    return part.isascii() and part.isdecimal()


def _length(part: str, axes: Mapping[str, int]) -> int:
    return int(part) if _whole(part) else axes[part]


def _places(parts: Iterable[str], axes: Mapping[str, int], before: Mapping[str, int]) -> list[int]:
    found: list[int] = []
    start = 0
    for part in parts:
        width = _length(part, axes)
        found += range(start, start + (width if _whole(part) else before.get(part, 0)))
        start += width
    return found

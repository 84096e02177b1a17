"""Ordered names to codes. Growing appends; a code, once given, never changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hub_client import errors
from hub_client.manifest.v1 import Manifest

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """Ordered names; the first ``reference`` of them belong to the model surgery started from.

    Surgery freezes the rows of the reference names; the rows of the names after them are the query's.
    """

    name: str
    names: tuple[str, ...]
    reference: int

    @classmethod
    def of(cls, name: str, names: Iterable[str], *, reference: int | None = None) -> Self:
        """Return an axis over ``names``, all of them the reference's unless ``reference`` states otherwise."""
        ordered = tuple(names)
        return cls(name, ordered, len(ordered) if reference is None else reference)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _code(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.names)}

    def __contains__(self, name: object) -> bool:
        return name in self._code

    @property
    def new(self) -> tuple[str, ...]:
        """The names surgery added."""
        return self.names[self.reference :]

    def codes(self, values: ArrayLike, *, unknown: int | None = None) -> Codes:
        """Return the code of each value, ``(cells,)``.

        Parameters
        ----------
        values
            Names, ``(cells,)``.
        unknown
            The code of names that are not on this axis; None refuses them.

        Raises
        ------
        VocabularyError
            If a value is not on this axis and ``unknown`` is None.
        """
        distinct, inverse = np.unique(np.asarray(values, dtype=str), return_inverse=True)
        strangers = [str(value) for value in distinct if value not in self._code]
        if strangers and unknown is None:
            raise errors.VocabularyError(
                f"{self.name}: {errors.names(strangers)} not known to this model, which knows "
                f"{errors.names(self.names)}. Run surgery() on the query first, or correct the column.",
                field=self.name,
                unknown=strangers,
                known=self.names,
            )
        table = np.array([self._code.get(str(value), unknown) for value in distinct], dtype=np.int64)
        return table[inverse] if len(distinct) else np.empty(0, dtype=np.int64)

    def grown(self, names: Iterable[str]) -> Axis:
        """Return this axis with the unknown ones of ``names`` appended; all old names become the reference's."""
        new = [name for name in dict.fromkeys(names) if name not in self._code]
        return Axis(self.name, (*self.names, *new), len(self.names))


@dataclass(frozen=True)
class Vocabulary:
    """The named axes of a model, read from its manifest."""

    genes: tuple[str, ...]
    conditions: dict[str, Axis]
    combinations: tuple[tuple[str, ...], ...]
    reference_combinations: int
    labels: dict[str, Axis] = field(default_factory=dict)
    covariates: dict[str, Axis] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the vocabulary of a manifest; what this release's surgery added counts as the query's."""
        current = manifest.version if manifest.lineage and manifest.lineage.relation == "surgery" else None
        conditions = {c.key: _axis(c.key, c.categories, c.added_in, current) for c in manifest.conditions}
        rows, reference = _combinations(manifest, conditions, current)
        labels = {lv.key: _axis(lv.key, lv.categories, lv.added_in, current) for lv in manifest.labels}
        covariates = {c.key: _axis(c.key, c.categories, c.added_in, current) for c in manifest.covariates.categorical}
        return cls(manifest.genes.names, conditions, rows, reference, labels, covariates)

    def condition_codes(self, conditions: dict[str, NDArray[Any]], *, cells: int = 0) -> Codes:
        """Return condition codes ``(cells, conditions)`` from names ``{key: (cells,)}``.

        ``cells`` is how many there are, for a model without conditions.
        """
        return _stacked(self.conditions, conditions, cells)

    def covariate_codes(self, conditions: dict[str, NDArray[Any]], *, cells: int = 0) -> Codes:
        """Return codes of categorical covariates ``(cells, covariates)`` from names ``{key: (cells,)}``."""
        return _stacked(self.covariates, conditions, cells)

    def combination_codes(self, codes: Codes) -> Codes:
        """Return the combination of each row of condition codes, ``(cells,)``."""
        if codes.shape[1] < 2:
            return codes[:, 0] if codes.shape[1] else np.zeros(len(codes), dtype=np.int64)
        axes = list(self.conditions.values())
        table = {
            tuple(axis.names.index(v) for axis, v in zip(axes, row, strict=True)): i
            for i, row in enumerate(self.combinations)
        }
        distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
        keys = [tuple(map(int, row)) for row in distinct]
        if strangers := [key for key in keys if key not in table]:
            shown = [" + ".join(axis.names[c] for axis, c in zip(axes, key, strict=True)) for key in strangers]
            raise errors.VocabularyError(
                f"the combination of conditions {errors.names(shown)} is not known to this model. "
                "Run surgery() on the query first.",
                field=" + ".join(self.conditions),
                unknown=shown,
                known=[" + ".join(row) for row in self.combinations],
            )
        return np.array([table[key] for key in keys], dtype=np.int64)[inverse.reshape(-1)]


def _stacked(axes: dict[str, Axis], names: dict[str, NDArray[Any]], cells: int) -> Codes:
    columns = [axis.codes(names[key]) for key, axis in axes.items()]
    return np.stack(columns, axis=1) if columns else np.empty((cells, 0), dtype=np.int64)


def _axis(name: str, names: tuple[str, ...], added_in: dict[str, str], current: str | None) -> Axis:
    return Axis.of(name, names, reference=sum(added_in.get(value) != current or current is None for value in names))


def _combinations(
    manifest: Manifest, conditions: dict[str, Axis], current: str | None
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Return the known combinations of conditions, and how many of them are the reference's."""
    if len(conditions) == 1:
        (axis,) = conditions.values()
        return tuple((name,) for name in axis.names), axis.reference
    rows = manifest.known_combinations
    return rows, len(rows) - sum(current is not None and c.added_in == current for c in manifest.combinations)

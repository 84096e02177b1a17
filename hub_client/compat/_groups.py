"""Groups of cells, and expiMap's posterior of them in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.compat import _manifests
from hub_client.programs.enrichment import BayesFactors, bayes_factors, sampled_bayes_factors

Values: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]
REST = "rest"
"""What is compared with all other cells."""


class Posterior:
    """The posterior of cells in some terms, turned the terms' ways."""

    def __init__(self, mean: Values, variance: Values, signs: Values, terms: Any) -> None:
        self.mean, self.variance, self.signs = mean[:, terms], variance[:, terms], signs[terms]

    def compared(self, one: Rows, other: Rows, exact: bool, draw: np.random.Generator) -> BayesFactors:
        """Return Bayes factors from pairs of cells, by their rows."""
        if exact:
            means = self.mean * self.signs
            return bayes_factors(means[one], self.variance[one], means[other], self.variance[other])
        return sampled_bayes_factors(self._drawn(one, draw), self._drawn(other, draw))

    def _drawn(self, rows: Rows, draw: np.random.Generator) -> Values:
        noise = draw.standard_normal((len(rows), len(self.signs)), dtype=np.float32)
        sample: Values = (self.mean[rows] + np.sqrt(self.variance[rows]) * noise) * self.signs
        return sample


def grouped(adata: AnnData, groups: str | Mapping[str, Sequence[str]]) -> dict[Any, Rows]:
    """Return the rows of each group's cells, groups in order of appearance; cells without a group are left out."""
    if not isinstance(groups, str):
        return {group: _rows_of(adata, names) for group, names in groups.items()}
    _manifests.check_column(adata.obs, groups)
    column = adata.obs[groups]
    return {group: np.flatnonzero((column == group).to_numpy()) for group in column.dropna().unique()}


def _rows_of(adata: AnnData, names: Sequence[str]) -> Rows:
    rows = adata.obs_names.get_indexer(list(names))
    if (rows < 0).any():
        strangers = [name for name, row in zip(names, rows, strict=True) if row < 0]
        raise errors.VocabularyError(
            f"adata has no cells {errors.names(strangers)}.", field="groups", unknown=strangers
        )
    found: Rows = rows.astype(np.int64)
    return found


def comparisons(rows: dict[Any, Rows], comparison: str | Sequence[str]) -> Iterator[tuple[Any, Rows, Rows]]:
    """Yield each group that is no part of the comparison, with its rows and those it is compared with."""
    against = ([] if comparison == REST else [comparison]) if isinstance(comparison, str) else list(comparison)
    if strangers := [group for group in against if group not in rows]:
        raise errors.VocabularyError(
            f"comparison names {errors.names(strangers)}; it is 'rest' or some of {errors.names(rows)}.",
            field="comparison",
            unknown=strangers,
            known=list(rows),
        )
    for group in (group for group in rows if group not in against):
        others = [rows[other] for other in (against or [other for other in rows if other != group])]
        if not others:
            raise errors.VocabularyError(
                f"there is only the group {group!r}, and nothing to compare it with.", field="groups", known=list(rows)
            )
        yield group, rows[group], np.concatenate(others)

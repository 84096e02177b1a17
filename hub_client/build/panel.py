"""The gene panel of a new reference: which of the shared genes a recipe's rules choose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from hub_client import errors
from hub_client.data.genes import is_ensembl
from hub_client.data.hgnc import How, hgnc
from hub_client.data.threads import same_threads
from hub_client.manifest.inputs import Gene
from hub_client.manifest.recipe import Panel

if TYPE_CHECKING:
    from anndata import AnnData

Scores = NDArray[np.float64]


def select_panel(counts: AnnData, rules: Panel, *, batches: NDArray[Any]) -> tuple[str, ...]:
    """Return the names of the chosen genes, sorted.

    Genes are ranked by how much they vary within each batch; the panel takes those of the best median rank after the
    genes the rules include.

    Parameters
    ----------
    counts
        Counts of the reference over the genes that all of its data sets measure, ``(cells, genes)``.
    rules
        The recipe's ``panel``.
    batches
        The batch of each cell, ``(cells,)``.

    Raises
    ------
    AlignmentError
        If a gene to include is not measured by every data set, or fewer genes are shared than the panel needs.
    """
    names = sorted(map(str, counts.var_names))
    if missing := sorted(set(rules.include) - set(names)):
        raise errors.AlignmentError(
            f"panel.include names genes that not every data set measures: {errors.names(missing)}.", missing=missing
        )
    measured = {gene for name in rules.include_measured for gene in MEASURED[name]()}
    included = {*rules.include, *measured.intersection(names)}
    size = len(names) if rules.size is None else rules.size
    if size > len(names) or len(included) > size:
        raise errors.AlignmentError(
            f"the panel is to have {size:,} genes, but the data sets share {len(names):,} and the rules include "
            f"{len(included):,} of them. Change panel.size, or what panel.include and panel.include_measured name."
        )
    ranked = [name for name in _ranked(counts[:, names], rules, batches) if name not in included]
    chosen = sorted({*included, *allowed(ranked, rules)[: size - len(included)]})
    if rules.size is not None and len(chosen) < size:
        raise errors.AlignmentError(
            f"the panel is to have {size:,} genes, but panel.exclude leaves {len(chosen):,}. Exclude fewer genes."
        )
    return tuple(chosen)


def allowed(names: Iterable[str], rules: Panel) -> list[str]:
    """Return the genes that no pattern of the rules excludes, in the same order."""
    patterns = [re.compile(pattern) for pattern in rules.exclude]
    return [name for name in names if not any(pattern.search(name) for pattern in patterns)]


def _ranked(counts: AnnData, rules: Panel, batches: NDArray[Any]) -> list[str]:
    """Return the genes' names, the most variable first; ties in the order of the names."""
    score = METHODS[rules.method]
    with same_threads():
        ranks = [rankdata(-score(counts[batches == batch].copy())) for batch in np.unique(batches)]
    order = np.argsort(np.median(ranks, axis=0), kind="stable")
    return [str(name) for name in counts.var_names[order]]


def _pearson_residuals(counts: AnnData) -> Scores:
    """Return the variance of each gene's analytic Pearson residuals (Lause 2021, doi 10.1186/s13059-021-02451-7)."""
    import scanpy as sc

    scores = sc.experimental.pp.highly_variable_genes(counts, n_top_genes=counts.n_vars, inplace=False)
    return _finite(scores["residual_variances"])


def _dispersions(counts: AnnData, flavor: str) -> Scores:
    """Return each gene's normalised dispersion of log1p counts per 10,000."""
    import scanpy as sc

    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return _finite(sc.pp.highly_variable_genes(counts, flavor=flavor, inplace=False)["dispersions_norm"])


def _finite(values: Any) -> Scores:
    """Return scores in which a gene without one (it never varies) comes last."""
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=-np.inf)


METHODS: dict[str, Callable[[AnnData], Scores]] = {
    "pearson_residuals": _pearson_residuals,
    "seurat": lambda counts: _dispersions(counts, "seurat"),
    "cell_ranger": lambda counts: _dispersions(counts, "cell_ranger"),
}


def _pbmc68k_reduced() -> list[str]:
    import scanpy as sc

    return list(sc.datasets.pbmc68k_reduced().raw.var_names)


MEASURED: dict[str, Callable[[], list[str]]] = {"pbmc68k_reduced": _pbmc68k_reduced}
"""The symbols of the genes in scanpy's bundled data sets that a panel can include."""


def paired(names: Iterable[str], *, id_type: Literal["ensembl", "symbol"]) -> tuple[Gene, ...]:
    """Return human genes under these names, each with the id or symbol that HGNC's table pairs with it.

    Approved names and previous symbols of exactly one gene are looked up; aliases are not. Where two names mean one
    gene, the one with the better evidence gets the partner.
    """
    table = hgnc()
    partners = {
        row: name for name, row in table.names[How.APPROVED].items() if is_ensembl(name) != (id_type == "ensembl")
    }
    rows = {name: found for name in names if (found := table.find(name)) and found[1] <= How.PREVIOUS}
    owners: dict[int, str] = {}
    for name, (row, _) in sorted(rows.items(), key=lambda item: item[1][1]):
        owners.setdefault(row, name)
    other = {name: partners.get(row) for row, name in owners.items()}
    own, theirs = ("id", "symbol") if id_type == "ensembl" else ("symbol", "id")
    return tuple(Gene.model_validate({own: name, theirs: other.get(name)}) for name in names)

"""align(): a query's cells in a model's gene order, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors
from hub_client.data import coverage as coverages
from hub_client.data import genes, missing_genes, obs, open_query, sources
from hub_client.data import matrix as matrices
from hub_client.data.cells import Cells, GeneReport, cell_names
from hub_client.data.counts import FLOAT32_LARGEST, Tally
from hub_client.data.coverage import Coverage
from hub_client.data.genes import Match, Panel
from hub_client.data.open_query import Needed, Query
from hub_client.data.proteins import ProteinReport, aligned_proteins, protein_keys
from hub_client.data.sources import Source
from hub_client.manifest.v1 import Manifest


class Network(Protocol):
    """What alignment asks of a network."""

    def gene_usage(self) -> NDArray[np.float32]:
        """Return how much the encoder uses each gene, ``(genes,)``."""
        ...


class ModelLike(Protocol):
    """What alignment asks of a model."""

    @property
    def manifest(self) -> Manifest:
        """The model's contract."""
        ...

    @property
    def network(self) -> Network:
        """The model's weights and what they compute."""
        ...


@runtime_checkable
class KnowsMeans(Protocol):
    """A model that knows what a gene the query did not measure would be."""

    def gene_means(self) -> NDArray[np.float32] | None:
        """Return each gene's mean over the reference's cells, ``(genes,)``; None if they were not recorded."""
        ...


def align(
    adata: Query,
    model: ModelLike | Manifest,
    *,
    conditions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    layer: str | None = None,
    min_coverage: float | None = None,
    size_factor: str | None = None,
    proteins: str | None = None,
) -> Cells:
    """Return a query's cells in a model's gene order, with their conditions and labels.

    Genes are matched by name, never by position: by Ensembl id or symbol, whichever of var_names and the columns of
    ``adata.var`` finds more of the model's genes. A gene is looked up by its exact name; without an Ensembl version;
    by the panel's own pairs of id and symbol; and, for human models, by HGNC's table: Ensembl id, approved symbol,
    previous symbol, alias; last, but for punctuation, as R's ``make.names`` changes it (``HLA.DRA``). Names that could
    mean two genes are not used, and case is not changed. Rows that ``var["feature_types"]`` calls anything but
    ``Gene Expression``, as antibodies and hashtags, are no genes.

    Every value of the matrix is checked. Matrices on disk are read in blocks and sparse ones stay sparse: memory is
    twice that of the result at most, and a block. ``adata`` is never written to.

    Parameters
    ----------
    adata
        The query, ``(cells, query genes)``: AnnData, in memory or backed; MuData, of which the modality ``rna`` is
        read; or a path, as :func:`hub_client.data.open_query.read_cells` takes. Of a file no more is read than is
        needed here.
    model
        The model whose genes and keys count. With a manifest alone, coverage is not weighted.
    conditions
        The manifest's keys of conditions and covariates to the query's obs columns. If left out, columns that are named
        like the keys are taken; a categorical key without one gives all cells one new category, ``query``.
    labels
        The manifest's label levels to the query's obs columns; if left out, no labels are taken. Missing values, the
        manifest's unlabelled value, and texts such as ``nan``, ``NA`` and ``Unknown`` that are none of the model's
        labels mean a cell without a label. In a condition, all of these are gaps.
    layer
        The matrix to read: a layer's name, ``raw`` or ``X``. If left out: the layer the manifest hints at, if the query
        has it and it holds counts, and X otherwise.
    min_coverage
        Share of the model's genes the query must measure, in [0, 1]; takes the place of both of the manifest's
        thresholds, the one that warns and the one that refuses.
    size_factor
        The obs column with each cell's size factor; takes the place of the manifest's.
    proteins
        For models with proteins: the key of ``adata.obsm``, or the modality of a MuData, that holds their counts. If
        left out, the one that has most of the model's proteins. Rows of ``var`` that are ``Antibody Capture`` by
        ``var["feature_types"]`` are found, too; the key is what they are called there. Names need not be spelt as the
        model's: case, hyphens and tags such as ``_TotalSeqB`` do not count. A query may have none.

    Returns
    -------
    Cells
        Counts, ``(cells, genes)``. For models that read log1p values: the query's own, or, if it holds counts, log1p of
        the counts scaled to the manifest's ``target_sum`` over all genes the query measured. Genes the query lacks are
        zero, or the reference's mean where the manifest asks for it: of counts at the cell's own depth
        (:func:`hub_client.data.missing_genes.filled`). Centred encoders read them at their centre. Means fill the
        columns of these genes: memory grows by one value for each cell and missing gene. ``.report`` states what was
        found.

    Raises
    ------
    AlignmentError
        If there are no cells or no genes, cell names repeat, the matrix does not hold what the model reads, too few of
        the model's genes are measured, or one is measured twice and the manifest does not allow that.
    VocabularyError
        If a key, column or layer is not there, a condition has gaps, or a category is one the model cannot learn.
    InvalidInput
        If ``adata`` is nothing that can be read or is damaged in what is read here, the model is only a name, or
        ``min_coverage`` is not in [0, 1].
    NotFound
        If there is no file at the path.
    Unsupported
        If the manifest fills missing genes with means and the model has none, or only the manifest is given.

    Examples
    --------
    >>> cells = align(adata, reference, conditions={"batch": "library"})  # doctest: +SKIP
    >>> cells.report.coverage  # doctest: +SKIP
    0.966
    """
    _check_model(model)
    manifest, network = (model, None) if isinstance(model, Manifest) else (model.manifest, model.network)
    asked = {"layer": layer, "size_factor": size_factor, "proteins": proteins}
    wanted = needed(manifest, conditions=conditions, labels=labels, **asked)
    query = open_query.opened(adata, needed=wanted, whole=False)
    _check_query(query, min_coverage)
    annotations = obs.read_obs(query.obs, manifest, conditions=conditions, labels=labels, size_factor=size_factor)
    source = sources.choose_source(query, layer=layer, hint=manifest.input.layer)
    panel = Panel.of(manifest)
    match = genes.resolve_duplicates(genes.match(source.var, panel), policy=manifest.genes.duplicates)
    coverage = Coverage.of(match, None if network is None else network.gene_usage())
    case = coverages.Case(source, manifest, panel)
    low = coverages.check(coverage, case, minimum=min_coverage)
    foreign = coverages.check_organism(match, case, coverage)
    x, doubts, notes = _values(source, match, manifest=manifest)
    x = with_missing(x, np.setdiff1d(np.arange(len(match.panel)), match.found), manifest=manifest, model=model)
    counted, found = aligned_proteins(query, manifest, key=proteins, source=source)
    settings = {
        "layer": layer,
        "min_coverage": min_coverage,
        "size_factor": size_factor,
        "proteins": proteins,
        "conditions": annotations.columns,
    }
    report = replace(
        _report(match, coverage, source),
        warnings=(
            *low,
            *foreign,
            *source.features.notes,
            *match.doubts,
            *doubts,
            *notes,
            *annotations.notes,
            *_protein_notes(found),
        ),
        doubts=(*foreign, *doubts),
        settings={name: value for name, value in settings.items() if value not in (None, {})},
        proteins=found,
    )
    return Cells(
        x=x,
        obs_names=cell_names(query.obs_names),
        conditions=annotations.conditions,
        labels=annotations.labels,
        size_factor=size_factors(x, manifest) if annotations.size_factors is None else annotations.size_factors,
        report=report,
        continuous=annotations.continuous,
        proteins=counted,
        whole_depth=annotations.size_factors is not None or manifest.genes.missing == "mean",
    )


def needed(
    manifest: Manifest,
    *,
    conditions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    layer: str | None = None,
    size_factor: str | None = None,
    proteins: str | None = None,
) -> Needed:
    """Return what :func:`align` reads of a query when it is given the same."""
    keys = [*(condition.key for condition in manifest.categorical), *manifest.covariates.continuous]
    given = [name for columns in (conditions, labels) if isinstance(columns, Mapping) for name in columns.values()]
    every = [*(keys if not conditions else ()), *given, size_factor or manifest.input.size_factor]
    columns = frozenset(name for name in every if isinstance(name, str))
    return Needed(columns=columns, layer=layer, proteins=protein_keys(manifest, proteins))


def _protein_notes(found: ProteinReport | None) -> tuple[str, ...]:
    """Return what the user should know of proteins."""
    if found is None or not found.missing:
        return ()
    if found.source is None:
        return ("the query has none of the model's proteins: its cells lie where their genes alone put them.",)
    names = errors.names(found.missing)
    return (f"{len(found.missing)} of the model's proteins were not found in {found.source!r}: {names}.",)


def _report(match: Match, coverage: Coverage, source: Source) -> GeneReport:
    return GeneReport(
        coverage=coverage.plain,
        weighted_coverage=coverage.weighted,
        missing=coverage.missing,
        unused=int((match.target[source.features.genes] < 0).sum()),
        renamed=match.renamed,
        summed=tuple(match.panel[match.repeated]),
        source=source.name,
        column=match.column,
        id_type=match.id_type,
    )


def _check_model(model: object) -> None:
    if isinstance(model, str | Path):
        raise errors.InvalidInput(
            f"the model is only named, as {str(model)!r}: pass hub_client.pull({str(model)!r}), or call map_query().",
            facts={"model": model},
        )


def _check_query(query: AnnData, min_coverage: float | None) -> None:
    if min_coverage is not None and not 0 <= min_coverage <= 1:
        raise errors.InvalidInput(
            f"min_coverage is {min_coverage}; give a share of the model's genes between 0 and 1.",
            facts={"min_coverage": min_coverage},
        )
    if not query.n_obs:
        raise errors.AlignmentError("the query has no cells; check the filter that made it.")
    if not query.n_vars:
        raise errors.AlignmentError("the query has no genes; check the filter that made it.")
    if unnamed := int(query.obs_names.isna().sum()):
        raise errors.AlignmentError(
            f"{unnamed:,} of the query's {query.n_obs:,} cells have no name (NaN in obs_names). Results are returned "
            "by cell name: give every cell one."
        )
    names = pd.Index(cell_names(query.obs_names))
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        raise errors.AlignmentError(
            f"{len(repeated):,} cell names occur more than once in the query's obs_names: {errors.names(repeated)}. "
            "Results are returned by cell name: call adata.obs_names_make_unique() first."
        )


def _values(
    source: Source, match: Match, *, manifest: Manifest
) -> tuple[sparse.csr_matrix, tuple[str, ...], tuple[str, ...]]:
    """Return the model's columns in the unit the network reads, doubts that they are that, and notes about them."""
    tally, rows = Tally(), source.features.genes
    target, genes = match.target, len(match.panel)
    apart = manifest.input.kind == "log1p" and bool(match.repeated.size)
    if apart:  # what is to be summed: how is known once all values were seen
        repeated = np.isin(target, match.repeated)
        target = np.where(repeated, genes + np.cumsum(repeated) - 1, target)
    x = matrices.pick(source.matrix, target, genes=max(genes, int(target.max()) + 1), look=tally.add, shown=rows)
    doubts = sources.check(source, tally=tally, spec=manifest.input)
    if apart:
        x = _summed(x, match.target[repeated], genes=genes, logs=not tally.counts)
    notes: tuple[str, ...] = ()
    if manifest.input.kind == "log1p" and tally.counts:
        x = _logged(x, matrices.row_sums(source.matrix, over=rows), target_sum=manifest.input.target_sum)
        notes = (f"{source.name} holds counts: log1p of them, as this model reads, was made here.",)
    empty = int((np.diff(x.indptr) == 0).sum())
    note = f"{empty:,} of {x.shape[0]:,} cells have no counts in the model's genes: their results mean nothing."
    return x, doubts, (*notes, note) if empty else notes


def _summed(x: sparse.csr_matrix, target: NDArray[np.int64], *, genes: int, logs: bool) -> sparse.csr_matrix:
    """Return the model's genes with the columns behind them added to those that they are; log1p values as counts."""
    where = np.ones(len(target)), (np.arange(len(target)), target)
    into = sparse.csr_matrix(where, shape=(len(target), genes))
    apart = x[:, genes:].astype(np.float64)
    summed = sparse.csr_matrix((apart.expm1() @ into).log1p() if logs else apart @ into)
    found = sparse.csr_matrix(x[:, :genes] + summed.astype(np.float32))
    found.sort_indices()
    return found


def _logged(x: sparse.csr_matrix, totals: NDArray[np.float64], *, target_sum: float | None) -> sparse.csr_matrix:
    factors = np.ones_like(totals) if target_sum is None else target_sum / np.maximum(totals, 1)
    logs = np.repeat(factors, np.diff(x.indptr))
    np.log1p(np.multiply(logs, x.data, out=logs), out=logs)
    return sparse.csr_matrix((logs.astype(np.float32), x.indices, x.indptr), shape=x.shape)


def with_missing(
    x: sparse.csr_matrix, missing: NDArray[np.int64], *, manifest: Manifest, model: object
) -> sparse.csr_matrix:
    """Return the matrix with the genes the query lacks at the reference's mean, if the manifest asks for it.

    Raises
    ------
    Unsupported
        If it does and the model has no means.
    """
    if manifest.genes.missing == "zero" or not missing.size:
        return x
    means = model.gene_means() if isinstance(model, KnowsMeans) else None
    if means is None:
        raise errors.Unsupported(
            f"the model {manifest.name} reads the reference's mean for the {missing.size:,} genes the query lacks, and "
            f"{'a manifest alone' if model is manifest else 'the model at hand'} has no means: give the model as it "
            "was pulled, or train it; with_gene_means() records them for one that is trained.",
            kind=manifest.architecture.kind,
            verb="align",
        )
    return missing_genes.filled(x, missing=missing, means=means, kind=manifest.input.kind)


def size_factors(x: sparse.csr_matrix, manifest: Manifest) -> NDArray[np.float32]:
    """Return the sum over the model's genes; 1 for cells without counts, and for log1p input, whose loss has no use."""
    if manifest.input.kind == "log1p":
        return np.ones(x.shape[0], dtype=np.float32)
    totals = np.maximum(matrices.row_sums(x), 1)  # infinite beyond float32, as x is
    if wrong := int((totals > FLOAT32_LARGEST).sum()):
        raise errors.AlignmentError(
            f"{wrong:,} of {len(totals):,} cells have a total that float32 cannot hold, so these are no counts: "
            "leave the cells out, or start from the counts."
        )
    return totals.astype(np.float32)

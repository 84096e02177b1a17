"""align(): a query's cells in a model's gene order, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from hub_client import errors
from hub_client.data import coverage as coverages
from hub_client.data import genes, missing_genes, obs, open_query, sources
from hub_client.data import matrix as matrices
from hub_client.data.cells import Cells, GeneReport
from hub_client.data.counts import Tally
from hub_client.data.coverage import Coverage
from hub_client.data.genes import Match, Panel
from hub_client.data.open_query import Query
from hub_client.data.proteins import ProteinReport, aligned_proteins
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
    previous symbol, alias. Names that could mean two genes are not used, and case is not changed.

    Every value of the matrix is checked. Matrices on disk are read in blocks and sparse ones stay sparse: memory is
    twice that of the result at most, and a block. ``adata`` is never written to.

    Parameters
    ----------
    adata
        The query, ``(cells, query genes)``: AnnData, in memory or backed; MuData, of which the modality ``rna`` is
        read; or the path of a ``.h5ad``, ``.zarr``, ``.zarr.zip`` or ``.h5mu``.
    model
        The model whose genes and keys count. With a manifest alone, coverage is not weighted.
    conditions
        The manifest's keys of conditions and covariates to the query's obs columns. If left out, columns that are named
        like the keys are taken; a categorical key without one gives all cells one new category, ``query``.
    labels
        The manifest's label levels to the query's obs columns; if left out, no labels are taken. Missing values and the
        manifest's unlabelled value mean a cell without a label.
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
        left out, the one that has most of the model's proteins. Names need not be spelt as the model's: case, hyphens
        and tags such as ``_TotalSeqB`` do not count. A query may have none.

    Returns
    -------
    Cells
        Counts, ``(cells, genes)``. For models that read log1p values: the query's own, or, if it holds counts, log1p of
        the counts scaled to the manifest's ``target_sum`` over all genes the query measured. Genes the query lacks are
        zero, or the reference's mean where the manifest asks for it: of counts at the cell's own depth
        (:func:`hub_client.data.missing_genes.filled`). Means fill the columns of these genes: memory grows by one value
        for each cell and missing gene. ``.report`` states what was found.

    Raises
    ------
    AlignmentError
        If there are no cells or no genes, cell names repeat, the matrix does not hold what the model reads, too few of
        the model's genes are measured, or one is measured twice and the manifest does not allow that.
    VocabularyError
        If a key, column or layer is not there, a condition has gaps, or a category is one the model cannot learn.
    InvalidInput
        If ``adata`` is nothing that can be read, the model is only a name, or ``min_coverage`` is not in [0, 1].
    NotFound
        If there is no file at the path.
    Unsupported
        If the manifest fills missing genes with means and the model has none, or only the manifest is given.

    Examples
    --------
    >>> cells = align(adata, reference, conditions={"batch": "donor"})  # doctest: +SKIP
    >>> cells.report.coverage  # doctest: +SKIP
    0.966
    """
    _check_model(model)
    query = open_query.opened(adata)
    _check_query(query, min_coverage)
    manifest, network = (model, None) if isinstance(model, Manifest) else (model.manifest, model.network)
    annotations = obs.read_obs(query.obs, manifest, conditions=conditions, labels=labels, size_factor=size_factor)
    source = sources.choose_source(query, layer=layer, hint=manifest.input.layer)
    panel = Panel.of(manifest)
    match = genes.resolve_duplicates(genes.match(source.var, panel), policy=manifest.genes.duplicates)
    coverage = Coverage.of(match, None if network is None else network.gene_usage())
    low = coverages.check(coverage, coverages.Case(source, manifest, panel), minimum=min_coverage)
    x, doubts = _values(source, match, manifest=manifest)
    x = _filled(x, match, manifest=manifest, model=model)
    counted, found = aligned_proteins(query, manifest, key=proteins)
    settings = {
        "layer": layer,
        "min_coverage": min_coverage,
        "size_factor": size_factor,
        "proteins": proteins,
        "conditions": annotations.columns,
    }
    report = replace(
        _report(match, coverage, source),
        warnings=(*low, *match.doubts, *doubts, *annotations.notes, *_protein_notes(found)),
        settings={name: value for name, value in settings.items() if value not in (None, {})},
        proteins=found,
    )
    return Cells(
        x=x,
        obs_names=query.obs_names.to_numpy().astype(str).astype(object),
        conditions=annotations.conditions,
        labels=annotations.labels,
        size_factor=_totals(x, manifest) if annotations.size_factors is None else annotations.size_factors,
        report=report,
        continuous=annotations.continuous,
        proteins=counted,
    )


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
        unused=int((match.target < 0).sum()),
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
    repeated = query.obs_names[query.obs_names.duplicated()].unique()
    if len(repeated):
        raise errors.AlignmentError(
            f"{len(repeated):,} cell names occur more than once in the query's obs_names: {errors.names(repeated)}. "
            "Results are returned by cell name: call adata.obs_names_make_unique() first."
        )


def _values(source: Source, match: Match, *, manifest: Manifest) -> tuple[sparse.csr_matrix, tuple[str, ...]]:
    """Return the model's columns in the unit the network reads, and warnings about them."""
    tally = Tally()
    x = matrices.pick(source.matrix, match.target, genes=len(match.panel), look=tally.add)
    doubts = sources.check(source, tally=tally, spec=manifest.input)
    if manifest.input.kind == "log1p" and tally.counts:
        x = _logged(x, matrices.row_sums(source.matrix), target_sum=manifest.input.target_sum)
        doubts = (*doubts, f"{source.name} holds counts: log1p of them, as this model reads, was made here.")
    empty = int((np.diff(x.indptr) == 0).sum())
    note = f"{empty:,} of {x.shape[0]:,} cells have no counts in the model's genes: their results mean nothing."
    return x, (*doubts, note) if empty else doubts


def _logged(x: sparse.csr_matrix, totals: NDArray[np.float64], *, target_sum: float | None) -> sparse.csr_matrix:
    factors = np.ones_like(totals) if target_sum is None else target_sum / np.maximum(totals, 1)
    logs = np.repeat(factors, np.diff(x.indptr))
    np.log1p(np.multiply(logs, x.data, out=logs), out=logs)
    return sparse.csr_matrix((logs.astype(np.float32), x.indices, x.indptr), shape=x.shape)


def _filled(x: sparse.csr_matrix, match: Match, *, manifest: Manifest, model: object) -> sparse.csr_matrix:
    """Return the matrix with the genes the query lacks at the reference's mean, if the manifest asks for it."""
    missing = np.setdiff1d(np.arange(len(match.panel)), match.found)
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


def _totals(x: sparse.csr_matrix, manifest: Manifest) -> NDArray[np.float32]:
    """Return the sum over the model's genes; 1 for cells without counts, and for log1p input, whose loss has no use."""
    if manifest.input.kind == "log1p":
        return np.ones(x.shape[0], dtype=np.float32)
    return np.maximum(matrices.row_sums(x), 1).astype(np.float32)

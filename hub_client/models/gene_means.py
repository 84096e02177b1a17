"""with_gene_means(): a model that reads a gene its query lacks at the reference's mean, and not as zero."""

from __future__ import annotations

from dataclasses import replace

import torch

from hub_client.data.cells import Cells, aligned
from hub_client.data.missing_genes import gene_means
from hub_client.manifest.v1 import TensorSpec
from hub_client.models.model import GENE_MEANS, Model


def with_gene_means(model: Model, cells: Cells) -> Model:
    """Return the model with the means of its reference's genes, at which it reads genes that a query lacks.

    The manifest then states ``genes.missing = "mean"`` and the release has the tensor ``gene_means``, ``(genes,)``:
    :func:`hub_client.data.missing_genes.gene_means` has its unit. Neither weights nor cells with all genes change.
    :func:`hub_client.train` records them by itself where a manifest asks for them.

    Parameters
    ----------
    model
        A model.
    cells
        Its reference.

    Raises
    ------
    InvalidInput
        If the cells are not aligned.

    Examples
    --------
    >>> model = with_gene_means(model, align(reference_cells, model))  # doctest: +SKIP
    """
    means = gene_means(aligned(cells).x, kind=model.manifest.input.kind)
    described = replace(model)
    described.describe()
    kept = tuple(spec for spec in described.manifest.tensors if spec.name != GENE_MEANS)
    manifest = described.manifest.changed(
        genes=described.manifest.genes.model_copy(update={"missing": "mean"}),
        tensors=(*kept, TensorSpec(name=GENE_MEANS, dtype="F32", shape=("genes",))),
    )
    return replace(model, manifest=manifest, extras={**model.extras, GENE_MEANS: torch.from_numpy(means)})


def record_gene_means(model: Model, cells: Cells) -> None:
    """Keep the means of the cells that a model was trained on, if its manifest asks for means.

    A model that comes from another keeps the other's: they are the reference's, and its cells are a query's.
    """
    wanted = model.manifest.genes.missing == "mean"
    if wanted and (model.manifest.lineage is None or GENE_MEANS not in model.extras):
        found = with_gene_means(model, cells)
        model.manifest, model.extras = found.manifest, found.extras

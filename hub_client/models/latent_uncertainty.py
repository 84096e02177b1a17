"""latent_uncertainty(): how sure a model is of where cells lie in the latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.cells import Cells, aligned
from hub_client.data.lost_genes import without_genes
from hub_client.models.architectures import Array
from hub_client.models.model import Model

VARIANCE_KEY, GENE_LOSS_KEY = "X_latent_variance", "X_latent_gene_loss"
"""Where :func:`hub_client.map_query` writes both in ``obsm``, if it is asked to."""
CELLS_AT_ONCE = 4_096
"""About so many cells are held without their lost genes at a time."""


@dataclass(frozen=True)
class LatentUncertainty:
    """How unsure the place of each cell in the latent is, along each dimension.

    Attributes
    ----------
    variance
        The posterior's variance, ``(cells, latent)`` float32 (latent units squared): how far the cell's place is open
        given all that was measured of it.
    gene_loss
        The variance of the posterior mean over draws in which some genes count as not measured, ``(cells, latent)``
        float32 (latent units squared): how far the cell's place hangs on which genes were measured.
    """

    variance: Array
    gene_loss: Array


def latent_uncertainty(
    model: Model,
    cells: Cells,
    *,
    gene_loss: float = 0.3,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 512,
    device: str = "auto",
) -> LatentUncertainty:
    """Return how unsure the place of each cell in the latent is: the posterior's variance, and what lost genes change.

    The posterior's variance is what the encoder states (Kingma and Welling 2014, arXiv 1312.6114, section 2.3). It is
    learned on the reference, and nothing makes it large where the reference has no cells. The second quantity asks the
    encoder instead of believing it: in each draw another random share of the genes that the query measured counts as
    not measured, as such genes count in this model (at the centre, zero or the reference's mean), the same genes for
    all cells, and the variance of the posterior mean over draws is taken, unbiased. Proteins and covariates stay. Both
    have the latent's unit squared, so they compare cells of one model, and not models.

    Neither is a measure of novelty: cells of types that the reference lacks, and cells whose label is wrong, are not
    told from others by them (docs/label-transfer.md has the figures). The former :func:`hub_client.novelty` recognises;
    whether a label is wrong is what its own uncertainty estimates.

    Of a scVI, scANVI or totalVI with a logistic-normal latent both are those of the normal before the softmax, as the
    posterior mean of :func:`hub_client.embed` is; of an expiMap a dimension is a gene program.

    Parameters
    ----------
    model, cells, batch_size, device
        As for :func:`hub_client.embed`.
    gene_loss
        The share of the model's genes that the query measured which is lost in each draw, above 0 and below 1.
    draws
        How many, 2 or more. Time grows with it.
    seed
        Of the genes that are lost.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know: run :func:`hub_client.surgery` first.
    InvalidInput
        If the share is none or all of the measured genes, there are fewer than 2 draws, and as
        :func:`hub_client.embed`.
    Unsupported
        If the manifest fills missing genes with means and the model has none.

    Examples
    --------
    >>> found = latent_uncertainty(model, cells)  # doctest: +SKIP
    >>> found.gene_loss.mean(axis=1)  # of each cell  # doctest: +SKIP
    """
    cells = aligned(cells)
    _check(draws, batch_size)
    losses = _losses(cells, model.manifest.genes.names, share=gene_loss, draws=draws, seed=seed)
    shape = len(cells), model.manifest.axes()["latent"]
    variance, spread = np.empty(shape, np.float32), np.empty(shape, np.float32)
    step = max(CELLS_AT_ONCE // batch_size, 1) * batch_size  # whole minibatches, so that they are those of embed()
    with model.on(device):
        for start in range(0, len(cells), step):
            part = cells.rows(np.arange(start, min(start + step, len(cells))))
            rows = slice(start, start + step)
            _, variance[rows] = model.network.posterior(part, batch_size=batch_size)
            drawn = (without_genes(part, lost, model=model) for lost in losses)
            means = np.stack([model.network.embed(each, batch_size=batch_size) for each in drawn])
            spread[rows] = means.var(axis=0, ddof=1, dtype=np.float64)
    return LatentUncertainty(variance, spread)


def _check(draws: int, batch_size: int) -> None:
    if draws < 2:
        raise errors.InvalidInput(
            f"draws is {draws}; it is 2 or more, as a variance is taken over them.", facts={"draws": draws}
        )
    if batch_size < 1:
        raise errors.InvalidInput(f"batch_size is {batch_size}; it is 1 or more.", facts={"batch_size": batch_size})


def _losses(cells: Cells, genes: tuple[str, ...], *, share: float, draws: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return which genes are lost in each draw, ``(genes,)`` each: a share of those that were measured."""
    measured = cells.measured(genes)
    count = round(share * len(measured)) if 0 < share < 1 else 0
    if not 0 < count < len(measured):
        raise errors.InvalidInput(
            f"gene_loss is {share}, of {len(measured):,} measured genes; it is a share above 0 and below 1 that takes "
            "some of them and leaves some.",
            facts={"gene_loss": share, "measured": len(measured)},
        )
    generator = np.random.default_rng(seed)
    numbers = np.arange(len(genes))
    return [np.isin(numbers, generator.choice(measured, count, replace=False)) for _ in range(draws)]

"""posterior_predictive(): data drawn anew from a trained model, beside the data it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hub_client.data.cells import Cells, aligned
from hub_client.models.architectures import Decoded
from hub_client.models.model import Model

MOST_CELLS = 2000
"""How many cells are drawn anew, at most."""
HIGHEST_RATE = 1e8
"""The most counts that are expected of a gene: torch draws none beyond."""
LOWEST = 1e-8
"""The least rate and inverse dispersion that are drawn from."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """What is compared of data, counts or log1p values."""

    mean: Array
    """Of each gene over the cells, ``(genes,)``."""
    variance: Array
    """Of each gene, ``(genes,)``."""
    zeros: Array
    """Share of the cells in which a gene is 0, ``(genes,)``."""
    expressing: NDArray[np.int64]
    """How many cells it is not 0 in, ``(genes,)``."""
    totals: Array
    """Sum of each cell, ``(cells,)``."""
    detected: Array
    """How many genes are not 0 in each cell, ``(cells,)``."""


@dataclass(frozen=True)
class Replicate:
    """Data and what a model draws in their place, of the same cells and genes."""

    observed: Summary
    drawn: Summary
    cells: int
    counts: bool
    """Whether they are counts; of other values, and of scVI's normal likelihood, the model's means stand for draws."""


@torch.no_grad()
def posterior_predictive(
    model: Model, cells: Cells, *, seed: int = 0, most_cells: int = MOST_CELLS, batch_size: int = 512
) -> Replicate:
    """Return a summary of cells, and of the counts that a model draws in their place.

    Each cell's latent is drawn from its posterior, and its counts from the distribution that the decoder states there
    for the cell's depth and conditions (Gelman, Meng and Stern 1996, posterior predictive checks): a negative binomial,
    one with dropped counts (zinb), or a Poisson. A squared error states no spread, so that the decoder's means stand
    for draws where a model reads log1p values: their variance is what latent and conditions explain.

    Parameters
    ----------
    model
        A trained model that knows the cells' conditions.
    cells
        From :func:`hub_client.align`.
    seed
        Of the cells that are taken and of the draws.
    most_cells
        How many cells are taken, at most.
    batch_size
        Cells at a time: memory is that of so many dense rows.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know.
    InvalidInput
        If the cells are not aligned.
    """
    chosen = aligned(cells).rows(_chosen(len(cells), most_cells, seed))
    network = model.network.eval()
    batches, counts = network.batches(chosen), _draws(model)
    observed, drawn = _Sums.of(batches.genes), _Sums.of(batches.genes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches.in_order(batch_size):
            decoded = network.decode(batch, network.drawn_latent(batch))
            observed.add(batch.dense(batch.values))
            drawn.add(_drawn(decoded) if counts else decoded.mean)
    return Replicate(observed.summary(), drawn.summary(), len(chosen), counts)


def _draws(model: Model) -> bool:
    """Return whether a model states a distribution of counts."""
    likelihood = model.manifest.architecture.model_dump().get("likelihood")
    return bool(model.manifest.input.kind == "counts" and likelihood != "normal")


def _chosen(cells: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return the cells that are taken, in order."""
    return np.sort(np.random.default_rng(seed).permutation(cells)[:most])


def _drawn(decoded: Decoded) -> Tensor:
    """Return counts of the distribution that was decoded, ``(cells, genes)``."""
    rate = decoded.mean.clamp(LOWEST, HIGHEST_RATE)
    if decoded.inverse_dispersion is not None:
        shape = decoded.inverse_dispersion.clamp(min=LOWEST).expand_as(rate)
        rate = torch.distributions.Gamma(shape, shape / rate, validate_args=False).sample().clamp(max=HIGHEST_RATE)
    found = torch.poisson(rate)
    if decoded.dropout_logits is not None:
        found = found * (torch.rand_like(found) >= torch.sigmoid(decoded.dropout_logits))
    return found


@dataclass
class _Sums:
    """Sums over minibatches, in float64."""

    first: Tensor
    second: Tensor
    expressing: Tensor
    totals: list[NDArray[Any]]
    detected: list[NDArray[Any]]

    @classmethod
    def of(cls, genes: int) -> Self:
        """Return sums over nothing."""
        first, second, expressing = torch.zeros((3, genes), dtype=torch.float64)
        return cls(first, second, expressing, [], [])

    def add(self, values: Tensor) -> None:
        """Add a minibatch, ``(cells, genes)``."""
        values = values.double().cpu()
        there = values > 0
        self.first += values.sum(0)
        self.second += values.square().sum(0)
        self.expressing += there.sum(0)
        self.totals.append(values.sum(1).numpy())
        self.detected.append(there.sum(1).numpy())

    def summary(self) -> Summary:
        """Return what they sum up to."""
        cells = sum(map(len, self.totals))
        mean = self.first / max(cells, 1)
        variance = (self.second / max(cells, 1) - mean.square()).clamp(min=0)
        return Summary(
            mean=mean.numpy(),
            variance=variance.numpy(),
            zeros=(1 - self.expressing / max(cells, 1)).numpy(),
            expressing=self.expressing.long().numpy(),
            totals=np.concatenate([*self.totals, np.empty(0)]),
            detected=np.concatenate([*self.detected, np.empty(0)]).astype(np.float64),
        )

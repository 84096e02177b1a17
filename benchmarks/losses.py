"""Time the count losses against the same formulas written densely and taped, as scArches 0.6.1 has them.

    python benchmarks/losses.py [--threads 1] [--repeats 40] [--seed 0]

Both sides see the same minibatch in the same process and take turns, forward and backward; the figure is the median of
the paired ratios, with its quartiles. The inputs are simulated counts, one in ten not zero, and six combinations of
conditions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear, one_hot, softplus

from hub_client.data.batches import Nonzero
from hub_client.nn.losses import negative_binomial, poisson, zero_inflated_negative_binomial

EPSILON = 1e-8
COMBINATIONS = 6


@dataclass(frozen=True)
class Minibatch:
    """Counts, what a decoder would answer, and the table of dispersions; the last three are leaves."""

    x: Tensor
    nonzero: Nonzero
    codes: Tensor
    mean: Tensor
    logits: Tensor
    log_theta: Tensor

    @classmethod
    def simulated(cls, cells: int, genes: int, *, seed: int) -> Minibatch:
        """Return counts of which about one in ten is not zero."""
        generator = torch.Generator().manual_seed(seed)
        rate = torch.distributions.Gamma(0.12, 0.5).expand((genes,))
        torch.manual_seed(seed)
        x = torch.poisson(rate.sample((1,)).expand(cells, genes) * torch.rand(cells, 1) * 2, generator=generator)
        rows, columns = x.nonzero(as_tuple=True)
        return cls(
            x=x,
            nonzero=Nonzero(rows, columns, x[rows, columns]),
            codes=torch.randint(COMBINATIONS, (cells,), generator=generator),
            mean=(
                torch.softmax(torch.randn(cells, genes, generator=generator), 1) * x.sum(1, keepdim=True)
            ).requires_grad_(),
            logits=torch.randn(cells, genes, generator=generator).requires_grad_(),
            log_theta=torch.randn(COMBINATIONS, genes, generator=generator).requires_grad_(),
        )


def dense_negative_binomial(batch: Minibatch) -> Tensor:
    x, mean, theta = batch.x, batch.mean, _dense_theta(batch)
    total = torch.log(theta + mean + EPSILON)
    return -(
        theta * (torch.log(theta + EPSILON) - total)
        + x * (torch.log(mean + EPSILON) - total)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    ).sum(1)


def dense_zero_inflated(batch: Minibatch) -> Tensor:
    x, mean, theta, logits = batch.x, batch.mean, _dense_theta(batch), batch.logits
    total = torch.log(theta + mean + EPSILON)
    kept = -logits + theta * (torch.log(theta + EPSILON) - total)
    zero = softplus(kept) - softplus(-logits)
    count = -softplus(-logits) + kept + x * (torch.log(mean + EPSILON) - total)
    count = count + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return -((x < EPSILON).float() * zero + (x > EPSILON).float() * count).sum(1)


def dense_poisson(batch: Minibatch) -> Tensor:
    return -torch.distributions.Poisson(batch.mean).log_prob(batch.x).sum(1)


def _dense_theta(batch: Minibatch) -> Tensor:
    """Look the dispersion up as scArches does: a matrix product with the one-hot codes."""
    return linear(one_hot(batch.codes, COMBINATIONS).float(), batch.log_theta.T).exp()


def sparse_negative_binomial(batch: Minibatch) -> Tensor:
    return negative_binomial(batch.nonzero, batch.mean, log_theta=batch.log_theta, codes=batch.codes)


def sparse_zero_inflated(batch: Minibatch) -> Tensor:
    return zero_inflated_negative_binomial(
        batch.nonzero, batch.mean, log_theta=batch.log_theta, codes=batch.codes, dropout_logits=batch.logits
    )


def sparse_poisson(batch: Minibatch) -> Tensor:
    return poisson(batch.nonzero, batch.mean)


PAIRS: dict[str, tuple[Callable[[Minibatch], Tensor], Callable[[Minibatch], Tensor]]] = {
    "negative binomial": (dense_negative_binomial, sparse_negative_binomial),
    "zero-inflated negative binomial": (dense_zero_inflated, sparse_zero_inflated),
    "Poisson": (dense_poisson, sparse_poisson),
}


def step(loss: Callable[[Minibatch], Tensor], batch: Minibatch) -> float:
    """Return the seconds that one forward and backward pass take."""
    for leaf in (batch.mean, batch.logits, batch.log_theta):
        leaf.grad = None
    start = time.perf_counter()
    loss(batch).mean().backward()
    return time.perf_counter() - start


def measure(name: str, batch: Minibatch, *, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of both sides, taking turns, ``(repeats,)`` each; the first five rounds are thrown away."""
    rounds = [[step(side, batch) for side in PAIRS[name]] for _ in range(repeats + 5)]
    dense, sparse = np.array(rounds[5:]).T
    return dense, sparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("loss", "cells x genes", "non-zero", "dense, ms", "here, ms", "times faster (quartiles)")
    for cells in (128, 512):
        batch = Minibatch.simulated(cells, 2000, seed=arguments.seed)
        for name in PAIRS:
            dense, sparse = measure(name, batch, repeats=arguments.repeats)
            low, middle, high = np.quantile(dense / sparse, (0.25, 0.5, 0.75))
            table.add_row(
                name,
                f"{cells} x 2000",
                f"{len(batch.nonzero.values) / batch.x.numel():.1%}",
                f"{np.median(dense) * 1e3:.2f}",
                f"{np.median(sparse) * 1e3:.2f}",
                f"{middle:.1f} ({low:.1f}-{high:.1f})",
            )
    Console().print(table)


if __name__ == "__main__":
    main()

"""Losses of the native architectures: pure functions, one value per cell, in nats unless stated otherwise.

The numbers are those of scArches 0.6.1 (Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7), with fewer rounding
errors and less work; :mod:`hub_client.nn._counts` explains how.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import one_hot

from hub_client.data.batches import Nonzero
from hub_client.nn._counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, entries

_MMD_SCALES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
_HSIC_FLOOR = 1e-12


def negative_binomial(x: Tensor | Nonzero, mean: Tensor, *, log_theta: Tensor, codes: Tensor) -> Tensor:
    """Return the negative log-likelihood of counts under a negative binomial, ``(cells,)`` nats.

    Parameters
    ----------
    x
        Counts, ``(cells, genes)``, or the non-zero ones among them: finding those costs as much as the loss.
    mean
        Expected counts, ``(cells, genes)``, at least 0.
    log_theta
        Log inverse dispersion, ``(combinations, genes)``: one row per combination of conditions.
    codes
        The row of ``log_theta`` of each cell, int64 ``(cells,)``.

    Notes
    -----
    Lopez et al. 2018 (doi:10.1038/s41592-018-0229-2), with 1e-8 added in the logarithms as scArches does.
    Differentiable once, in ``mean`` and ``log_theta``. Half precision is computed in float32.
    """
    mean, log_theta = _full(mean), _full(log_theta)
    return _apply(NegativeBinomial, mean, log_theta, codes, *entries(x, genes=mean.shape[1], dtype=mean.dtype))


def zero_inflated_negative_binomial(
    x: Tensor | Nonzero, mean: Tensor, *, log_theta: Tensor, codes: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Return the negative log-likelihood under a zero-inflated negative binomial, ``(cells,)`` nats.

    Parameters
    ----------
    x, mean, log_theta, codes
        As for :func:`negative_binomial`.
    dropout_logits
        Log-odds that a count was dropped, ``(cells, genes)``.

    Notes
    -----
    Lopez et al. 2018 (doi:10.1038/s41592-018-0229-2). Differentiable once, in ``mean``, ``log_theta`` and
    ``dropout_logits``.
    """
    mean, log_theta, logits = _full(mean), _full(log_theta), _full(dropout_logits)
    counts = entries(x, genes=mean.shape[1], dtype=mean.dtype)
    return _apply(ZeroInflatedNegativeBinomial, mean, log_theta, logits, codes, *counts)


def poisson(x: Tensor | Nonzero, mean: Tensor) -> Tensor:
    """Return the negative log-likelihood of counts under a Poisson, ``(cells,)`` nats; infinite for a count at mean 0.

    Parameters
    ----------
    x, mean
        As for :func:`negative_binomial`. scArches' mean is the decoder's softmax without the size factor.
    """
    mean = _full(mean)
    return _apply(Poisson, mean, *entries(x, genes=mean.shape[1], dtype=mean.dtype))


def mean_squared_error(x: Tensor, mean: Tensor) -> Tensor:
    """Return the squared error summed over genes, ``(cells,)``, in squared units of ``x``.

    The name is scArches'; its mean is over cells, not genes.
    """
    return (mean - x).square().sum(1)


def kl_standard_normal(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of ``N(mean, variance)`` from ``N(0, 1)``, ``(cells,)`` nats.

    Both arguments are ``(cells, latent)``; the sum is over the latent. Kingma and Welling 2014, appendix B.
    """
    return 0.5 * (variance + mean.square() - 1 - variance.log()).sum(1)


def mmd(latent: Tensor, codes: Tensor, *, conditions: int, boundary: int | None = None) -> Tensor:
    """Return the maximum mean discrepancy between conditions, summed over their pairs: a scalar without unit.

    Parameters
    ----------
    latent
        ``(cells, latent)``.
    codes
        The condition of each cell, int64 ``(cells,)``.
    conditions
        How many conditions there are; those without a cell are left out.
    boundary
        If given, only pairs ``i < boundary <= j`` count, and only where both have at least two cells.

    Notes
    -----
    Gretton et al. 2012 (jmlr.org/papers/v13/gretton12a.html), equation 5: the biased estimate, with a sum of radial
    kernels of 19 widths as in trVAE (Lotfollahi et al. 2020, doi:10.1093/bioinformatics/btaa800).
    """
    latent = _full(latent)
    members = one_hot(codes, conditions).to(latent.dtype)
    sizes = members.sum(0)
    shares = members / sizes.clamp(min=1)
    similarity = shares.T @ multi_scale_kernel(latent) @ shares
    own = similarity.diagonal()
    discrepancy = own[:, None] + own[None, :] - 2 * similarity
    return (discrepancy * _pairs(sizes, boundary=boundary)).sum()


def hsic(left: Tensor, right: Tensor) -> Tensor:
    """Return the Hilbert-Schmidt independence criterion of two blocks of latent columns: a scalar, 0 if independent.

    Parameters
    ----------
    left, right
        ``(cells, latent)`` each, with their own number of columns.

    Notes
    -----
    Gretton et al. 2005 (doi:10.1007/11564089_7), definition 2 (biased), square root taken, as in expiMap (Lotfollahi et
    al. 2023, doi:10.1038/s41556-022-01072-x). scArches takes the root of values that rounding makes negative, which
    gives NaN; here they are 0 with a gradient of 0.
    """
    left, right = _full(left), _full(right)
    value = (_centred(radial_kernel(left)) * radial_kernel(right)).mean()
    positive = value > _HSIC_FLOOR
    return torch.where(positive, torch.where(positive, value, 1).sqrt(), 0)


def multi_scale_kernel(latent: Tensor) -> Tensor:
    """Return the similarity of all pairs of cells, ``(cells, cells)``: radial kernels of 19 widths, summed.

    As in trVAE's maximum mean discrepancy (Lotfollahi et al. 2020, doi:10.1093/bioinformatics/btaa800).
    """
    return _apply(_MultiScaleKernel, _square_distances(_full(latent)))


def radial_kernel(x: Tensor) -> Tensor:
    """Return ``exp(-σ |a - b|²)`` for all pairs of cells, ``(cells, cells)``, with expiMap's σ for as many columns."""
    columns = x.shape[1]
    expected_distance = 2 * math.exp(math.lgamma((columns + 1) / 2) - math.lgamma(columns / 2))
    return (_square_distances(x) / (-2 * expected_distance**2)).exp()


def covariance(x: Tensor) -> Tensor:
    """Return the unbiased covariance of the columns of ``x`` ``(cells, latent)``, as ``(latent, latent)``."""
    return torch.cov(x.T)


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def _full(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _square_distances(latent: Tensor) -> Tensor:
    # by differences, not by products: the narrow kernels see distances of 1e-6
    return torch.cdist(latent, latent, compute_mode="donot_use_mm_for_euclid_dist").square()


class _MultiScaleKernel(torch.autograd.Function):
    """The sum of radial kernels over all widths, and its derivative, without one array per width."""

    @staticmethod
    def forward(ctx: Any, square_distances: Tensor) -> Tensor:
        kernel, slope = torch.zeros_like(square_distances), torch.zeros_like(square_distances)
        for scale in _MMD_SCALES:
            term = (square_distances * (-0.5 / scale)).exp_()
            kernel.add_(term)
            slope.add_(term, alpha=-0.5 / scale)
        ctx.save_for_backward(slope)
        return kernel

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = ctx.saved_tensors[0]
        return slope * grad


def _pairs(sizes: Tensor, *, boundary: int | None) -> Tensor:
    """Return 1 for each unordered pair of conditions that counts and 0 elsewhere, ``(conditions, conditions)``."""
    fewest = 1 if boundary is None else 2
    present = (sizes >= fewest).to(sizes.dtype)
    pairs = present.outer(present).triu(1)
    if boundary is not None:
        pairs[boundary:] = 0
        pairs[:, :boundary] = 0
    return pairs


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()

"""Negative binomial losses whose expensive part touches only the counts that are not zero.

A count matrix is about nine tenths zeros, and at a zero the gamma functions of the negative binomial cancel exactly.
So the dense part of both functions below is one ``log1p``; the rest is evaluated at the non-zero entries and
scattered back. The gradients are written down beside the values: the forward pass prepares them, the backward pass
only scales them.

The gamma functions appear as differences, ``lgamma(x + θ) - lgamma(θ)``, which lose all their digits in float32 when
θ is large. Here the difference itself is expanded (Stirling's series after a shift by 4, DLMF 5.11.1 and 5.11.2 with
the recurrence 5.5.1), so that nothing large is subtracted: the error stays near float32's own for any θ.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import one_hot, softplus

from hub_client.data.batches import Nonzero

EPSILON = 1e-8

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330)
_SERIES_LENGTH = {torch.float32: 4, torch.float64: 10}
_LGAMMA_SERIES = tuple(b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, start=1))
_DIGAMMA_SERIES = tuple(-b / (2 * k) for k, b in enumerate(_BERNOULLI, start=1))
_CONSTANT = 0.5 * math.log(2 * math.pi) - 4


class Entries(NamedTuple):
    """Non-zero counts as the functions below read them: flat positions in the ``(cells, genes)`` matrix, and values."""

    positions: Tensor
    values: Tensor


def entries(x: Tensor | Nonzero, *, genes: int, dtype: torch.dtype) -> Entries:
    """Return where the counts of ``x`` are above 1e-8, found here unless ``x`` holds it."""
    if isinstance(x, Tensor):
        positions = (x > EPSILON).reshape(-1).nonzero()[:, 0]
        return Entries(positions, _at(x, positions).to(dtype))
    return Entries(x.rows * genes + x.columns, x.values.to(dtype))


def _at(dense: Tensor, positions: Tensor) -> Tensor:
    return dense.reshape(-1).index_select(0, positions)


def _series(coefficients: tuple[float, ...], z: Tensor) -> Tensor:
    """Return the polynomial with these coefficients in ``1 / z²``."""
    inverse_square = z.square().reciprocal_()
    *lower, highest = coefficients[: _SERIES_LENGTH[z.dtype]]
    total = torch.full_like(z, highest)
    for coefficient in reversed(lower):
        total.mul_(inverse_square).add_(coefficient)
    return total


def _count_loss(x: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """Return ``-[x log(μ/(θ+μ)) + lgamma(x+θ) - lgamma(θ) - lgamma(x+1)]`` at non-zero counts.

    With ``v = x+θ+4``, ``w = θ+4`` and Stirling's remainder S, the leading terms of the three gamma functions and of
    the mean meet in one, ``x log((x+4)(θ+μ) / (v μ))``, which is small where the model fits. It is 0 at a count of 0.
    """
    w, y, x4 = theta + 4, x + theta, x + 4
    z = torch.stack((y + 4, w, x4))
    stirling = _series(_LGAMMA_SERIES, z).div_(z)
    below, above = theta * (theta + 3), y * (y + 3)
    steps = (above / below).mul_((above + 2).div_(below + 2)).log_()
    factorial = (x4 / (x + 1)).mul_(x4 / (x + 2)).mul_(x4 / (x + 3)).mul_(x4.sqrt()).log_()
    misfit = (theta + mean + EPSILON).mul_(x4).div_((mean + EPSILON).mul_(z[0])).log_().mul_(x)
    spread = (x / w).log1p_().mul_(w - 0.5)
    return (
        misfit.sub_(spread)
        .add_(steps)
        .add_(factorial)
        .sub_(stirling[0])
        .add_(stirling[1])
        .add_(stirling[2])
        .add_(_CONSTANT)
    )


def _digamma_difference(x: Tensor, theta: Tensor) -> Tensor:
    """Return ``digamma(x + θ) - digamma(θ)``, the derivative of :func:`_count_loss`'s gamma functions by θ."""
    w, y = theta + 4, x + theta
    z = torch.stack((y + 4, w))
    inverse = z.reciprocal()
    remainder = _series(_DIGAMMA_SERIES, z).mul_(inverse).sub_(0.5).mul_(inverse)
    below, above = theta * (theta + 3), y * (y + 3)
    steps_below = (below.reciprocal() + (below + 2).reciprocal_()).mul_(2 * theta + 3)
    steps_above = (above.reciprocal() + (above + 2).reciprocal_()).mul_(2 * y + 3)
    return (x / w).log1p_().add_(remainder[0]).sub_(remainder[1]).add_(steps_below).sub_(steps_above)


def _sum_by_code(by_theta: Tensor, codes: Tensor, theta: Tensor) -> Tensor:
    """Return the derivative by the log theta table, the same bits every time."""
    if by_theta.is_cuda:  # index_add_ adds in no fixed order there
        total = one_hot(codes, len(theta)).to(theta.dtype).T @ by_theta
    else:
        total = torch.zeros_like(theta).index_add_(0, codes, by_theta)
    return total.mul_(theta)


class _Terms(NamedTuple):
    """A loss and its derivatives by mean and theta, entry by entry; the derivatives are None where nobody asked."""

    loss: Tensor
    by_mean: Tensor | None
    by_theta: Tensor | None


def _at_zeros(mean: Tensor, theta: Tensor, *, slopes: bool) -> _Terms:
    """Return the terms of every entry as if its count were zero, ``θ log(1 + μ/θ)``."""
    rate = theta + EPSILON
    ratio = mean / rate
    log_ratio = ratio.log1p()
    loss = theta * log_ratio
    if not slopes:
        return _Terms(loss, None, None)
    by_mean = theta / rate.add_(mean)
    return _Terms(loss, by_mean, torch.addcmul(log_ratio, ratio, by_mean, value=-1))


def _at_counts(x: Tensor, mean: Tensor, theta: Tensor, *, slopes: bool) -> _Terms:
    """Return what a count adds to :func:`_at_zeros`."""
    loss = _count_loss(x, mean, theta)
    if not slopes:
        return _Terms(loss, None, None)
    share = x / (theta + mean + EPSILON)
    return _Terms(loss, share - x / (mean + EPSILON), share - _digamma_difference(x, theta))


def _add(dense: Tensor, positions: Tensor, values: Tensor) -> None:
    dense.view(-1).scatter_add_(0, positions, values)


def _add_counts(zeros: _Terms, counts: _Terms, positions: Tensor) -> None:
    for dense, values in zip(zeros, counts, strict=True):
        if dense is not None and values is not None:
            _add(dense, positions, values)


class NegativeBinomial(torch.autograd.Function):
    """Negative log-likelihood in nats, ``(cells,)``; differentiable in ``mean`` and ``log_theta``."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_theta: Tensor, codes: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        slopes = any(ctx.needs_input_grad)
        theta = log_theta.exp()
        dense = theta.index_select(0, codes)
        terms = _at_zeros(mean, dense, slopes=slopes)
        counts = _at_counts(values, _at(mean, positions), _at(dense, positions), slopes=slopes)
        _add_counts(terms, counts, positions)
        ctx.save_for_backward(terms.by_mean, terms.by_theta, theta, codes)
        return terms.loss.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_mean, by_theta, theta, codes = ctx.saved_tensors
        return (
            by_mean * grad[:, None] if ctx.needs_input_grad[0] else None,
            _sum_by_code(by_theta * grad[:, None], codes, theta) if ctx.needs_input_grad[1] else None,
            *[None] * 3,
        )


class ZeroInflatedNegativeBinomial(torch.autograd.Function):
    """Negative log-likelihood in nats, ``(cells,)``; differentiable in ``mean``, ``log_theta`` and ``logits``."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_theta: Tensor, logits: Tensor, codes: Tensor, positions: Tensor, values: Tensor
    ) -> Tensor:
        slopes = any(ctx.needs_input_grad)
        theta = log_theta.exp()
        dense = theta.index_select(0, codes)
        zeros = _at_zeros(mean, dense, slopes=slopes)
        counts = _at_counts(values, _at(mean, positions), _at(dense, positions), slopes=slopes)
        kept = zeros.loss.add_(logits).neg_()  # log-odds that a zero was drawn, not dropped
        terms, by_logits = _inflated(zeros, kept, logits, positions)
        _add_counts(terms, counts._replace(loss=counts.loss + softplus(-_at(kept, positions))), positions)
        ctx.save_for_backward(terms.by_mean, terms.by_theta, by_logits, theta, codes)
        return terms.loss.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_mean, by_theta, by_logits, theta, codes = ctx.saved_tensors
        return (
            by_mean * grad[:, None] if ctx.needs_input_grad[0] else None,
            _sum_by_code(by_theta * grad[:, None], codes, theta) if ctx.needs_input_grad[1] else None,
            by_logits * grad[:, None] if ctx.needs_input_grad[2] else None,
            *[None] * 3,
        )


def _inflated(zeros: _Terms, kept: Tensor, logits: Tensor, positions: Tensor) -> tuple[_Terms, Tensor | None]:
    """Return the terms with zero inflation, still without the counts' own, and the derivative by the dropout logits."""
    loss = softplus(-logits) - softplus(kept)
    if zeros.by_mean is None or zeros.by_theta is None:
        return _Terms(loss, None, None), None
    drawn = kept.sigmoid()
    drawn.view(-1)[positions] = 1  # a count was drawn for certain
    return _Terms(loss, zeros.by_mean * drawn, zeros.by_theta * drawn), drawn - (-logits).sigmoid()


class Poisson(torch.autograd.Function):
    """Negative log-likelihood in nats, ``(cells,)``; differentiable in ``mean``."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        mean_at = _at(mean, positions)
        loss = mean.clone(memory_format=torch.contiguous_format)
        slope = torch.ones_like(loss)
        _add(loss, positions, torch.lgamma(values + 1) - values * mean_at.log())
        _add(slope, positions, -values / mean_at)
        ctx.save_for_backward(slope)
        return loss.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None], None, None

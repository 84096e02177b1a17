"""One minibatch, several processes: each computes some of its cells, and together they do what one alone would do.

Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour" (2017), arXiv 1706.02677: gradients are
averaged over processes. That gives the gradient of the whole minibatch for losses that are means over cells. What
couples a minibatch's cells is made to be that of all of them (:class:`Together`): random draws, which are made for all
cells by every process; batch normalisation; and whatever networks ask :func:`of_all_cells` for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, wrap_torch_function

FEWEST = 2
"""A process computes no fewer cells than this, as one has no variance; or all of them compute the same minibatch."""


@wrap_torch_function(lambda rows: (rows,))
def of_all_cells(rows: Tensor) -> Tensor:
    """Return the rows of all cells of a minibatch, ``(cells, ...)``, from those of the cells this process computes."""
    return rows


@wrap_torch_function(lambda rows: (rows,))
def of_own_cells(rows: Tensor) -> Tensor:
    """Return the rows of the cells that this process computes, from those of all cells of a minibatch."""
    return rows


@dataclass(frozen=True)
class Share:
    """Which cells of a minibatch one process computes.

    Attributes
    ----------
    cells
        How many the minibatch has.
    own
        Where this process's are among them.
    weight
        What its loss is multiplied by, so that the mean over processes is the mean over cells.
    counted
        For how many cells its loss terms count.
    """

    cells: int
    own: slice
    weight: float
    counted: int

    @property
    def size(self) -> int:
        """How many cells this process computes."""
        return int(self.own.stop - self.own.start)

    def together(self) -> AbstractContextManager[object]:
        """Make what couples cells that of the whole minibatch, while a network computes this share of it."""
        return nullcontext() if self.size == self.cells else Together(self)


@dataclass(frozen=True)
class Processes:
    """The processes that train one network, and which of them this is."""

    count: int = 1
    rank: int = 0

    def share(self, cells: int, *, divisible: bool = True) -> Share:
        """Return this process's part of a minibatch; all of it for every process where it is not to be divided."""
        if not divisible or cells < FEWEST * self.count or self.count == 1:
            return Share(cells, slice(0, cells), 1.0, cells if self.rank == 0 else 0)
        start, stop = (cells * number // self.count for number in (self.rank, self.rank + 1))
        return Share(cells, slice(start, stop), (stop - start) * self.count / cells, stop - start)

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over processes, in place; one that no process has stays away."""
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        had = gradients[0].new_tensor([p.grad is not None for p in parameters])
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), had])
        distributed.all_reduce(flat)
        *means, had = torch.split(flat, [*(gradient.numel() for gradient in gradients), len(parameters)])
        for parameter, mean, anywhere in zip(parameters, means, had.tolist(), strict=True):
            if anywhere:
                parameter.grad = (mean / self.count).view_as(parameter)

    def totals(self, numbers: list[float], device: torch.device) -> list[float]:
        """Return the sum of each number over processes, which is exchanged on a device."""
        if self.count == 1:
            return numbers
        sums: list[float] = _summed(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()
        return sums


def is_first() -> bool:
    """Return whether this process is the one that writes and reports: the first of several that train together."""
    several = distributed.is_available() and distributed.is_initialized()
    return not several or distributed.get_rank() == 0


class Together(TorchFunctionMode):
    """While it is entered, functions of ``OF_ALL_CELLS`` treat a process's cells as some of the whole minibatch's.

    Their first axis is cells, or several blocks of all cells (scANVI tries each label on each cell).
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, or what stands for it here."""
        whole = OF_ALL_CELLS.get(func)
        return func(*args, **(kwargs or {})) if whole is None else whole(self.share, *args, **(kwargs or {}))


class _Sum(torch.autograd.Function):
    """The sum over processes; the gradient of each process's part is the sum of their gradients of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _summed(part: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(part)  # type: ignore[no-untyped-call]
    return total


def _whole_shape(share: Share, rows: Tensor) -> tuple[int, ...]:
    """Return ``(blocks, cells of the minibatch, ...)`` for rows ``(blocks x cells of this process, ...)``."""
    return (len(rows) // share.size, share.cells, *rows.shape[1:])


def _is_of_cells(share: Share, rows: object) -> bool:
    return isinstance(rows, Tensor) and rows.ndim > 0 and len(rows) > 0 and len(rows) % share.size == 0


def _gathered(share: Share, rows: Tensor) -> Tensor:
    """Return all cells' rows: zeros where other processes' are, summed over processes."""
    own = rows.reshape(-1, share.size, *rows.shape[1:])
    before, behind = share.own.start, share.cells - share.own.stop
    zeros = [own.new_zeros((len(own), count, *rows.shape[1:])) for count in (before, behind)]
    return _summed(torch.cat([zeros[0], own, zeros[1]], dim=1)).flatten(0, 1)


def _own(share: Share, rows: Tensor) -> Tensor:
    """Return this process's of all cells' rows, block by block."""
    return rows.reshape(-1, share.cells, *rows.shape[1:])[:, share.own].flatten(0, 1)


def _randn_like(share: Share, like: Tensor, **options: Any) -> Tensor:
    if not _is_of_cells(share, like):
        return torch.randn_like(like, **options)
    blocks, cells, *rest = _whole_shape(share, like)
    return _own(share, torch.randn(blocks * cells, *rest, dtype=like.dtype, device=like.device))


def _normal(share: Share, *given: Any, **options: Any) -> Tensor:
    if len(given) != 2 or options or not all(_is_of_cells(share, each) for each in given):
        return torch.normal(*given, **options)
    mean, scale = cast(tuple[Tensor, Tensor], given)
    return _randn_like(share, mean) * scale + mean


def _normal_(share: Share, x: Tensor, mean: float = 0.0, std: float = 1.0, **options: Any) -> Tensor:
    if not _is_of_cells(share, x):
        return x.normal_(mean, std, **options)
    drawn: Tensor = x.copy_(_randn_like(share, x) * std + mean)
    return drawn


def _dropout(share: Share, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or not p or not _is_of_cells(share, x):
        return F.dropout(x, p, training, inplace)
    blocks, cells, *rest = _whole_shape(share, x)
    return x * _own(share, F.dropout(x.new_ones((blocks * cells, *rest)), p))


def _batch_norm(
    share: Share,
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise by mean and variance over all processes' cells: Ioffe and Szegedy 2015, arXiv 1502.03167."""
    if not training:
        return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    x = x.float()
    cells = len(x) // share.size * share.cells
    centre = _summed(x.sum(0)) / cells
    spread = _summed((x - centre).square().sum(0)) / cells
    if mean is not None and variance is not None:
        with torch.no_grad():
            mean.lerp_(centre, momentum)
            variance.lerp_(spread * cells / (cells - 1), momentum)
    normal = (x - centre) * torch.rsqrt(spread + eps)
    return normal if weight is None or bias is None else normal * weight + bias


OF_ALL_CELLS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    of_all_cells: _gathered,
    of_own_cells: _own,
    torch.randn_like: _randn_like,
    torch.normal: _normal,
    Tensor.normal_: _normal_,
    F.dropout: _dropout,
    F.batch_norm: _batch_norm,
}
"""What stands for a function while several processes share a minibatch."""

"""Layers whose parameters know the names of their axes, so that a manifest can describe every tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client.manifest.configs import Normalization
from hub_client.nn.processes import of_all_cells


class Axis(NamedTuple):
    """The name of an axis, as tensor shapes in a manifest write it, and its length."""

    name: str
    size: int


class NamedModule(nn.Module, ABC):
    """A module that names the axes of its own tensors."""

    @abstractmethod
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of each tensor, by the name a release stores it under."""


class Dense(NamedModule):
    """A linear map with torch's default start (Kaiming uniform, a = sqrt 5)."""

    def __init__(self, inputs: Axis, outputs: Axis, *, bias: bool = True) -> None:
        super().__init__()
        self._axes = (outputs.name, inputs.name)
        self.weight = nn.Parameter(torch.empty(outputs.size, inputs.size))
        self.bias = nn.Parameter(torch.empty(outputs.size)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(inputs.size)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(cells, inputs)`` to ``(cells, outputs)``."""
        return F.linear(x, self.weight, self.bias)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of the weight and the bias."""
        return {"weight": self._axes} | ({"bias": self._axes[:1]} if self.bias is not None else {})


class GrowingTable(NamedModule):
    """Rows of a vocabulary: the reference's, which surgery freezes, then the query's, which it trains.

    They are two parameters, so an optimiser that is given the query's rows cannot touch the reference's.

    Parameters
    ----------
    rows, columns
        The table's axes.
    reference
        How many rows belong to the reference; the rest are the query's. None: all.
    max_norm
        Longest L2 norm of a row. Rows looked up in training are shortened in place first, as in scArches
        (``nn.Embedding(max_norm=...)``); frozen rows are never rewritten.
    bound
        Rows start uniformly within ± ``bound``; None: from a standard normal.
    """

    def __init__(
        self,
        rows: Axis,
        columns: Axis,
        *,
        reference: int | None = None,
        max_norm: float | None = None,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        self._axes = (rows.name, columns.name)
        self._reference = rows.size if reference is None else reference
        self.max_norm = max_norm
        self.reference = nn.Parameter(_started(self._reference, columns.size, bound))
        self.query = nn.Parameter(_started(rows.size - self._reference, columns.size, bound))
        self.shorten()

    @property
    def rows(self) -> Tensor:
        """All rows, ``(rows, columns)``: the reference's, then the query's."""
        return torch.cat([self.reference, self.query]) if len(self.query) else self.reference

    def forward(self, codes: Tensor) -> Tensor:
        """Return the row of each code, ``(cells, columns)``."""
        if self.training:
            self.shorten(codes)
        return F.embedding(codes, self.rows)

    @torch.no_grad()
    def shorten(self, codes: Tensor | None = None) -> None:
        """Shorten trainable rows (those in ``codes``, or all) to ``max_norm``."""
        if self.max_norm is None:
            return
        looked_up = torch.ones(len(self.reference) + len(self.query), dtype=torch.bool, device=self.reference.device)
        if codes is not None:
            looked_up = torch.zeros_like(looked_up).index_fill_(0, of_all_cells(codes), True)
        parts = (looked_up[: len(self.reference)], looked_up[len(self.reference) :])
        for table, chosen in zip((self.reference, self.query), parts, strict=True):
            if table.requires_grad and len(table):
                norm = torch.linalg.vector_norm(table, dim=1, keepdim=True)
                long = chosen[:, None] & (norm > self.max_norm)
                table.mul_(torch.where(long, self.max_norm / (norm + 1e-7), 1.0))

    @torch.no_grad()
    def load(self, rows: Tensor) -> None:
        """Take over all rows, to the bit."""
        self.reference.copy_(rows[: self._reference])
        self.query.copy_(rows[self._reference :])

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of the whole table, stored as one tensor."""
        return {"rows": self._axes}


def _started(rows: int, columns: int, bound: float | None) -> Tensor:
    return torch.randn(rows, columns) if bound is None else torch.empty(rows, columns).uniform_(-bound, bound)


class Embedded(NamedTuple):
    """Conditions that a layer reads as embeddings, ``(cells, embedding)``."""

    axis: Axis

    def weights(self, outputs: Axis) -> Dense:
        """Return the map from the embeddings to a layer."""
        return Dense(self.axis, outputs, bias=False)


class OneHot(NamedTuple):
    """A condition that a layer reads as codes, ``(cells,)``; the first ``reference`` categories are the reference's.

    A linear map of one-hot vectors is a table with a row of weights for each category, and surgery appends rows.
    """

    axis: Axis
    reference: int

    def weights(self, outputs: Axis) -> GrowingTable:
        """Return the table, started as torch starts a linear map of as many inputs."""
        return GrowingTable(self.axis, outputs, reference=self.reference, bound=1 / math.sqrt(self.axis.size))


class ConditionedLinear(nn.Module):
    """A linear map of expression plus one of the conditions: scArches' CondLayers.

    Without conditions it is the map of expression alone.
    """

    def __init__(self, inputs: Axis, outputs: Axis, *, conditions: Embedded | OneHot | None, bias: bool = True) -> None:
        super().__init__()
        self.expression = Dense(inputs, outputs, bias=bias)
        self.condition = None if conditions is None else conditions.weights(outputs)

    def forward(self, expression: Tensor, conditions: Tensor | None) -> Tensor:
        """Return ``(cells, outputs)`` from expression ``(cells, inputs)`` and embeddings or codes of conditions."""
        return self.join(self.expression(expression), conditions)

    def join(self, product: Tensor, conditions: Tensor | None) -> Tensor:
        """Add the conditions' part to an expression part that was computed already."""
        if self.condition is None or conditions is None:
            return product
        out: Tensor = product + self.condition(conditions)
        return out


class MaskedLinear(NamedModule):
    """A linear map from terms to genes in which a term reaches the genes of its program: scArches' MaskedLinear.

    The mask is no tensor of a release: it is made from the manifest's terms.

    Parameters
    ----------
    terms, genes
        The axes.
    mask
        1 where a gene is in a term's program, ``(genes, terms)``.
    soft
        Let weights be anywhere, and leave it to a penalty to keep them inside the mask.
    """

    def __init__(self, terms: Axis, genes: Axis, *, mask: Tensor, soft: bool) -> None:
        super().__init__()
        self._axes = (genes.name, terms.name)
        self.soft = soft
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty(genes.size, terms.size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if not soft:
            with torch.no_grad():
                self.weight.mul_(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(cells, terms)`` to ``(cells, genes)``."""
        return F.linear(x, self.weight if self.soft else self.weight * self.mask)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of the weight."""
        return {"weight": self._axes}


class BatchNorm(NamedModule):
    """Batch normalisation over cells with running statistics."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self._axis = axis.name
        self.norm = nn.BatchNorm1d(axis.size)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(cells, axis)``; a minibatch of one cell, which has no variance, by the running statistics."""
        if len(x) == 1:
            norm = self.norm
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        out: Tensor = self.norm(x)
        return out

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of scale, shift and running statistics."""
        return {f"norm.{name}": (self._axis,) for name in ("weight", "bias", "running_mean", "running_var")}


NORMALIZATIONS: dict[Normalization, Callable[[Axis], nn.Module]] = {
    "batch": BatchNorm,
    "layer": lambda axis: nn.LayerNorm(axis.size, elementwise_affine=False),
    "none": nn.Identity,
}


class Activation(nn.Module):
    """What follows every hidden linear map: normalisation, ReLU, dropout."""

    def __init__(self, axis: Axis, *, normalization: Normalization, dropout: float) -> None:
        super().__init__()
        self.norm = NORMALIZATIONS[normalization](axis)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(cells, axis)``."""
        out: Tensor = self.dropout(F.relu(self.norm(x)))
        return out


class HiddenLayers(nn.Module):
    """A stack of hidden layers whose first one sees the conditions.

    Parameters
    ----------
    widths
        The input's axis, then each layer's.
    conditions
        How the conditions are read; None where they are not injected.
    bias
        Whether the linear maps have a bias (scArches' encoders do, its decoders do not).
    """

    def __init__(
        self,
        widths: list[Axis],
        *,
        conditions: Embedded | OneHot | None,
        bias: bool,
        normalization: Normalization,
        dropout: float,
    ) -> None:
        super().__init__()
        self.first = ConditionedLinear(widths[0], widths[1], conditions=conditions, bias=bias)
        pairs = pairwise(widths[1:])
        self.rest = nn.ModuleList([Dense(inputs, outputs, bias=bias) for inputs, outputs in pairs])
        self.activations = nn.ModuleList(
            [Activation(axis, normalization=normalization, dropout=dropout) for axis in widths[1:]]
        )

    def forward(self, expression: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the last hidden layer, ``(cells, width)``."""
        return self.after_first(self.first(expression, conditions))

    def after_first(self, first: Tensor) -> Tensor:
        """Return the last hidden layer from the first linear map's output."""
        return self.after_first_layer(self.activations[0](first))

    def first_layer(self, expression: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the first hidden layer, ``(cells, width)``."""
        hidden: Tensor = self.activations[0](self.first(expression, conditions))
        return hidden

    def after_first_layer(self, hidden: Tensor) -> Tensor:
        """Return the last hidden layer from the first."""
        for linear, activation in zip(self.rest, self.activations[1:], strict=True):
            hidden = activation(linear(hidden))
        return hidden


def tensor_axes(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the axis names of every tensor of a network, by full name, in a fixed order."""
    return {
        f"{prefix}.{name}".removeprefix("."): axes
        for prefix, module in network.named_modules()
        if isinstance(module, NamedModule)
        for name, axes in module.axes().items()
    }

"""scvi-tools' fully connected layers with the weights of each category in a table of their own.

scvi-tools appends one-hot vectors of all categorical keys to a layer's input, so that the weights of all keys are the
last columns of one matrix, and new categories of one key move the columns of the next. Here the columns of a key are
the rows of a :class:`~hub_client.nn.layers.GrowingTable`: the function is the same, and the reference's categories and
the query's are two parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hub_client.nn.layers import Axis, BatchNorm, Dense, GrowingTable


class Categories(NamedTuple):
    """A categorical key that layers read as codes: its axis, and how many of the categories are the reference's."""

    axis: Axis
    reference: int


class InjectedLinear(nn.Module):
    """A linear map of values plus a row of weights for the category of each key.

    Parameters
    ----------
    linear
        scvi-tools' map of the values and all one-hot vectors, whose weights are taken over.
    inputs, outputs
        The axes of values and results.
    keys
        The categorical keys in scvi-tools' order; None stands for one that the model does not have. scvi-tools leaves
        out keys with one category: the only row of their table is zero and stays so.
    """

    def __init__(self, linear: nn.Linear, *, inputs: Axis, outputs: Axis, keys: Sequence[Categories | None]) -> None:
        super().__init__()
        self.values = Dense(inputs, outputs, bias=linear.bias is not None)
        self.positions = [position for position, key in enumerate(keys) if key is not None]
        self.tables = nn.ModuleList(
            [GrowingTable(key.axis, outputs, reference=key.reference) for key in keys if key is not None]
        )
        self.load(linear)

    @torch.no_grad()
    def load(self, linear: nn.Linear) -> None:
        """Take over the weights of scvi-tools' map."""
        widths = [_one_hot_width(table) for table in self._tables()]
        blocks = torch.split(linear.weight, [linear.weight.shape[1] - sum(widths), *widths], dim=1)
        self.values.weight.copy_(blocks[0])
        if self.values.bias is not None:
            self.values.bias.copy_(linear.bias)
        for table, block in zip(self._tables(), blocks[1:], strict=True):
            table.load(block.T if block.shape[1] else torch.zeros_like(table.rows))

    def weight(self) -> Tensor:
        """Return scvi-tools' weight, ``(outputs, inputs and one-hot vectors)``."""
        return torch.cat([self.values.weight, *(t.rows.T for t in self._tables() if _one_hot_width(t))], dim=1)

    def forward(self, x: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """Return ``(..., cells, outputs)`` from values ``(..., cells, inputs)`` and a code or one-hot row of each key.

        Codes are ``(cells, 1)``; one-hot rows ``(cells, categories)``.
        """
        out: Tensor = self.values(x)
        for position, table in zip(self.positions, self._tables(), strict=True):
            if _one_hot_width(table):
                given = codes[position]
                one_hot = given.shape[-1] > 1
                out = out + (given.to(out.dtype) @ table.rows if one_hot else table(given.squeeze(-1).long()))
        return out

    def _tables(self) -> list[GrowingTable]:
        return [table for table in self.tables if isinstance(table, GrowingTable)]


def _one_hot_width(table: GrowingTable) -> int:
    """Return the length of scvi-tools' one-hot vectors of a key: 0 where there is only one category."""
    rows = len(table.reference) + len(table.query)
    return rows if rows > 1 else 0


class InjectedLayers(nn.Module):
    """scvi-tools' ``FCLayers`` on :class:`InjectedLinear`.

    Parameters
    ----------
    layers
        scvi-tools' layers, whose weights and normalisations are taken over.
    widths
        The input's axis, then each layer's.
    keys
        As for :class:`InjectedLinear`; layers after the first have them where scvi-tools injects covariates deeply.
    """

    def __init__(self, layers: Any, *, widths: Sequence[Axis], keys: Sequence[Categories | None]) -> None:
        super().__init__()
        parts = [list(layer._modules.values()) for layer in layers.fc_layers]
        injected = [keys if layers.inject_into_layer(index) else () for index in range(len(parts))]
        self.linears = nn.ModuleList(
            [
                InjectedLinear(part[0], inputs=inputs, outputs=outputs, keys=read)
                for part, (inputs, outputs), read in zip(parts, pairwise(widths), injected, strict=True)
            ]
        )
        self.norms = nn.ModuleList([_norm(part[1], outputs) for part, outputs in zip(parts, widths[1:], strict=True)])
        self.after = nn.ModuleList([nn.Sequential(*filter(None, part[2:])) for part in parts])

    @property
    def first(self) -> InjectedLinear:
        """The map that reads the layers' input."""
        return self._linears()[0]

    def _linears(self) -> list[InjectedLinear]:
        return [linear for linear in self.linears if isinstance(linear, InjectedLinear)]

    def forward(self, x: Tensor, *codes: Tensor) -> Tensor:
        """Return the last layer, ``(..., cells, width)``."""
        for linear, norm, after in zip(self.linears, self.norms, self.after, strict=True):
            mapped = linear(x, codes)
            x = after(norm(mapped) if mapped.dim() < 3 else torch.stack([norm(sample) for sample in mapped]))
        return x

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by the names scvi-tools has for them."""
        tensors = {}
        for index, (linear, norm) in enumerate(zip(self._linears(), self.norms, strict=True)):
            prefix = f"fc_layers.Layer {index}"
            tensors[f"{prefix}.0.weight"] = linear.weight()
            if linear.values.bias is not None:
                tensors[f"{prefix}.0.bias"] = linear.values.bias
            if isinstance(norm, BatchNorm):
                tensors |= {f"{prefix}.1.{name}": tensor for name, tensor in norm.norm.state_dict().items()}
        return tensors


def _norm(norm: nn.BatchNorm1d | None, axis: Axis) -> BatchNorm | nn.Identity:
    """Return scvi-tools' own normalisation, under a name for its axis."""
    if norm is None:
        return nn.Identity()
    batch_norm = BatchNorm(axis)
    batch_norm.norm = norm
    return batch_norm


class _Joined(nn.Module):
    """A parameter made of the reference's part and the query's, along one of its dimensions."""

    def __init__(self, reference: int, dim: int) -> None:
        super().__init__()
        self.reference = reference
        self.dim = dim

    def forward(self, reference: Tensor, query: Tensor) -> Tensor:
        """Return the whole."""
        return torch.cat([reference, query], dim=self.dim) if query.numel() else reference

    def right_inverse(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two parts."""
        sizes = [self.reference, whole.shape[self.dim] - self.reference]
        reference, query = torch.split(whole, sizes, dim=self.dim)
        return reference.clone(), query.clone()


class Parts(NamedTuple):
    """The two parameters of something that surgery grows, both with the categories along ``dim``."""

    reference: nn.Parameter
    query: nn.Parameter
    dim: int


def divide(module: nn.Module, name: str, *, reference: int, dim: int) -> Parts:
    """Make two parameters of one, in place: that of the reference's categories and that of the query's.

    ``getattr(module, name)`` is still the whole, and assigning to it sets both.
    """
    parametrize.register_parametrization(module, name, _Joined(reference, dim))
    return parts(module, name)


def parts(module: nn.Module, name: str) -> Parts:
    """Return the two parameters that :func:`divide` made of one."""
    pair: Any = module.parametrizations[name]  # type: ignore[index]
    return Parts(pair.original0, pair.original1, pair[0].dim)

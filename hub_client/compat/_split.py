"""scvi-tools' modules with the categories' weights in products of their own.

scvi-tools multiplies values and one-hot vectors in one product. Surgery adds columns to it, and a wider product may be
summed in another order: on some processors reference cells then move by a rounding error. Here the product of the
values has the same operands before and after surgery, and a product with a one-hot vector is exact whatever its width,
so that nothing moves on any processor. Weights keep scvi-tools' names and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitLinear(nn.Linear):
    """A linear map of values and then a one-hot vector for each key, ``(..., values and categories)`` to outputs.

    Parameters
    ----------
    linear
        The map in one product, whose parameters are used, not copied.
    categories
        The length of each key's one-hot vector.
    """

    def __init__(self, linear: nn.Linear, categories: Sequence[int]) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.widths = [linear.in_features - sum(categories), *categories]

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs: the values' product, and each key's row added in its order."""
        values, *one_hot = torch.split(input, self.widths, dim=-1)
        weight, *rows = torch.split(self.weight, self.widths, dim=1)
        out = F.linear(values.contiguous(), weight.contiguous(), self.bias)
        for given, row in zip(one_hot, rows, strict=True):
            out = out + F.linear(given, row)
        return out


def stacks(module: nn.Module) -> dict[str, Any]:
    """Return scvi-tools' layers that read categorical keys, by path."""
    return {path: layers for path, layers in module.named_modules() if getattr(layers, "n_cat_list", ())}


def injected(layers: Any) -> dict[str, Any]:
    """Return the parts whose first map reads one-hot vectors, by name."""
    named = layers.fc_layers.named_children()
    return {name: part for index, (name, part) in enumerate(named) if layers.inject_into_layer(index)}


class OneCellNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a minibatch of one cell, which has no variance: by the running statistics.

    Parameters
    ----------
    norm
        The normalisation whose parameters and statistics are used, not copied.
    """

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def forward(self, input: Tensor) -> Tensor:
        """Return the cells normalised, ``(cells, width)``."""
        if not self.training or len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def take_one_cell(module: nn.Module) -> None:
    """Let a module train on minibatches of one cell, in place: the last of an epoch is one where a cell is left."""
    for parent in [*module.modules()]:
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                setattr(parent, name, OneCellNorm(child))


def taking_one_cell(plan_class: Any) -> Any:
    """Return scvi-tools' class of training plans, with an adversary of the batches that takes one cell."""

    class OneCell(plan_class):  # type: ignore[misc]
        @wraps(plan_class.__init__)  # type: ignore[misc]  # as in splitting()
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            take_one_cell(self)

    return OneCell


def splitting(module_class: Any) -> Any:
    """Return scvi-tools' class of modules, with maps that read one-hot vectors split when one is made."""

    class Split(module_class):  # type: ignore[misc]
        @wraps(module_class.__init__)  # type: ignore[misc]  # scvi-tools looks at its parameters
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            take_one_cell(self)
            for layers in stacks(self).values():
                for part in injected(layers).values():
                    part[0] = SplitLinear(part[0], [width for width in layers.n_cat_list if width])

    return Split

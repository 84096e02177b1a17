"""Proximal operators: penalties that make weights exactly zero, applied in place after an optimiser step.

As in expiMap (Lotfollahi et al. 2023, doi:10.1038/s41556-022-01072-x); Parikh and Boyd 2014 (doi:10.1561/2400000003),
sections 6.5.1 and 6.5.4.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def group_lasso_(weight: Tensor, strength: float, *, scale: Tensor | None = None) -> None:
    """Shorten every column of ``weight`` by ``strength``; a column no longer than that becomes zero.

    Parameters
    ----------
    weight
        ``(genes, terms)``, changed in place.
    strength
        What each column's L2 norm loses: the penalty's weight times the current learning rate.
    scale
        Multiplies ``strength`` term by term, ``(terms,)``; 1 if not given.
    """
    lost = strength if scale is None else strength * scale
    weight.mul_((1 - lost / weight.norm(dim=0)).clamp_(min=0).nan_to_num_(nan=0.0))


@torch.no_grad()
def soft_threshold_(weight: Tensor, threshold: float, *, allowed: Tensor | None = None) -> None:
    """Move every weight by ``threshold`` towards zero, and to zero if it is nearer than that.

    Parameters
    ----------
    weight
        Changed in place.
    threshold
        The penalty's weight times the current learning rate.
    allowed
        Same shape; weights where it is not zero are left alone (expiMap's soft mask: genes the annotation names).
    """
    shrunk = torch.nn.functional.softshrink(weight, threshold)
    weight.copy_(shrunk if allowed is None else torch.where(allowed == 0, shrunk, weight))

"""Label prototypes in a latent: De Donno 2023, doi 10.1038/s41592-023-02035-2, Methods."""

from __future__ import annotations

import torch
from torch import Tensor

from hub_client.nn import losses
from hub_client.nn.layers import Axis, NamedModule


class PrototypeTable(NamedModule):
    """One label level's prototypes: mean, covariance and number of the cells behind each label.

    After surgery the first ``frozen`` labels, the reference's, stay where they are.
    """

    means: Tensor
    covariances: Tensor
    cells: Tensor

    def __init__(self, labels: Axis, latent: Axis, *, frozen: int) -> None:
        super().__init__()
        self._axes = (labels.name, latent.name)
        self.frozen = frozen
        self.register_buffer("means", torch.zeros(labels.size, latent.size))
        self.register_buffer("covariances", torch.zeros(labels.size, latent.size, latent.size))
        self.register_buffer("cells", torch.zeros(labels.size))

    @torch.no_grad()
    def place(self, latent: Tensor, codes: Tensor) -> None:
        """Put each movable prototype at the mean of its cells; a label without cells keeps what it has."""
        for code in torch.unique(codes[codes >= self.frozen]).tolist():
            members = latent[codes == code]
            self.means[code] = members.mean(0)
            self.measure(members, code=code)

    @torch.no_grad()
    def measure(self, members: Tensor, *, code: int) -> None:
        """Record the covariance and number of a label's cells, ``(members, latent)``."""
        self.covariances[code] = losses.covariance(members) if len(members) > 1 else 0.0
        self.cells[code] = max(len(members), 1)

    def loss(self, z: Tensor, codes: Tensor) -> Tensor:
        """Return the sum over labels of the mean distance of their cells to their prototype (De Donno 2023, eq. 6)."""
        known = (codes >= 0) & (self.cells[codes.clamp(min=0)] > 0)
        z, codes = z[known], codes[known]
        distance = torch.linalg.vector_norm(z - self.means[codes], dim=1)
        per_label = torch.bincount(codes, minlength=len(self.cells)).clamp(min=1)
        total: Tensor = (distance / per_label[codes]).sum()
        return total

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of means, covariances and cell numbers."""
        labels, latent = self._axes
        return {"means": (labels, latent), "covariances": (labels, latent, latent), "cells": (labels,)}


def unlabelled_loss(z: Tensor, prototypes: Tensor) -> Tensor:
    """Return the mean, over prototypes that are some cell's nearest, of their cells' mean distance (latent units)."""
    distance, nearest = torch.cdist(z, prototypes).min(dim=1)
    members = torch.bincount(nearest, minlength=len(prototypes))
    per_cell = 1.0 / (members.clamp(min=1)[nearest] * (members > 0).sum())
    return (distance * per_cell).sum()

"""Label prototypes in a latent: De Donno 2023, doi 10.1038/s41592-023-02035-2, Methods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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

    def contrast(self, z: Tensor, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of labels under unit Gaussians at the prototypes (nats, mean over labelled cells).

        Where :meth:`loss` pulls cells to their own prototype, this pushes them from the others: Snell, Swersky and
        Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, eq. 2, with half the squared distance.
        """
        placed = self.cells > 0
        known = (codes >= 0) & placed[codes.clamp(min=0)]
        if not bool(known.any()):
            return z.new_zeros(())
        columns = torch.cumsum(placed, 0) - 1
        logits = -0.5 * torch.cdist(z[known], self.means[placed]).square()
        found: Tensor = F.cross_entropy(logits, columns[codes[known]], label_smoothing=label_smoothing)
        return found

    @property
    def label_frequencies(self) -> Tensor:
        """Each label's share of the cells behind the prototypes, ``(labels,)``, on the CPU."""
        cells = self.cells.cpu()
        return cells / cells.sum()

    def mahalanobis_squared(self, z: Tensor) -> Tensor:
        """Return squared Mahalanobis distances of points ``(cells, latent)`` to each prototype, ``(cells, labels)``.

        All labels share one covariance, the mean of theirs weighted by their cells: that of linear discriminant
        analysis (Hastie 2009, The Elements of Statistical Learning, section 4.3). To each of its variances 1e-4 of
        their mean is added, for labels of few cells. Labels without a prototype are infinitely far. On the CPU.
        """
        covariances, means = self.covariances.cpu().double(), self.means.cpu().double()
        weights = (self.cells.cpu() - 1).clamp(min=0)
        weights = weights if weights.sum() > 0 else (self.cells.cpu() > 0).to(weights.dtype)
        shared = torch.einsum("k,kij->ij", weights.double() / weights.sum(), covariances)
        ridge = 1e-4 * shared.diagonal().mean() + torch.finfo(torch.float32).tiny
        root = torch.linalg.cholesky(shared + ridge * torch.eye(len(shared), dtype=shared.dtype))
        points, centres = (torch.linalg.solve_triangular(root, x.T, upper=False).T for x in (z.double(), means))
        squared = torch.cdist(points, centres).square().float()
        squared[:, self.cells.cpu() == 0] = torch.inf
        return squared

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

"""scANVI: scVI with a classifier of labels, trained also on cells without one."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from hub_client.data.batches import Batch, Batches
from hub_client.manifest.configs import ScANVIConfig
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Array, Scores, with_sum
from hub_client.models.architectures.scvi.network import ScviTools, terms_of
from hub_client.nn.processes import of_all_cells, of_own_cells
from hub_client.nn.training import Split


class ScANVI(ScviTools):
    """The network a manifest of kind ``scanvi`` describes."""

    kind: ClassVar[str] = "scanvi"
    labels_term: ClassVar[str | None] = "classification"
    config: ScANVIConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._labelled: Labelled | None = None

    def forward(
        self,
        batch: Batch,
        *,
        kl_weight: float = 1.0,
        classification_weight: float = 0.0,
        gene_dropout: float = 0.0,
        sample: bool = True,
    ) -> dict[str, Tensor]:
        """Return scvi-tools' loss and its terms, over cells; the rest as for :meth:`losses`."""
        balance, hidden = (1.0, gene_dropout) if sample else (_balance(batch), 0.0)
        labelled = self._classification(batch, classification_weight * balance, sample=sample, hidden=hidden)
        _, found = self.losses(batch, sample=sample, gene_dropout=gene_dropout, kl_weight=kl_weight, **labelled)
        terms, lost = terms_of(found), found.classification_loss
        lost = torch.zeros_like(terms["kl"]) if lost is None else lost * balance
        return with_sum(found.loss, terms | {"classification": lost})

    def _classification(self, batch: Batch, weight: float, *, sample: bool, hidden: float) -> dict[str, Any]:
        """Return what the classifier's loss reads: labelled cells, in training drawn apart from the minibatch's."""
        drawn = self._labelled.take(len(of_all_cells(batch.index))) if self._labelled and sample else batch
        labelled = drawn.labels[:, 0] >= 0
        read = self.encoder_inputs(drawn, self.inputs(drawn), gene_dropout=hidden)
        inputs = {name: tensor[labelled] for name, tensor in read.items()}
        return {"labelled_tensors": inputs if bool(labelled.any()) else None, "classification_ratio": weight}

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0, the classifier has the plan's."""
        return super().objective(plan, epoch) | {"classification_weight": plan.scanvi.classification_weight}

    def divisible(self, cells: int) -> bool:
        """Return whether as many labelled cells are drawn next, which processes then share as they do the minibatch."""
        drawn = self._labelled
        return drawn is None or (len(drawn.left) or len(drawn.rows)) >= cells

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Draw the labelled cells that the classifier learns from in this epoch."""
        codes = data.labels[:, 0].cpu()
        self._labelled = Labelled.drawn(data.batches, data.train, codes, per_label=plan.scanvi.samples_per_label)

    def after_training(self, plan: Plan, data: Split) -> None:
        """Let go of the data."""
        self._labelled = None

    @torch.no_grad()
    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the classifier's probability of each label at points of the latent, ``(points, latent)``."""
        level = self.manifest.labels[0]
        classifier = self.eval().module.classifier
        outputs = classifier(torch.from_numpy(np.ascontiguousarray(latent, np.float32)).to(self.module.device))
        probabilities = torch.softmax(outputs, dim=1) if classifier.logits else outputs
        return {level.key: Scores(level.categories, probabilities.cpu().numpy(), "probability")}


def _balance(batch: Batch) -> float:
    """Return the share of cells with labels over that of the whole minibatch, of which a process may have some only.

    Times it, a mean over labelled cells counts for all cells as it does for the process that computes the whole: 1.
    """
    own, whole = ((labels[:, 0] >= 0).float().mean() for labels in (batch.labels, of_all_cells(batch.labels)))
    return float(own / whole.clamp(min=torch.finfo(whole.dtype).tiny))


class Labelled:
    """Labelled cells in random order, again and again."""

    def __init__(self, batches: Batches, rows: Tensor) -> None:
        self.batches = batches
        self.rows = rows
        self.left = rows[:0]

    @classmethod
    def drawn(cls, batches: Batches, train: Tensor, codes: Tensor, *, per_label: int | None) -> Self | None:
        """Return the labelled ones of the cells that train, at most so many of each label; None without any."""
        labels = torch.unique(codes[codes >= 0])
        members = [train[codes == label] for label in labels]
        if per_label is not None:
            members = [rows[torch.randperm(len(rows))[:per_label]] for rows in members]
        return cls(batches, torch.cat(members)) if members else None

    def take(self, count: int) -> Batch:
        """Return the next cells as a minibatch."""
        if not len(self.left):
            self.left = self.rows[torch.randperm(len(self.rows))]
        chosen, self.left = self.left[:count], self.left[count:]
        return self.batches.take(of_own_cells(chosen))

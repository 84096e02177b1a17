"""What encoders read of each cell, made of its counts."""

from __future__ import annotations

import torch
from torch import Tensor

from hub_client.data.batches import Batch, Batches
from hub_client.data.missing_genes import LEAST_SHARE
from hub_client.manifest.configs import EncoderInput
from hub_client.nn.layers import Axis, NamedModule

DEPTH = 1e4
"""The counts that every cell is scaled to before the logarithm."""


class ExpressionInput(NamedModule):
    """A cell's expression as the encoder's first layer reads it.

    Parameters
    ----------
    genes
        The axis of genes.
    reads
        ``log1p`` counts, or ``centred``: log1p counts per ten thousand, less each gene's mean over the reference. A
        gene that the data did not measure is read as that mean then, and the cell as deep as if it had been measured.
    counts
        Whether cells hold counts; log1p values are read as they are, or centred.
    observed
        Whether every cell's size factor was observed: its depth then; else that is its counts in these genes.
    """

    centre: Tensor

    def __init__(self, genes: Axis, *, reads: EncoderInput, counts: bool, observed: bool = False) -> None:
        super().__init__()
        self.reads, self.counts, self.observed = reads, counts, observed
        if reads == "centred":
            self.register_buffer("centre", torch.zeros(genes.size))

    def forward(self, batch: Batch) -> Tensor:
        """Return ``(cells, genes)``."""
        found = batch.dense(self._values(batch))
        if self.reads == "log1p":
            return found
        centred = found - self.centre
        return centred if batch.unmeasured is None else centred.index_fill_(1, batch.unmeasured, 0)

    def _values(self, batch: Batch) -> Tensor:
        """Return what is read of each stored entry, before it is centred, ``(counts,)``."""
        if not self.counts:
            return batch.values
        if self.reads == "log1p":
            return torch.log1p(batch.values)
        scale = DEPTH / self._depth(batch)
        return torch.log1p(batch.values * scale.index_select(0, batch.nonzero.rows))

    def _depth(self, batch: Batch) -> Tensor:
        """Return the counts of each cell as if all genes had been measured, ``(cells,)``.

        Those of the measured ones are as large a part of them as the reference's typical cell has there, whose counts
        the centre tells. Not its mean cell's, of which the mean of logarithms is no part.
        """
        if self.observed:
            return batch.size_factor.clamp(min=torch.finfo(torch.float32).tiny)
        if batch.unmeasured is None:
            return batch.depth
        typical = torch.expm1(self.centre)
        lost = typical.index_select(0, batch.unmeasured).sum() / typical.sum().clamp(min=LEAST_SHARE)
        return batch.depth / (1 - lost).clamp(min=LEAST_SHARE)

    @torch.no_grad()
    def look_at(self, batches: Batches, *, index: Tensor) -> None:
        """Take the mean of each gene over the reference's cells at ``index``, unless it was taken before.

        A centre of zero is one that was not taken: training that failed puts it back, and is not the first then.
        """
        if self.reads == "centred" and not bool(self.centre.any()):
            total = torch.zeros_like(self.centre, dtype=torch.float64)
            for batch in batches.in_order(1024, index=index):
                total.index_add_(0, batch.nonzero.columns, self._values(batch).double())
            self.centre.copy_(total / max(len(index), 1))

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis of the centre, where there is one."""
        return {"centre": ("genes",)} if self.reads == "centred" else {}

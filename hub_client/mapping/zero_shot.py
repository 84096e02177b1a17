"""zero_shot(): how some of a query's cells lie in a reference without any training: new, unsure, reconstructed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.labels.novelty import FOREIGN_ABOVE, novelty
from hub_client.labels.predict import predict
from hub_client.labels.verdict import Check, Colour, verdict
from hub_client.mapping.map_query import needs_surgery
from hub_client.models.architectures import Decoded
from hub_client.models.model import Model
from hub_client.models.surgery import surgery

LEAST_SHARED = 50
"""Genes that the models tried and the query need in common for reconstruction to be compared."""
MIXED_IN = 1e-3
"""Share of the query's own mean profile in what a model expects: a gene that it does not expect costs no infinity."""
_FAR = ("beyond the atlas", "uncertainty")
"""Checks of a verdict of which one has to object, too, before a high foreign score means a foreign query: another
technology alone can raise it."""


@dataclass(frozen=True)
class ZeroShot:
    """How a query's sample lies in a reference.

    Attributes
    ----------
    weighted_coverage
        Share of what the encoder reads that the query measured; None where that is not known.
    novel
        Share of cells that are novel; None for a release without its reference's expression.
    declared
        The share of known cells that is called novel; None as before.
    foreign_score
        How far the query as a whole is from the reference; None as before.
    beyond_atlas
        Share of cells farther from the reference's cells than 95 % of these are from each other; None without an atlas.
    uncertainty
        The mean uncertainty of labels; None for a model without.
    verdict, objections
        Its colour, and what is against the mapping, the worst first.
    reconstruction
        By how many nats a count what the model expects of a cell is nearer to it than the query's own mean profile;
        None where too few genes are shared.
    """

    weighted_coverage: float | None
    novel: float | None
    declared: float | None
    foreign_score: float | None
    beyond_atlas: float | None
    uncertainty: float | None
    verdict: Colour
    objections: tuple[Check, ...]
    reconstruction: float | None

    @property
    def foreign(self) -> bool:
        """Whether the query is foreign to the reference: far as a whole, and by another sign, too."""
        far = self.foreign_score is not None and self.foreign_score > FOREIGN_ABOVE
        return far and any(check.name in _FAR for check in self.objections)

    @property
    def suits(self) -> bool:
        """Whether nothing forbids the mapping: the verdict is not red and the query not foreign."""
        return self.verdict != "red" and not self.foreign

    @property
    def apart(self) -> float:
        """Share of cells that the reference does not seem to hold: novel ones, or those beyond the atlas; 0 unknown."""
        return next((share for share in (self.novel, self.beyond_atlas) if share is not None), 0.0)


def zero_shot(
    model: Model, query: AnnData, *, layer: str | None, columns: NDArray[np.int64], seed: int, device: str
) -> ZeroShot:
    """Return how a query's sample lies in a reference, with room made for its conditions and nothing trained.

    Parameters
    ----------
    model
        The reference; it is not changed.
    query
        The sample, in memory.
    layer
        As for :func:`hub_client.align`.
    columns
        The places in the model's panel of the genes by which reconstructions are compared.
    seed
        Of whatever is drawn.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    AlignmentError, VocabularyError, Unsupported
        As :func:`hub_client.align` and :func:`hub_client.surgery`.
    """
    cells = align(query, model, layer=layer)
    if needs_surgery(model, cells):
        model = surgery(model, cells, seed=seed, device=device)
    predictions = predict(model, cells, device=device)
    strange = novelty(model, cells, predictions=predictions, seed=seed)
    judged = verdict(model, cells, predictions=predictions, novelty=strange, seed=seed)
    values = {check.name: check.value for check in judged.checks}
    with model.on(device):
        nearer = reconstruction(model, cells, columns, seed=seed)
    return ZeroShot(
        weighted_coverage=cells.report.weighted_coverage,
        novel=None if strange is None else float(strange.novel.mean()),
        declared=None if strange is None else strange.declared,
        foreign_score=None if strange is None else strange.foreign_score,
        beyond_atlas=values["beyond the atlas"],
        uncertainty=values["uncertainty"],
        verdict=judged.colour,
        objections=judged.objections,
        reconstruction=nearer,
    )


@torch.no_grad()
def reconstruction(
    model: Model, cells: Cells, columns: NDArray[np.int64], *, seed: int, batch_size: int = 256
) -> float | None:
    """Return by how many nats a count a model's expectation of a cell is nearer to it than the query's mean profile.

    Of each cell, what was counted and what the model expects at a point of the cell's posterior are taken as shares of
    the same genes, so that neither depth nor the size of a panel counts; likelihoods themselves are comparable between
    models of one panel alone. The number is the mean over cells of the multinomial log-likelihood for each count, less
    that of the mean over cells: 0 is no better than to expect the average cell everywhere.

    Parameters
    ----------
    model
        A model that knows the cells' conditions.
    cells
        As the model reads them.
    columns
        Places in its panel, ``(genes,)``: the same genes in the same order for every model that is compared.
    seed
        Of the points that are drawn.
    batch_size
        Cells at a time: memory is that of so many dense rows.

    Returns
    -------
    float or None
        None for fewer than 50 genes, or no cell with counts in them.
    """
    logs = model.manifest.input.kind == "log1p"
    observed = cells.x[:, columns].toarray().astype(np.float64)
    observed = np.expm1(observed) if logs else observed
    kept = np.flatnonzero(observed.sum(axis=1) > 0)
    if len(columns) < LEAST_SHARED or not len(kept):
        return None
    shares = observed[kept] / observed[kept].sum(axis=1, keepdims=True)
    mean, network = shares.mean(axis=0), model.network.eval()
    found, place = np.empty(len(kept)), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in network.batches(cells.rows(kept)).in_order(batch_size):
            decoded = network.decode(batch, network.drawn_latent(batch))
            expected = _shares(_expected(decoded, logs=logs)[:, columns].double().cpu().numpy(), mean)
            rows = slice(place, place + len(expected))
            found[rows], place = _nearer(shares[rows], expected, mean), rows.stop
    return float(found.mean())


def _expected(decoded: Decoded, *, logs: bool) -> Tensor:
    """Return the counts that are expected of each cell, up to a factor, ``(cells, genes)``."""
    mean = decoded.mean if decoded.dropout_logits is None else decoded.mean * torch.sigmoid(-decoded.dropout_logits)
    return mean.clamp(0, 20).expm1() if logs else mean.clamp(min=0)


def _shares(expected: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = np.maximum(expected.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    mixed: NDArray[np.float64] = (1 - MIXED_IN) * expected / totals + MIXED_IN * mean
    return mixed


def _nearer(
    shares: NDArray[np.float64], expected: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each cell's gain over the mean profile; genes without any count in the query have no part in it."""
    counted = mean > 0
    found: NDArray[np.float64] = (shares[:, counted] * np.log(expected[:, counted] / mean[counted])).sum(axis=1)
    return found

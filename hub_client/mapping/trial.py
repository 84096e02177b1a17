"""Whether training on a query earns its time: what a short trial does to some of its cells that the trial holds back.

The rows of new conditions are all that trains after surgery. In most mappings they move cells in the latent by less
than a tenth of the cells' spread, and no label changes (docs/latents.md has the figures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hub_client.data.cells import Cells
from hub_client.labels.neighbors import nearest
from hub_client.manifest.plan import Plan
from hub_client.models.architectures import Array, Network
from hub_client.models.model import Model
from hub_client.nn.training import Runtime, restore
from hub_client.release.atlas_file import LATENT

CELLS = 512
"""How many cells take part in a trial, at most; a quarter of them is held back."""
LEAST_CELLS = 16
"""Of fewer, a quarter has no spread to compare with, and a trial would tell nothing."""
STEPS = 40
"""How many steps a trial takes, at most; what it moves is taken to grow in proportion to the steps."""
LEAST_MOVED = 0.1
"""Share of their spread by which training has to move cells that it did not see, to be worth its time."""
LEAST_CLOSER = 0.02
"""Share by which it has to shorten their distance to the reference."""
NEIGHBOURS = 15
UNNEEDED = "training would not have helped"


@dataclass(frozen=True)
class Decision:
    """Whether a query's rows are trained, and why.

    Attributes
    ----------
    train
        Whether they are.
    reason
        Why, in words that follow a colon.
    moved
        How far the whole training would move cells that it does not see, at most, as a share of their spread in the
        latent; None where nothing was tried.
    """

    train: bool
    reason: str
    moved: float | None = None

    @property
    def stated(self) -> str:
        """What was decided and why, in words."""
        return f"{'trained' if self.train else 'none'}, {self.reason}"


def decide(model: Model, cells: Cells, *, plan: Plan, seed: int, runtime: Runtime) -> Decision:
    """Return whether to train what surgery added to a model, by a trial on some of the query's cells.

    Parameters
    ----------
    model
        From :func:`hub_client.surgery`; it is as it was afterwards.
    cells
        The query.
    plan
        How it would be trained.
    seed
        Of the cells that are drawn, and of training.
    runtime
        Where the trial runs.
    """
    if plan.scpoli.unlabelled_weight or _learns_labels(model, cells):
        return Decision(True, "the query brings labels or clusters of its own, which are learned")
    if not plan.epochs:
        return Decision(False, "the plan for queries has no epochs")
    if len(cells) < LEAST_CELLS:
        return Decision(False, f"too few cells to try it on: {len(cells)} of {LEAST_CELLS}")
    if not _reaches_latent(model.network, cells):
        return Decision(False, f"{UNNEEDED}: the encoder does not read conditions, so no cell would move", 0.0)
    drawn = np.random.default_rng(seed).permutation(len(cells))[:CELLS]
    held, tried = (cells.rows(np.sort(part)) for part in np.split(drawn, [-(-len(drawn) // 4)]))
    before, after, share = _tried(model, held, tried, plan=_short(plan, len(cells)), seed=seed, runtime=runtime)
    moved = _moved(before, after) / share
    if moved < LEAST_MOVED:
        return Decision(False, f"{UNNEEDED}: it would move cells by {moved:.1%} of their spread in the latent", moved)
    closer = _closer(model, before, after)
    if closer is None:
        return Decision(True, f"it moves cells by {moved:.0%} of their spread in the latent", moved)
    if closer < LEAST_CLOSER:
        return Decision(False, f"{UNNEEDED}: it would bring cells no closer to the reference's", moved)
    return Decision(True, f"a trial brought cells that it did not see {closer:.0%} closer to the reference's", moved)


@dataclass(frozen=True)
class _Short:
    """A trial's plan, and what share of the whole training's steps it takes."""

    plan: Plan
    share: float


def _short(plan: Plan, cells: int) -> _Short:
    steps = max(plan.over(cells).epochs * math.ceil(plan.cells_an_epoch(cells) / plan.batch_size), 1)
    taken = min(STEPS, steps)
    alone = {"early_stopping": None, "keep_best": False, "validation_fraction": 0.0}
    return _Short(plan.changed(steps=taken, **alone), taken / steps)


def _tried(
    model: Model, held: Cells, tried: Cells, *, plan: _Short, seed: int, runtime: Runtime
) -> tuple[Array, Array, float]:
    """Return where held cells lie before and after a trial, and what share of the steps it took; the model stays."""
    network, quiet = model.network, replace(runtime, progress=False)
    before = network.embed(held)
    kept = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    try:
        if network.fit(tried, plan.plan, seed=seed, runtime=quiet).stopped == "interrupted":
            raise KeyboardInterrupt  # who stops a trial stops the mapping
        after = network.embed(held)
    finally:
        restore(network, kept | buffers)
    return before, after, plan.share


def _learns_labels(model: Model, cells: Cells) -> bool:
    """Return whether training would learn something of the cells' labels: new ones, or where those cells lie."""
    if not cells.labels or model.network.labels_term is None:
        return False
    axes = model.vocabulary.labels.values()
    return any(axis.reference < len(axis) for axis in axes) or _reaches_latent(model.network, cells)


def _reaches_latent(network: Network, cells: Cells) -> bool:
    """Return whether anything that would train has a say in where cells lie."""
    network.eval()
    few = cells.rows(_one_of_each(cells))
    with torch.enable_grad():
        mean, _ = network.encode(next(network.batches(few).in_order(len(few))))
        moving = network.moving()
        if not mean.requires_grad or not moving:
            return False
        found = torch.autograd.grad(mean.square().sum(), moving, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


def _one_of_each(cells: Cells) -> NDArray[np.int64]:
    """Return the row of a cell of every category of every condition, sorted: every new row is some cell's."""
    first = [np.unique(names, return_index=True)[1] for names in cells.conditions.values()]
    found: NDArray[np.int64] = np.unique(np.concatenate(first))
    return found


def _moved(before: Array, after: Array) -> float:
    """Return how far cells moved on average, over their mean distance from their centre."""
    spread = float(np.linalg.norm(before - before.mean(0), axis=1).mean())
    return float(np.linalg.norm(after - before, axis=1).mean()) / max(spread, float(np.finfo(np.float32).tiny))


def _closer(model: Model, before: Array, after: Array) -> float | None:
    """Return by what share cells came closer to their nearest reference cells; None for a model without an atlas."""
    if model.atlas is None:
        return None
    points = np.asarray(model.atlas.obsm[LATENT], dtype=np.float32)
    old, new = (_distance(points, latent[:, : points.shape[1]]) for latent in (before, after))
    return 1 - new / old if old else 0.0


def _distance(points: Array, latent: Array) -> float:
    return float(nearest(points, latent, neighbors=min(NEIGHBOURS, len(points))).distances.mean())

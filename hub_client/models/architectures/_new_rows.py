"""How the rows of new categories start: at random, at the reference's mean, or from the category that fits best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Axis, Vocabulary

if TYPE_CHECKING:
    from hub_client.models.architectures._network import Network

CELLS_PER_TRIAL = 2000
"""How many cells of a new category are tried under each reference category."""
Sources = dict[str, dict[int, int]]
"""For each axis, the position of a new entry among the new ones to the reference's entry that it starts from."""


@torch.no_grad()
def _mean(old: Network, new: Network, cells: Cells, seed: int) -> dict[str, str]:
    for part in (part for parts in new.growing().values() for part in parts):
        part.query.copy_(part.reference.mean(part.dim, keepdim=True).expand_as(part.query))
    return {}


@torch.no_grad()
def _best(old: Network, new: Network, cells: Cells, seed: int) -> dict[str, str]:
    """Start each new row from the reference's that reconstructs its cells best; without cells, from the mean."""
    _mean(old, new, cells, seed)
    sources, growing = old.best_sources(new.vocabulary, cells, seed=seed), new.growing()
    for axis, codes in sources.items():
        for part in growing.get(axis, []):
            for offset, code in codes.items():
                part.query.select(part.dim, offset).copy_(part.reference.select(part.dim, code))
    return {
        f"{key}={names.new[offset]}": names.names[code]
        for axis, (key, names) in _by_axis(new.vocabulary).items()
        for offset, code in sources.get(axis, {}).items()
    }


START: Mapping[str, Callable[[Network, Network, Cells, int], dict[str, str]]] = {
    "random": lambda *_: {},
    "mean": _mean,
    "best": _best,
}


def _by_axis(vocabulary: Vocabulary) -> dict[str, tuple[str, Axis]]:
    """Return every categorical key and its names, by the axis that tensors have."""
    found = {f"conditions.{key}": (key, names) for key, names in vocabulary.conditions.items()}
    return found | {f"categorical.{key}": (key, names) for key, names in vocabulary.covariates.items()}


def by_key(old: Network, new: Vocabulary, cells: Cells, seed: int) -> Sources:
    """Return the best sources of new categories, one key after another."""
    before = _by_axis(old.vocabulary)
    known = {key: cells.conditions[key].astype(object) for key, _ in before.values()}
    for key, names in before.values():
        known[key][~np.isin(known[key], names.names)] = names.names[0]
    found: Sources = {axis: {} for axis in before}
    for axis, (key, names) in _by_axis(new).items():
        categories = before[axis][1].names
        for offset, name in enumerate(names.new):
            rows = np.flatnonzero(cells.conditions[key] == name)
            if len(rows):
                tried = replace(cells, conditions=cells.conditions | known).rows(drawn(rows, seed))
                best = int(old.trial_losses(tried, [{key: category} for category in categories]).argmin())
                known[key][rows] = categories[best]
                found[axis][offset] = best
    return found


def by_combination(old: Network, new: Vocabulary, cells: Cells, seed: int) -> Sources:
    """Return the best sources of new combinations of conditions, and of the categories that occur in them."""
    known, rows = old.vocabulary.combinations, new.combinations
    trials = [dict(zip(new.conditions, names, strict=True)) for names in known]
    codes = new.combination_codes(new.condition_codes(cells.conditions))
    losses: dict[int, NDArray[np.float64]] = {}
    for code in sorted(set(codes[codes >= len(known)].tolist())):
        losses[code] = old.trial_losses(cells.rows(drawn(np.flatnonzero(codes == code), seed)), trials)
    found: Sources = {"combinations": {code - len(known): int(loss.argmin()) for code, loss in losses.items()}}
    for position, (key, names) in enumerate(new.conditions.items()):
        found[f"conditions.{key}"] = {}
        for offset, name in enumerate(names.new):
            seen = [loss for code, loss in losses.items() if rows[code][position] == name]
            if seen:
                source = known[int(np.mean(seen, axis=0).argmin())][position]
                found[f"conditions.{key}"][offset] = names.names.index(source)
    return found


def drawn(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the rows that are tried, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:CELLS_PER_TRIAL])

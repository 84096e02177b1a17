"""What models of a reference say of a batch, or a study, that they were not trained on.

Cells that are held out of every batch are easier than another study's: a model has seen their batch. What is fitted to
them, such as a temperature, is too sure of itself elsewhere. So each batch of the reference is left out in turn, a
model is trained on the rest and the batch is mapped onto it, as a query is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub_client.data.cells import Cells
from hub_client.labels.rules import Evidence
from hub_client.labels.transfer import evidence
from hub_client.manifest.v1 import Condition, Manifest
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery

MOST = 5
"""Parts that are left out in turn, at most: of more batches several are left out together."""
LEAST_STUDIES = 3
"""Studies from which whole studies are left out. Of two, a model without one has seen one alone, and what is fitted to
such models was further from the truth on other queries than what is fitted to left-out batches
(docs/label-transfer.md)."""
LEAST_CELLS = 20
"""Labelled cells of a part, and of the rest, from which it is left out."""


@dataclass(frozen=True)
class LeftOut:
    """A part of a reference, seen by a model of the rest."""

    name: str
    """What was left out."""
    model: Model
    """Trained on the rest, and grown by surgery to take the part in; nothing was trained on the part."""
    reference: Cells
    """All of it: one for all parts, so that several of them need no more memory."""
    inside: NDArray[np.bool_]
    """Which of the reference's cells are left out, ``(cells,)``."""
    cells: Cells
    """The part, with its labels."""
    evidence: dict[str, Evidence]
    """Of the part's cells, by label level."""

    @property
    def training(self) -> Cells:
        """The rest."""
        return self.reference.rows(~self.inside)

    def truth(self, level: str) -> NDArray[np.str_]:
        """Return the label of each cell of the part, ``(cells,)``; "" where the rest has no such cell."""
        names, known = self.cells.labels[level], self.reference.labels[level][~self.inside]
        return np.where(np.isin(names, known), names, "").astype(str)

    def tells(self, level: str) -> bool:
        """Return whether some cell of the part has a label of this level that the rest has, too."""
        return level in self.evidence and bool((self.truth(level) != "").any())


def parts(cells: Cells, model: Model, *, studies: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """Return the parts that are left out in turn, by name: which cells each has, ``(cells,)``; none of one batch alone.

    Parameters
    ----------
    cells
        The reference.
    model
        A model of it, whose first condition is taken for the batch.
    studies
        The study of each cell, ``(cells,)``.
    """
    batches = np.asarray(cells.conditions[model.manifest.conditions[0].key], dtype=str)
    by_study = len(set(studies)) >= LEAST_STUDIES and not _shared(batches, studies)
    groups = studies if by_study else batches
    found = {" and ".join(names): np.isin(groups, names) for names in _merged(groups)}
    return {name: inside for name, inside in found.items() if _enough(cells, inside)} if len(found) > 1 else {}


def left_out(
    model: Model,
    cells: Cells,
    *,
    chosen: dict[str, NDArray[np.bool_]],
    fitted: Callable[[Model, Cells], Model],
    seed: int,
    device: str = "auto",
) -> Iterator[LeftOut]:
    """Return each part as a model of the rest sees it, one after the other.

    Parameters
    ----------
    model
        A model of the reference, with the rules by which labels are transferred.
    cells
        The reference, with labels.
    chosen
        From :func:`parts`.
    fitted
        Trains a new model on cells, and gives it what its labels are transferred from.
    seed
        Of first weights and surgery.
    device
        Where cells are embedded.
    """
    for name, inside in chosen.items():
        rest, part = cells.rows(~inside), cells.rows(inside)
        reference = fitted(Model.build(_without(model.manifest, rest, part), seed=seed), rest)
        grown = surgery(reference, part.relabelled({}), seed=seed, device=device)
        found = evidence(grown, embed(grown, part, device=device), cells=part)
        yield LeftOut(name, grown, cells, inside, part, found)


def _shared(batches: NDArray[np.str_], studies: NDArray[np.str_]) -> bool:
    """Return whether some batch is in several studies."""
    pairs = set(zip(batches.tolist(), studies.tolist(), strict=True))
    return len(pairs) > len(set(batches.tolist()))


def _merged(groups: NDArray[np.str_]) -> list[list[str]]:
    """Return the names of groups, those of many put together so that all parts have about as many cells."""
    names, sizes = np.unique(groups, return_counts=True)
    bins: list[list[str]] = [[] for _ in range(min(MOST, len(names)))]
    cells = np.zeros(len(bins))
    for index in np.argsort(-sizes, kind="stable"):
        smallest = int(cells.argmin())
        bins[smallest].append(str(names[index]))
        cells[smallest] += sizes[index]
    return sorted(sorted(names) for names in bins)


def _enough(cells: Cells, inside: NDArray[np.bool_]) -> bool:
    labelled = [names != "" for names in cells.labels.values()]
    return any(min((known & inside).sum(), (known & ~inside).sum()) >= LEAST_CELLS for known in labelled)


def _without(manifest: Manifest, rest: Cells, part: Cells) -> Manifest:
    """Return the manifest of a model that knows the rest's categories alone."""
    changes: dict[str, Any] = {"conditions": tuple(_seen(c, rest) for c in manifest.conditions), "tensors": ()}
    categorical = tuple(_seen(c, rest) for c in manifest.covariates.categorical)
    changes["covariates"] = manifest.covariates.model_copy(update={"categorical": categorical})
    changes["trust"] = manifest.trust.model_copy(update={"classifiers": (), "novelty": None})
    if manifest.combinations:
        keys = [c.key for c in manifest.conditions]
        seen = set(zip(*(rest.conditions[key].tolist() for key in keys), strict=True))
        changes["combinations"] = tuple(c for c in manifest.combinations if tuple(c.values) in seen)
    if manifest.proteins is not None:
        gone = _gone(manifest, rest, part)
        measured = {batch: names for batch, names in manifest.proteins.measured.items() if batch not in gone}
        changes["proteins"] = manifest.proteins.model_copy(update={"measured": measured})
    return manifest.changed(**changes)


def _seen(condition: Condition, cells: Cells) -> Condition:
    """Return a condition with the cells' categories alone, which takes in what is left out whatever the recipe says."""
    there = set(cells.conditions[condition.key].tolist())
    seen = tuple(name for name in condition.categories if name in there)
    return condition.model_copy(update={"categories": seen, "unknown": "extend"})


def _gone(manifest: Manifest, rest: Cells, part: Cells) -> set[str]:
    """Return the batches that the rest does not have."""
    key = manifest.conditions[0].key
    return set(part.conditions[key].tolist()) - set(rest.conditions[key].tolist())


def joined(found: Sequence[LeftOut], level: str) -> tuple[Evidence, NDArray[np.str_], NDArray[np.str_]]:
    """Return the evidence of all parts for one level, the cells' labels and the part that each is of, ``(cells,)``.

    A label that a part's rest has not is no label here: its model could not have told.
    """
    truth = np.concatenate([one.truth(level) for one in found])
    part = np.concatenate([np.full(len(one.cells), one.name) for one in found])
    return Evidence.joined([one.evidence[level] for one in found]), truth, part

"""latent_labels(): what cells are called by where they lie in the latent, and by nothing else.

A level's own rule of transfer may read expression beside the latent, as the consensus does, and then says little of how
good the latent is. This rule is the same for every model, so that models can be compared, and a latent that does not
keep labels apart is seen: the nearest cells of the atlas vote; without an atlas the nearest prototype decides; without
prototypes the network's own classifier of the latent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hub_client.labels.rules import Evidence, probabilities
from hub_client.labels.transfer import Atlas, atlas_of
from hub_client.manifest.calibration import Calibration, Transfer
from hub_client.models.architectures import Array
from hub_client.models.model import Model

NEIGHBORS = 15
"""How many cells of the atlas vote on each cell."""
MOST_VOTERS = 5_000
"""Of an atlas with more cells so many take part: the votes then cost no more than a consensus does."""
LEAST_OF_A_LABEL = 50
"""Of each label so many take part, or all: a rare one is not thinned out of the vote."""


def latent_labels(model: Model, level: str, latent: Array, *, evidence: Evidence) -> NDArray[np.object_] | None:
    """Return each cell's label by the latent alone, ``(cells,)``; None where nothing in the model reads the latent.

    Where the level has labelled cells in the model's atlas, the 15 nearest of them vote, as
    :func:`hub_client.labels.neighbors.votes` has it; of an atlas of over 5,000 cells evenly spaced ones take part, and
    at least 50 of each label. Labels that came with a query, and so have a prototype but no cells in the atlas, are
    given where their Gaussian makes them likelier. Without an atlas, the label is that of the nearest prototype;
    without prototypes, that of the network's own classifier of the latent.

    Parameters
    ----------
    model
        The model.
    level
        One of its label levels.
    latent
        Where the cells lie, ``(cells, latent)``.
    evidence
        The level's evidence at these points, from :func:`hub_client.labels.transfer.evidence`.
    """
    atlas = atlas_of(model, level)
    if atlas is not None:
        voters = _voters(atlas)
        votes = voters.votes(latent, neighbors=NEIGHBORS)
        evidence = replace(evidence, votes=votes, reference_frequencies=voters.frequencies)
    rule = _rule(evidence)
    if rule is None:
        return None
    best = probabilities(evidence, Calibration(level=level, transfer=rule, temperature=1.0)).argmax(axis=1)
    labels: NDArray[np.object_] = np.array(evidence.labels, dtype=object)[best]
    return labels


def _rule(evidence: Evidence) -> Transfer | None:
    """Return the rule that holds for a level with such evidence: the first of three whose evidence there is."""
    there = {"neighbors": evidence.votes, "prototypes": evidence.distances, "network": evidence.network}
    rules: tuple[Transfer, ...] = ("neighbors", "prototypes", "network")
    return next((rule for rule in rules if there[rule] is not None), None)


def _voters(atlas: Atlas) -> Atlas:
    """Return the cells of an atlas that take part: all, or of many some, evenly spaced and some of each label."""
    cells = len(atlas.codes)
    if cells <= MOST_VOTERS:
        return atlas
    chosen = np.zeros(cells, dtype=bool)
    chosen[_spaced(np.arange(cells), MOST_VOTERS)] = True
    for code in np.unique(atlas.codes):
        members = np.flatnonzero(atlas.codes == code)
        if chosen[members].sum() < LEAST_OF_A_LABEL:
            chosen[_spaced(members, LEAST_OF_A_LABEL)] = True
    return replace(atlas, latent=atlas.latent[chosen], codes=atlas.codes[chosen], groups=atlas.groups[chosen])


def _spaced(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return so many rows, evenly spaced; all where there are fewer."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, num=min(count, len(rows)), dtype=np.int64))]

"""Label transfer: from points in the latent to the probability of each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from hub_client import errors
from hub_client.architectures import Scores
from hub_client.architectures._base import Array
from hub_client.manifest.v1 import Calibration
from hub_client.model import Model
from hub_client.nn.neighbors import votes
from hub_client.store.reference import LATENT

Probabilities = NDArray[np.float64]
Transfer = Literal["prototypes", "neighbors", "average"]
SMALLEST = 1e-6
"""What a label without a vote counts as, so that its logarithm is finite."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for each label of one level.

    Attributes
    ----------
    labels
        The level's categories, in manifest order.
    distances
        To each label's prototype, ``(cells, labels)``; infinite for a label without one; None without prototypes.
    votes
        Each label's share of the nearest reference cells' votes, ``(cells, labels)``; None without reference cells.
    """

    labels: tuple[str, ...]
    distances: Array | None = None
    votes: Probabilities | None = None

    def rows(self, index: NDArray[np.int64]) -> Evidence:
        """Return the evidence of some cells."""
        distances = None if self.distances is None else self.distances[index]
        return Evidence(self.labels, distances, None if self.votes is None else self.votes[index])


def evidence(model: Model, latent: Array) -> dict[str, Evidence]:
    """Return what speaks for each label of each level at points of the latent, ``(cells, latent)``.

    Levels for which the model has neither prototypes nor reference cells are left out.
    """
    scores = model.network.score(latent)
    found = {
        key: Evidence(axis.names, _distances(scores.get(key)), _votes(model, key, latent, calibration_of(model, key)))
        for key, axis in model.vocabulary.labels.items()
    }
    return {key: level for key, level in found.items() if level.distances is not None or level.votes is not None}


def _distances(scores: Scores | None) -> Array | None:
    return np.asarray(scores.values) if scores is not None and scores.kind == "distance" else None


def _votes(model: Model, level: str, latent: Array, rule: Calibration | None) -> Probabilities | None:
    if model.reference is None or level not in model.reference.obs or (rule and rule.transfer == "prototypes"):
        return None
    axis = model.vocabulary.labels[level]
    names = model.reference.obs[level].astype(object).fillna("").to_numpy(dtype=str)
    labelled = names != ""
    return votes(
        np.asarray(model.reference.obsm[LATENT])[labelled],
        axis.codes(names[labelled]),
        latent,
        neighbors=(rule or DEFAULT).neighbors,
        labels=len(axis),
    )


DEFAULT = Calibration(level="any", temperature=1.0)
"""What holds where nothing was fitted."""
VOTES_ONLY = DEFAULT.model_copy(update={"transfer": "neighbors"})
"""What holds where nothing was fitted and there are no prototypes."""


def calibration_of(model: Model, level: str) -> Calibration | None:
    """Return how a level's evidence becomes probabilities in this model, if that was fitted."""
    return next((c for c in model.manifest.trust.calibrations if c.level == level), None)


def probabilities(found: Evidence, calibration: Calibration | None) -> Probabilities:
    """Return the probability of each label, ``(cells, labels)``; rows sum to 1.

    Without a calibration, distances are taken at temperature 1, and votes where there are no distances.

    Raises
    ------
    Unsupported
        If the calibration asks for evidence that the model does not have.
    """
    rule = calibration or (DEFAULT if found.distances is not None else VOTES_ONLY)
    mixed = TRANSFERS[rule.transfer](found, rule)
    if rule.sharpness == 1:
        return mixed
    sharp: Probabilities = softmax(rule.sharpness * np.log(np.maximum(mixed, SMALLEST)), axis=1)
    return sharp


def uncertainty(found: Evidence, calibration: Calibration | None) -> Probabilities:
    """Return the estimated probability that the best label is wrong, ``(cells,)``, in [0, 1]."""
    confidence = probabilities(found, calibration).max(axis=1)
    if calibration and calibration.distance_scale and found.distances is not None:
        nearest = np.maximum(found.distances.min(axis=1), np.finfo(np.float32).tiny)
        confidence = confidence * np.minimum(1.0, calibration.distance_scale / nearest)
    unsure: Probabilities = np.clip(1.0 - confidence, 0.0, 1.0)
    return unsure


def _prototypes(found: Evidence, rule: Calibration) -> Probabilities:
    if found.distances is None:
        raise _lacking("prototypes")
    near: Probabilities = np.exp(log_softmax(-np.asarray(found.distances, np.float64) / rule.temperature, axis=1))
    return near


def _neighbors(found: Evidence, rule: Calibration) -> Probabilities:
    if found.votes is None:
        raise _lacking("reference cells")
    return found.votes


def _average(found: Evidence, rule: Calibration) -> Probabilities:
    return (_prototypes(found, rule) + _neighbors(found, rule)) / 2


def _lacking(what: str) -> errors.Unsupported:
    return errors.Unsupported(
        f"this model's labels are transferred from {what}, which it does not have; its release is incomplete.",
        kind="transfer",
        verb="predict",
    )


TRANSFERS: Mapping[str, Callable[[Evidence, Calibration], Probabilities]] = {
    "prototypes": _prototypes,
    "neighbors": _neighbors,
    "average": _average,
}

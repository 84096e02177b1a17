"""Label transfer: from points in the latent to the probability of each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client import errors
from hub_client.architectures import Scores
from hub_client.architectures._base import Array
from hub_client.manifest.v1 import Calibration
from hub_client.model import Model
from hub_client.nn.neighbors import votes
from hub_client.store.reference import LATENT

Probabilities = NDArray[np.float64]
SMALLEST = 1e-6
"""What a label without a vote or a share counts as, so that its logarithm is finite."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for each label of one level.

    Attributes
    ----------
    labels
        The level's categories, in manifest order.
    distances
        To each label's prototype, ``(cells, labels)``; infinite for a label without one; None without prototypes.
    deviations
        Squared Mahalanobis distances to each label's prototype, ``(cells, labels)``; None without covariances.
    shares
        Each label's share of the reference's cells, ``(labels,)``; None where that is not known.
    votes
        Each label's share of the nearest reference cells' votes, ``(cells, labels)``; None without reference cells.
    """

    labels: tuple[str, ...]
    distances: Array | None = None
    deviations: Array | None = None
    shares: Array | None = None
    votes: Probabilities | None = None

    def rows(self, index: NDArray[np.int64]) -> Evidence:
        """Return the evidence of some cells."""
        parts = {name: getattr(self, name) for name in ("distances", "deviations", "votes")}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})


def evidence(model: Model, latent: Array) -> dict[str, Evidence]:
    """Return what speaks for each label of each level at points of the latent, ``(cells, latent)``.

    Levels for which the model has neither prototypes nor reference cells are left out.
    """
    scores = model.network.score(latent)
    found = {
        key: replace(
            _by_prototypes(axis.names, scores.get(key)),
            votes=_votes(model, key, latent, calibration_of(model, key)),
        )
        for key, axis in model.vocabulary.labels.items()
    }
    return {key: level for key, level in found.items() if level.distances is not None or level.votes is not None}


def _by_prototypes(labels: tuple[str, ...], scores: Scores | None) -> Evidence:
    if scores is None or scores.kind != "distance":
        return Evidence(labels)
    return Evidence(labels, scores.values, scores.deviations, scores.shares)


def _votes(model: Model, level: str, latent: Array, rule: Calibration | None) -> Probabilities | None:
    if model.reference is None or level not in model.reference.obs or (rule and rule.transfer not in VOTED):
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


VOTED = ("neighbors", "average")
"""The ways of transfer that ask the nearest reference cells."""
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


def logits(found: Evidence, rule: Calibration) -> Probabilities | None:
    """Return the logits of the labels before their temperature, ``(cells, labels)``; None where only votes count."""
    return LOGITS[rule.transfer](found, rule) if rule.transfer in LOGITS else None


def _by_distance(found: Evidence, rule: Calibration) -> Probabilities:
    if found.distances is None:
        raise _lacking("prototypes")
    return -np.asarray(found.distances, np.float64)


def _by_density(found: Evidence, rule: Calibration) -> Probabilities:
    """Return log densities of Gaussians with one covariance plus weighted log shares (Hastie 2009, equation 4.9)."""
    if found.deviations is None or found.shares is None:
        raise _lacking("prototypes with covariances")
    log_shares = np.log(np.maximum(np.asarray(found.shares, np.float64), SMALLEST))
    densities: Probabilities = rule.prior * log_shares - np.asarray(found.deviations, np.float64) / 2
    return densities


LOGITS: Mapping[str, Callable[[Evidence, Calibration], Probabilities]] = {
    "prototypes": _by_distance,
    "gaussians": _by_density,
    "average": _by_distance,
}


def _tempered(found: Evidence, rule: Calibration) -> Probabilities:
    likely: Probabilities = softmax(LOGITS[rule.transfer](found, rule) / rule.temperature, axis=1)
    return likely


def _neighbors(found: Evidence, rule: Calibration) -> Probabilities:
    if found.votes is None:
        raise _lacking("reference cells")
    return found.votes


def _average(found: Evidence, rule: Calibration) -> Probabilities:
    return (_tempered(found, rule) + _neighbors(found, rule)) / 2


def _lacking(what: str) -> errors.Unsupported:
    return errors.Unsupported(
        f"this model's labels are transferred from {what}, which it does not have; its release is incomplete.",
        kind="transfer",
        verb="predict",
    )


TRANSFERS: Mapping[str, Callable[[Evidence, Calibration], Probabilities]] = {
    "prototypes": _tempered,
    "gaussians": _tempered,
    "neighbors": _neighbors,
    "average": _average,
}

"""Label transfer: from points in the latent to the probability of each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.expression import LinearClassifier
from hub_client.labels.mixtures import log_densities
from hub_client.labels.neighbors import votes
from hub_client.manifest.v1 import Calibration
from hub_client.models.architectures import Array, Scores
from hub_client.models.model import Model
from hub_client.release.atlas_file import LATENT

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
    densities
        Log density of each label's reference cells, ``(cells, labels)``; None without reference cells.
    reference_shares
        Each label's share of the reference cells, ``(labels,)``; None without reference cells.
    expression
        Probability of each label by expression alone, ``(cells, labels)``; None without a classifier.
    network
        Probability of each label by the network's own classifier, ``(cells, labels)``; None without one.
    """

    labels: tuple[str, ...]
    distances: Array | None = None
    deviations: Array | None = None
    shares: Array | None = None
    votes: Probabilities | None = None
    densities: Probabilities | None = None
    reference_shares: Probabilities | None = None
    expression: Probabilities | None = None
    network: Probabilities | None = None

    def rows(self, index: NDArray[np.int64]) -> Evidence:
        """Return the evidence of some cells."""
        parts = {name: getattr(self, name) for name in PER_CELL}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})


PER_CELL = ("distances", "deviations", "votes", "densities", "expression", "network")


def evidence(model: Model, latent: Array, *, cells: Cells | None = None) -> dict[str, Evidence]:
    """Return what speaks for each label of each level at points of the latent, ``(cells, latent)``.

    Levels for which the model has neither prototypes nor reference cells are left out, unless their rule needs none.
    What only a level's rule of transfer asks for is gathered for that rule; expression speaks where the ``cells`` are
    given too.
    """
    scores = model.network.score(latent)
    found = {key: _gathered(model, key, latent, cells, scores.get(key)) for key in model.vocabulary.labels}
    return {key: level for key, level in found.items() if level is not None}


def _gathered(model: Model, level: str, latent: Array, cells: Cells | None, scores: Scores | None) -> Evidence | None:
    rule, atlas = calibration_of(model, level), _atlas(model, level)
    found = _by_scores(model.vocabulary.labels[level].names, scores)
    asked = (rule or _default(found)).transfer
    if found.distances is None and found.network is None and atlas is None and asked != "expression":
        return None
    if atlas is not None:
        found = replace(found, reference_shares=atlas.shares)
    if atlas is not None and asked in VOTED:
        found = replace(found, votes=_votes(atlas, latent, rule or DEFAULT))
    if atlas is not None and asked in MIXED:
        found = replace(found, densities=_densities(atlas, latent))
    if cells is not None and asked in EXPRESSED:
        found = replace(found, expression=_expression(model, level, cells))
    return found


@dataclass(frozen=True)
class _Atlas:
    """The reference cells that have a label of one level."""

    latent: Array
    codes: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: int

    @property
    def shares(self) -> Probabilities:
        """Each label's share of the cells, ``(labels,)``."""
        shares: Probabilities = np.bincount(self.codes, minlength=self.labels) / len(self.codes)
        return shares

    def known(self, latent: Array) -> Array:
        """Return the columns of a latent that the atlas has: terms that surgery added to an expiMap came after it."""
        return latent[:, : self.latent.shape[1]]


def _atlas(model: Model, level: str) -> _Atlas | None:
    if model.reference is None or level not in model.reference.obs:
        return None
    obs, axis = model.reference.obs, model.vocabulary.labels[level]
    names = obs[level].astype(object).fillna("").to_numpy(dtype=str)
    labelled = names != ""
    if not labelled.any():
        return None
    known = [c.key for c in model.manifest.conditions if c.key in obs]
    groups = obs.groupby(known, observed=True).ngroup().to_numpy() if known else np.zeros(len(obs), dtype=np.int64)
    latent = np.asarray(model.reference.obsm[LATENT])
    return _Atlas(latent[labelled], axis.codes(names[labelled]), groups[labelled].astype(np.int64), len(axis))


def _by_scores(labels: tuple[str, ...], scores: Scores | None) -> Evidence:
    if scores is None:
        return Evidence(labels)
    if scores.kind == "probability":
        return Evidence(labels, network=scores.values.astype(np.float64))
    return Evidence(labels, scores.values, scores.deviations, scores.shares)


def _votes(atlas: _Atlas, latent: Array, rule: Calibration) -> Probabilities:
    return votes(atlas.latent, atlas.codes, atlas.known(latent), neighbors=rule.neighbors, labels=atlas.labels)


def _densities(atlas: _Atlas, latent: Array) -> Probabilities:
    return log_densities(atlas.latent, atlas.codes, atlas.groups, atlas.known(latent), labels=atlas.labels)


def _expression(model: Model, level: str, cells: Cells) -> Probabilities | None:
    """Return the classifier's probabilities; labels that came after it have none."""
    said = next((c for c in model.manifest.trust.classifiers if c.level == level), None)
    if said is None:
        return None
    parts = (model.extras[name].numpy() for name in (said.weight, said.bias, said.centre))
    missing = np.flatnonzero(np.isin(model.vocabulary.genes, cells.report.missing))
    known = softmax(LinearClassifier(*parts).logits(cells.x, missing=missing), axis=1)
    found: Probabilities = np.zeros((len(cells), len(model.vocabulary.labels[level])))
    found[:, : known.shape[1]] = known
    return found


VOTED = ("neighbors", "average")
"""The ways of transfer that ask the nearest reference cells."""
MIXED = ("mixtures", "consensus")
"""Those that ask for the densities of the reference's labels."""
EXPRESSED = ("expression", "consensus")
"""Those that ask the classifier of expression."""
AVERAGED = ("neighbors", "average", "expression", "consensus", "network")
"""Those whose probabilities are sharpened or flattened after they are made."""
REFERRED = ("neighbors", "mixtures", "expression", "consensus")
"""Those that know only the labels the reference's cells have."""
DEFAULT = Calibration(level="any", temperature=1.0)
"""What holds where nothing was fitted."""
VOTES_ONLY = DEFAULT.model_copy(update={"transfer": "neighbors"})
"""What holds where nothing was fitted and there are no prototypes."""


NETWORK_ONLY = DEFAULT.model_copy(update={"transfer": "network"})
"""What holds where nothing was fitted and the network has a classifier."""


def _default(found: Evidence) -> Calibration:
    """Return what holds where nothing was fitted."""
    if found.distances is not None:
        return DEFAULT
    return VOTES_ONLY if found.network is None else NETWORK_ONLY


def calibration_of(model: Model, level: str) -> Calibration | None:
    """Return how a level's evidence becomes probabilities in this model, if that was fitted."""
    return next((c for c in model.manifest.trust.calibrations if c.level == level), None)


def probabilities(found: Evidence, calibration: Calibration | None) -> Probabilities:
    """Return the probability of each label, ``(cells, labels)``; rows sum to 1.

    Without a calibration, distances are taken at temperature 1; without distances the network's own classifier counts,
    and votes where there is none.

    Raises
    ------
    Unsupported
        If the calibration asks for evidence that the model does not have.
    """
    rule = calibration or _default(found)
    mixed = _with_new_labels(TRANSFERS[rule.transfer](found, rule), found, rule)
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


def _with_new_labels(mixed: Probabilities, found: Evidence, rule: Calibration) -> Probabilities:
    """Give labels that came with a query, and so have a prototype but no reference cells, what Gaussians give them."""
    if rule.transfer not in REFERRED or found.deviations is None or found.shares is None:
        return mixed
    new = _unreferred(found) & np.isfinite(found.deviations).all(axis=0)
    if not new.any():
        return mixed
    theirs = softmax(_by_density(found, rule) / rule.temperature, axis=1)[:, new]
    shared: Probabilities = mixed * (1 - theirs.sum(axis=1, keepdims=True))
    shared[:, new] = theirs
    return shared


def _unreferred(found: Evidence) -> NDArray[np.bool_]:
    """Return which labels no reference cell has, or which the classifier came before, ``(labels,)``."""
    if found.reference_shares is not None:
        return np.equal(found.reference_shares, 0)
    return np.zeros(len(found.labels), bool) if found.expression is None else (found.expression == 0).all(axis=0)


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


def _by_mixture(found: Evidence, rule: Calibration) -> Probabilities:
    """Return the log densities of the reference's labels plus weighted log shares."""
    if found.densities is None or found.reference_shares is None:
        raise _lacking("reference cells")
    weighted: Probabilities = found.densities + rule.prior * np.log(np.maximum(found.reference_shares, SMALLEST))
    return weighted


LOGITS: Mapping[str, Callable[[Evidence, Calibration], Probabilities]] = {
    "prototypes": _by_distance,
    "gaussians": _by_density,
    "average": _by_distance,
    "mixtures": _by_mixture,
    "consensus": _by_mixture,
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


def _expressed(found: Evidence, rule: Calibration) -> Probabilities:
    if found.expression is None:
        raise _lacking("a classifier of expression")
    return found.expression


def _consensus(found: Evidence, rule: Calibration) -> Probabilities:
    return (_tempered(found, rule) + _expressed(found, rule)) / 2


def _by_network(found: Evidence, rule: Calibration) -> Probabilities:
    if found.network is None:
        raise _lacking("the network's own classifier")
    return found.network


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
    "mixtures": _tempered,
    "expression": _expressed,
    "consensus": _consensus,
    "network": _by_network,
}

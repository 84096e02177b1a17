"""The rules of label transfer: how evidence becomes the probability of each label. A rule is a row of ``RULES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client import errors
from hub_client.manifest.calibration import Calibration, Transfer
from hub_client.models.architectures import Array

Probabilities = NDArray[np.float64]
SMALLEST = 1e-6
"""What a label without a vote or a share counts as, so that its logarithm is finite."""
Part = Literal[
    "distances",
    "mahalanobis_squared",
    "label_frequencies",
    "votes",
    "densities",
    "reference_frequencies",
    "expression",
    "expression_votes",
    "network",
]
"""A field of :class:`Evidence`."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for each label of one level."""

    labels: tuple[str, ...]
    """The level's categories, in manifest order."""
    distances: Array | None = None
    """To each label's prototype, ``(cells, labels)``; infinite for a label without one; None without prototypes."""
    mahalanobis_squared: Array | None = None
    """Squared Mahalanobis distances to each label's prototype, ``(cells, labels)``; None without covariances."""
    label_frequencies: Array | None = None
    """Each label's share of the reference's cells, ``(labels,)``, or ``(cells, labels)`` where cells were mapped onto
    several references; None where that is not known."""
    votes: Probabilities | None = None
    """Each label's share of the nearest reference cells' votes, ``(cells, labels)``; None without reference cells."""
    densities: Probabilities | None = None
    """Log density of each label's reference cells, ``(cells, labels)``; None without reference cells."""
    reference_frequencies: Probabilities | None = None
    """Each label's share of the reference cells, as ``label_frequencies`` has it; None without reference cells."""
    expression: Probabilities | None = None
    """Probability of each label by expression alone, ``(cells, labels)``; None without a classifier."""
    expression_votes: Probabilities | None = None
    """Each label's share of the votes of the nearest reference cells by expression, ``(cells, labels)``; None for a
    release that does not carry where its reference lies in expression."""
    network: Probabilities | None = None
    """Probability of each label by the network's own classifier, ``(cells, labels)``; None without one."""

    def rows(self, index: NDArray[np.int64]) -> Evidence:
        """Return the evidence of some cells."""
        per_cell = {name: part[index] for name, part in vars(self).items() if np.ndim(part) == 2}
        return replace(self, **per_cell)

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Return the evidence of several sets of cells for the same labels as one, each with its reference's shares."""
        found: dict[str, Any] = {"labels": parts[0].labels}
        for name in (field.name for field in fields(cls) if field.name != "labels"):
            values = [getattr(part, name) for part in parts]
            if all(value is not None for value in values):
                cells = [part.cells for part in parts]
                rows = (
                    np.broadcast_to(value, (n, len(parts[0].labels))) for value, n in zip(values, cells, strict=True)
                )
                found[name] = np.concatenate(list(rows))
        return cls(**found)

    @property
    def cells(self) -> int:
        """How many cells it is of; 0 where nothing is known of any."""
        return next((len(part) for part in vars(self).values() if np.ndim(part) == 2), 0)

    def part(self, name: Part) -> Probabilities:
        """Return one part, in double precision.

        Raises
        ------
        Unsupported
            If the model does not have it.
        """
        values = getattr(self, name)
        if values is None:
            raise errors.Unsupported(
                f"this model's labels are transferred from {_SOURCES[name]}, which it does not have; its release is "
                "incomplete.",
                kind="transfer",
                verb="predict",
            )
        return np.asarray(values, np.float64)


_SOURCES: Mapping[Part, str] = {
    "distances": "prototypes",
    "mahalanobis_squared": "prototypes with covariances",
    "label_frequencies": "prototypes with covariances",
    "votes": "reference cells",
    "densities": "reference cells",
    "reference_frequencies": "reference cells",
    "expression": "a classifier of expression",
    "expression_votes": "reference cells by expression",
    "network": "the network's own classifier",
}
"""What each part of the evidence comes from."""


@dataclass(frozen=True)
class Rule:
    """One way to transfer labels: the mean of what its logits and its probabilities give, or the one that it has."""

    needs: tuple[Part, ...]
    """The parts of the evidence that it reads."""
    logits: Callable[[Evidence, Calibration], Probabilities] | None = None
    """The logit of each label, ``(cells, labels)``, before its temperature."""
    probabilities: tuple[Part, ...] = ()
    """The parts of the evidence that are the probability of each label as they stand."""

    @property
    def sharpened(self) -> bool:
        """Whether its probabilities are sharpened or flattened after they are made: where a temperature misses some."""
        return bool(self.probabilities)

    @property
    def knows_reference_only(self) -> bool:
        """Whether it knows only the labels that the reference's cells have."""
        return not {"distances", "mahalanobis_squared", "network"} & set(self.needs)

    def __call__(self, evidence: Evidence, calibration: Calibration) -> Probabilities:
        """Return the probability of each label, ``(cells, labels)``, before it is sharpened."""
        parts: list[Probabilities] = []
        if self.logits is not None:
            parts.append(softmax(self.logits(evidence, calibration) / calibration.temperature, axis=1))
        parts += [evidence.part(name) for name in self.probabilities]
        mean: Probabilities = sum(parts[1:], start=parts[0]) / len(parts)
        return mean


def by_distance(evidence: Evidence, calibration: Calibration) -> Probabilities:
    """Return minus the distances to prototypes."""
    return -evidence.part("distances")


def by_density(evidence: Evidence, calibration: Calibration) -> Probabilities:
    """Return log densities of Gaussians with one covariance plus weighted log shares (Hastie 2009, equation 4.9)."""
    return calibration.prior * _log(evidence.part("label_frequencies")) - evidence.part("mahalanobis_squared") / 2


def by_mixture(evidence: Evidence, calibration: Calibration) -> Probabilities:
    """Return the log densities of the reference's labels plus weighted log shares."""
    return evidence.part("densities") + calibration.prior * _log(evidence.part("reference_frequencies"))


def _log(probabilities: Probabilities) -> Probabilities:
    logs: Probabilities = np.log(np.maximum(probabilities, SMALLEST))
    return logs


RULES: Mapping[Transfer, Rule] = {
    "prototypes": Rule(needs=("distances",), logits=by_distance),
    "gaussians": Rule(needs=("mahalanobis_squared", "label_frequencies"), logits=by_density),
    "neighbors": Rule(needs=("votes",), probabilities=("votes",)),
    "average": Rule(needs=("distances", "votes"), logits=by_distance, probabilities=("votes",)),
    "mixtures": Rule(needs=("densities", "reference_frequencies"), logits=by_mixture),
    "expression": Rule(needs=("expression",), probabilities=("expression",)),
    "consensus": Rule(
        needs=("densities", "reference_frequencies", "expression"), logits=by_mixture, probabilities=("expression",)
    ),
    "network": Rule(needs=("network",), probabilities=("network",)),
    "ensemble": Rule(
        needs=("densities", "reference_frequencies", "expression", "expression_votes"),
        logits=by_mixture,
        probabilities=("expression", "expression_votes"),
    ),
}
"""Every rule by the name it has in manifests and recipes, where ``Transfer`` describes it."""


def unfitted(evidence: Evidence) -> Calibration:
    """Return what holds where nothing was fitted: distances at temperature 1, else the network, else votes."""
    transfer: Transfer = "prototypes"
    if evidence.distances is None:
        transfer = "neighbors" if evidence.network is None else "network"
    return Calibration(level="any", transfer=transfer, temperature=1.0)


def probabilities(evidence: Evidence, calibration: Calibration | None) -> Probabilities:
    """Return the probability of each label, ``(cells, labels)``; rows sum to 1.

    Without a calibration, :func:`unfitted` holds.

    Raises
    ------
    Unsupported
        If the calibration asks for evidence that the model does not have.
    """
    calibration = calibration or unfitted(evidence)
    rule = RULES[calibration.transfer]
    mixed = rule(evidence, calibration)
    if rule.knows_reference_only:
        mixed = _with_new_labels(mixed, evidence, calibration)
    if calibration.sharpness == 1:
        return mixed
    sharp: Probabilities = softmax(calibration.sharpness * _log(mixed), axis=1)
    return sharp


def uncertainty(evidence: Evidence, calibration: Calibration | None) -> Probabilities:
    """Return the estimated probability that the best label is wrong, ``(cells,)``, in [0, 1]."""
    confidence = probabilities(evidence, calibration).max(axis=1)
    if calibration and calibration.distance_scale and evidence.distances is not None:
        nearest = np.maximum(evidence.distances.min(axis=1), np.finfo(np.float32).tiny)
        confidence = confidence * np.minimum(1.0, calibration.distance_scale / nearest)
    doubt: Probabilities = np.clip(1.0 - confidence, 0.0, 1.0)
    return doubt


def _with_new_labels(mixed: Probabilities, evidence: Evidence, calibration: Calibration) -> Probabilities:
    """Give labels that came with a query, and so have a prototype but no reference cells, what Gaussians give them."""
    if evidence.mahalanobis_squared is None or evidence.label_frequencies is None:
        return mixed
    new = _unreferred(evidence) & np.isfinite(evidence.mahalanobis_squared).all(axis=0)
    if not new.any():
        return mixed
    theirs = RULES["gaussians"](evidence, calibration)[:, new]
    shared: Probabilities = mixed * (1 - theirs.sum(axis=1, keepdims=True))
    shared[:, new] = theirs
    return shared


def _unreferred(evidence: Evidence) -> NDArray[np.bool_]:
    """Return which labels no reference cell has, or which the classifier came before, ``(labels,)``."""
    if evidence.reference_frequencies is not None:
        found: NDArray[np.bool_] = np.atleast_2d(evidence.reference_frequencies).max(axis=0) == 0
        return found
    return (
        np.zeros(len(evidence.labels), bool) if evidence.expression is None else (evidence.expression == 0).all(axis=0)
    )

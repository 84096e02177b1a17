"""Evidence for labels: what a model knows about points in its latent, as each level's rule of transfer needs it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client.data.cells import Cells
from hub_client.labels.expression import LinearClassifier
from hub_client.labels.expression_neighbors import expression_votes
from hub_client.labels.mixtures import log_densities
from hub_client.labels.neighbors import votes
from hub_client.labels.rules import RULES, Evidence, Probabilities, unfitted
from hub_client.manifest.calibration import Calibration
from hub_client.models.architectures import Array, Scores
from hub_client.models.model import Model
from hub_client.release.atlas_file import LATENT


def evidence(model: Model, latent: Array, *, cells: Cells | None = None) -> dict[str, Evidence]:
    """Return the evidence for each label of each level at points of the latent, ``(cells, latent)``.

    Levels for which the model has neither prototypes nor reference cells are left out, unless their rule needs none; so
    are those that are derived from a finer one, whose evidence is that one's.
    What only a level's rule of transfer needs is gathered for that rule; that of expression where the ``cells`` are
    given too.
    """
    scores = model.network.score(latent)
    own = (level.key for level in model.manifest.own_levels)
    found = {key: _gathered(model, key, latent, cells, scores.get(key)) for key in own}
    return {key: level for key, level in found.items() if level is not None}


def calibration_of(model: Model, level: str) -> Calibration | None:
    """Return how a level's evidence becomes probabilities in this model, if that was fitted."""
    return next((c for c in model.manifest.trust.calibrations if c.level == level), None)


def _gathered(model: Model, level: str, latent: Array, cells: Cells | None, scores: Scores | None) -> Evidence | None:
    atlas = atlas_of(model, level)
    found = Evidence(model.vocabulary.labels[level].names)
    if scores is not None and scores.kind == "probability":
        found = replace(found, network=scores.values.astype(np.float64))
    elif scores is not None:
        found = Evidence(found.labels, scores.values, scores.mahalanobis_squared, scores.label_frequencies)
    calibration = calibration_of(model, level) or unfitted(found)
    needs = RULES[calibration.transfer].needs
    if scores is None and atlas is None and needs != ("expression",):
        return None
    if atlas is not None:
        found = replace(found, reference_frequencies=atlas.frequencies)
    if atlas is not None and "votes" in needs:
        found = replace(found, votes=atlas.votes(latent, neighbors=calibration.neighbors))
    if atlas is not None and "densities" in needs:
        found = replace(found, densities=atlas.densities(latent))
    if cells is not None and "expression" in needs:
        found = replace(found, expression=_expression(model, level, cells))
    if cells is not None and "expression_votes" in needs:
        by_expression = expression_votes(model, level, cells, neighbors=calibration.neighbors)
        found = replace(found, expression_votes=by_expression)
    return found


@dataclass(frozen=True)
class Atlas:
    """The reference cells that have a label of one level: where they lie, their labels and their conditions."""

    latent: Array
    codes: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: int

    @property
    def frequencies(self) -> Probabilities:
        """Each label's share of the cells, ``(labels,)``."""
        frequencies: Probabilities = np.bincount(self.codes, minlength=self.labels) / len(self.codes)
        return frequencies

    def votes(self, latent: Array, *, neighbors: int) -> Probabilities:
        """Return each label's share of the nearest cells' votes, ``(cells, labels)``."""
        return votes(self.latent, self.codes, self._known(latent), neighbors=neighbors, labels=self.labels)

    def densities(self, latent: Array) -> Probabilities:
        """Return the log density of each label's cells, ``(cells, labels)``."""
        return log_densities(self.latent, self.codes, self.groups, self._known(latent), labels=self.labels)

    def _known(self, latent: Array) -> Array:
        """Return the columns of a latent that the atlas has: terms that surgery added to an expiMap came after it."""
        return latent[:, : self.latent.shape[1]]


def atlas_of(model: Model, level: str) -> Atlas | None:
    """Return the cells of a model's atlas that have a label of a level; None where there are none."""
    if model.atlas is None or level not in model.atlas.obs:
        return None
    obs, axis = model.atlas.obs, model.vocabulary.labels[level]
    names = obs[level].astype(object).fillna("").to_numpy(dtype=str)
    labelled = names != ""
    if not labelled.any():
        return None
    known = [c.key for c in model.manifest.conditions if c.key in obs]
    groups = obs.groupby(known, observed=True).ngroup().to_numpy() if known else np.zeros(len(obs), dtype=np.int64)
    latent = np.asarray(model.atlas.obsm[LATENT])
    return Atlas(latent[labelled], axis.codes(names[labelled]), groups[labelled].astype(np.int64), len(axis))


def _expression(model: Model, level: str, cells: Cells) -> Probabilities | None:
    """Return the classifier's probabilities; labels that came after it have none."""
    record = next((c for c in model.manifest.trust.classifiers if c.level == level), None)
    if record is None:
        return None
    parts = (model.extras[name].numpy() for name in (record.weight, record.bias, record.centre))
    missing = cells.unmeasured(model.vocabulary.genes)
    known = softmax(LinearClassifier(*parts).logits(cells.x, missing=missing), axis=1)
    found: Probabilities = np.zeros((len(cells), len(model.vocabulary.labels[level])))
    found[:, : known.shape[1]] = known
    return found

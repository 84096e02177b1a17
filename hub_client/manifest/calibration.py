"""What uncertainty means for a model: how evidence becomes labels, and the figures that show how well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from hub_client.manifest._frozen import Frozen, as_before
from hub_client.manifest.scalars import Key, Sha256, Text, UnitInterval

Transfer = Literal[
    "prototypes", "gaussians", "neighbors", "average", "mixtures", "expression", "consensus", "network", "ensemble"
]


class Calibration(Frozen):
    """How one label level's evidence becomes labels and their probabilities."""

    level: Key
    transfer: Transfer = "prototypes"
    """Where labels come from: ``prototypes`` (distances to them), ``gaussians`` (prototypes with the covariance their
    cells share), ``neighbors`` (votes of the nearest cells of ``reference.zarr.zip``), the ``average`` of the
    probabilities of prototypes and neighbors, ``mixtures`` (a Gaussian for each label in each condition of
    ``reference.zarr.zip``), ``expression`` (a linear classifier of normalised counts), the ``consensus``, which is the
    mean of the probabilities of mixtures and expression, the ``network``'s own classifier, as scANVI has one, or the
    ``ensemble``, the mean of mixtures, expression and the votes of the nearest reference cells by expression."""
    neighbors: PositiveInt = 50
    """How many reference cells vote."""
    prior: Annotated[float, Field(ge=0)] = 0.0
    """Gaussians and mixtures: the power of each label's share of the reference's cells in its probability; 0 holds all
    labels equally likely beforehand."""
    temperature: Annotated[float, Field(gt=0)]
    """Logits (minus the distance, or a Gaussian's log density) are divided by this before the softmax."""
    sharpness: Annotated[float, Field(gt=0)] = 1.0
    """Probabilities are raised to this power and normalised again: above 1 sharpens them, below 1 flattens them."""
    distance_scale: Annotated[float, Field(gt=0)] | None = None
    """A cell at d times this distance from its nearest prototype, d above 1, keeps 1/d of its confidence; None applies
    no distance rule."""
    unknown_above: UnitInterval = 0.5
    """Uncertainty above which a cell is called unknown."""
    set_above: UnitInterval | None = None
    """A cell's label set holds the best label and every other one with at least this probability: the conformal
    threshold under which sets of left-out cells held the true label as often as ``set_coverage`` states. None: no
    sets."""
    set_coverage: UnitInterval = 0.95
    """How often a label set is to hold the true label."""
    fitted_on: Text | None = None
    """The cells that temperature, sharpness and set threshold come from, in words; None: held-out cells of the data
    sets that were trained on."""

    @model_serializer(mode="wrap")
    def _as_before(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields; those that came later, at their default, are left out: releases keep their bytes."""
        return as_before(nested(self), CALIBRATION_LATER)


CALIBRATION_LATER: Mapping[str, Any] = {"set_above": None, "set_coverage": 0.95, "fitted_on": None}
"""Fields that calibrations of the first releases did not have, and what they would have stated."""


class ExpressionClassifier(Frozen):
    """A linear classifier of a level's labels by log-normalised counts, and the tensors that hold it."""

    level: Key
    weight: Text
    """``(labels, genes)``: the labels known when it was fitted, the level's first."""
    bias: Text
    """``(labels,)``"""
    centre: Text
    """``(genes,)``: mean log-normalised counts, which a gene that was not measured counts as."""


class Depth(Frozen):
    """Counts of each cell of the reference over the model's genes: 5 %, 25 %, 50 %, 75 % and 95 % have at most so many.

    A query's cells are compared with them.
    """

    p5: Annotated[float, Field(ge=0)]
    p25: Annotated[float, Field(ge=0)]
    median: Annotated[float, Field(ge=0)]
    p75: Annotated[float, Field(ge=0)]
    p95: Annotated[float, Field(ge=0)]


class FalsePositives(Frozen):
    """What share of cells is called novel whose label the reference has."""

    mean: UnitInterval
    """In the mean over batches, each judged by a threshold from the others."""
    worst: UnitInterval
    """In the batch in which it is largest."""


class NoveltyRecord(Frozen):
    """How cells are recognised that are of no type of the reference, and the tensors that hold what it takes."""

    tensors: dict[Text, Text]
    """Each part to the tensor that holds it: ``mean``, ``spread``, ``share``, ``between`` ``(genes,)``, ``loadings``
    ``(genes, components)`` and ``scores`` ``(reference cells, components)`` of the space of expression, and ``ranks``
    ``(2, points)``: ranks, and the scores that known cells of them have."""
    labels: dict[Key, Text] = {}
    """Label level to the tensor that holds the label of each of those reference cells, ``(reference cells,)``: its
    place among the level's categories, -1 for none."""
    components: PositiveInt
    """How many principal components span the space."""
    declared: Annotated[float, Field(gt=0, lt=1)]
    """The share of known cells that is called novel."""
    typical: Annotated[float, Field(ge=0)]
    """The first quartile of known cells' scores in what was left out: what few cells are judged by."""
    left_out: Literal["batches", "folds"]
    """What was scored by the rest of the reference to find how known cells score: its batches in turn, or, where there
    are no two, random folds, which are more alike than studies are."""
    count: PositiveInt
    """How many of them."""
    false_positives: FalsePositives | None = None
    """What was measured; None where folds stand in for batches."""


TRUST_LATER: Mapping[str, Any] = {"depth": None, "novelty": None}
"""Fields that the first releases did not have, and what they would have stated."""


class Trust(Frozen):
    """Read by the mapper: what uncertainty means for this model, and what that was checked on."""

    calibrations: tuple[Calibration, ...] = ()
    classifiers: tuple[ExpressionClassifier, ...] = ()
    validated_on: str | None = None
    depth: Depth | None = None
    """How deep the reference's cells were sequenced; None for log1p input, and in releases from before it was kept."""
    novelty: NoveltyRecord | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields; those that came later, at their default, are left out: releases keep their bytes."""
        return as_before(nested(self), TRUST_LATER)


class Metric(Frozen):
    """One figure the card shows."""

    name: Text
    definition: Text
    dataset: Text
    dataset_fingerprint: Sha256 | None = None
    split: Text
    value: float
    n: NonNegativeInt
    seed: int | None = None

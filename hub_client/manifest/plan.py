"""How to train: what a recipe, a call of ``train`` and a manifest's training record share.

Most of a plan is read by every kind of model; what one kind reads stands in its options. Files of format 1 (manifests,
recipes, receipts, ``--plan``) hold the options flat, among the plan's other keys, and are read and written so.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hub_client import errors
from hub_client.manifest._frozen import Frozen, as_before, problems


class EarlyStopping(Frozen):
    """When to stop, judged by held-out cells after each epoch (lower is better)."""

    model_config = ConfigDict(revalidate_instances="always")

    watches: Literal["loss", "labels"] = "loss"
    """What is judged: the unweighted loss; or how poorly labels are told apart, scPoli's contrast or scANVI's
    classification, which on the cells of a new batch goes on improving after few cells' reconstruction is overfitted.
    A model without such a term is judged by its loss."""
    patience: PositiveInt = 20
    """Epochs without improvement after which training stops; the first ``patience`` epochs are never counted."""
    threshold: NonNegativeFloat = 0.0
    """What counts as an improvement, in the loss's own units (nats per cell)."""
    reduce_patience: PositiveInt | None = 13
    """Epochs without improvement after which the learning rate is cut; None never cuts it."""
    reduce_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is as it was before: files of earlier formats keep their bytes."""
        return as_before(fields(self), STOPPING_LATER)

    def scaled(self, scale: float) -> EarlyStopping:
        """Return the rule with so many times the epochs."""
        waits = {"patience": self.patience, "reduce_patience": self.reduce_patience}
        return self.model_copy(update={name: _scaled(wait, scale) for name, wait in waits.items() if wait is not None})


def _scaled(epochs: float, scale: float) -> float:
    """Return so many times a number of epochs; a whole number stays one, and what is more than 0 does too."""
    return max(round(epochs * scale), 1) if isinstance(epochs, int) and epochs else epochs * scale


class Options(Frozen):
    """What one kind of model reads of a plan, beside what every kind reads."""

    model_config = ConfigDict(revalidate_instances="always")


class ScPoliOptions(Options):
    """What scPoli reads of a plan."""

    pretraining_epochs: NonNegativeInt | None = None
    """scPoli: epochs before prototypes join the loss; None is nine tenths of ``epochs``."""
    prototype_weight: NonNegativeFloat = 1.0
    """scPoli's eta."""
    contrast_weight: NonNegativeFloat = 0.0
    """scPoli: weight of the cross-entropy of labels under unit Gaussians at the prototypes, which pushes labels apart
    where the prototype loss pulls cells of one label together; in nats, beside the reconstruction's. scArches has 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """scPoli: share of each cell's probability that the contrast spreads over all labels."""
    unlabelled_weight: NonNegativeFloat = 0.0
    """scPoli: weight of the unlabelled prototypes inside the prototype loss."""
    unlabelled_clustering: Literal["leiden", "kmeans"] = "leiden"
    unlabelled_clusters: PositiveInt | None = None
    """How many clusters k-means makes; needed for k-means only."""
    leiden_resolution: PositiveFloat = 2.0


class ScanviOptions(Options):
    """What scANVI reads of a plan."""

    classification_weight: NonNegativeFloat = 50.0
    """scANVI: weight of the classifier's cross-entropy (scvi-tools' ``classification_ratio``)."""
    samples_per_label: PositiveInt | None = None
    """scANVI: how many labelled cells of each label the classifier learns from in an epoch, drawn anew in each; None is
    all."""


class TotalViOptions(Options):
    """What totalVI reads of a plan."""

    adversarial: bool | None = None
    """totalVI: whether the encoder learns to hide batches from a classifier; None does so for a reference that lacks
    proteins in some."""


class ExpiMapOptions(Options):
    """What expiMap reads of a plan."""

    group_lasso: NonNegativeFloat = 0.0
    """expiMap: what the length of each annotated term's weights loses in a step, per learning rate; a term without
    length is inactive."""
    group_lasso_scale: tuple[NonNegativeFloat, ...] = ()
    """expiMap: multiplies ``group_lasso``, one for each annotated term; empty is 1 for all."""
    soft_mask_l1: NonNegativeFloat = 0.0
    """expiMap: what weights of genes outside a soft mask lose in a step, per learning rate."""
    soft_mask_l1_anneal_epochs: NonNegativeInt = 0
    """expiMap: epochs over which ``soft_mask_l1`` rises; 0 starts at the full penalty."""
    soft_mask_l1_anneal_every: PositiveInt = 5
    """expiMap: epochs between two of its rises."""
    extension_l1: NonNegativeFloat = 0.0
    """expiMap: what weights of unconstrained extensions lose in a step, per learning rate."""
    extension_l1_anneal_epochs: NonNegativeInt = 0
    """expiMap: epochs over which ``extension_l1`` rises; 0 starts at the full penalty."""
    extension_l1_anneal_every: PositiveInt = 5
    """expiMap: epochs between two of its rises."""
    hsic_weight: NonNegativeFloat = 1.0
    """expiMap: weight of the dependence between unconstrained extensions and the other terms."""


def _flat_schema(schema: dict[str, Any]) -> None:
    """Describe a plan as files have it: flat, and without what is for Python."""
    schema["description"] = schema["description"].partition("\n")[0]
    for kind, options in OPTIONS.items():
        del schema["properties"][kind]
        schema["properties"] |= options.model_json_schema()["properties"]


class Plan(Frozen):
    """How a model is trained. The defaults are the ones that worked on real data, not scArches'.

    Options of one kind may be given by themselves or among the rest: ``Plan(scpoli=ScPoliOptions(prototype_weight=5))``
    is ``Plan(prototype_weight=5)``. A model of another kind refuses them, unless they are the defaults.
    """

    # A model_copy may have options among the rest, or worse: every plan is validated again where it comes in.
    model_config = ConfigDict(json_schema_extra=_flat_schema, revalidate_instances="always")

    epochs: NonNegativeInt = 100
    steps: PositiveInt | None = None
    """Optimiser steps. Training takes as many epochs as come to so many, and every number of epochs here is then in
    proportion: with ``epochs=100`` it is a per cent. A reference of few cells trains for more epochs, one of many for
    fewer; where they would be fewer than 20, for 20 that take a part of the cells each. None trains for ``epochs``."""
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-6
    """Coupled L2 penalty; condition embeddings get none."""
    gradient_clip: PositiveFloat | None = None
    """Largest absolute value of any gradient entry."""
    kl_weight: NonNegativeFloat = 1.0
    kl_anneal_epochs: NonNegativeFloat = 100.0
    """The KL weight rises from 0 to ``kl_weight`` over so many epochs; 0 starts at the full weight."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of cells held out, seeded and stratified by condition and finest label."""
    gene_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each cell's genes that the encoder does not see in a step of a reference's training, drawn anew each
    time, so that no label rests on a few genes; queries train without."""
    sampling: Literal["shuffle", "stratified"] = "shuffle"
    """``stratified`` draws with replacement, each condition equally often."""
    early_stopping: EarlyStopping | Literal[False] | None = EarlyStopping()
    """None, or false in TOML, which has no null, trains all epochs."""
    keep_best: bool = True
    """Restore the weights of the best validation epoch."""
    scpoli: ScPoliOptions = ScPoliOptions()
    scanvi: ScanviOptions = ScanviOptions()
    totalvi: TotalViOptions = TotalViOptions()
    expimap: ExpiMapOptions = ExpiMapOptions()

    def changed(self, **fields: Any) -> Self:
        """Return a copy with other fields, validated as a whole; options may stand among the rest.

        Raises
        ------
        ManifestError
            If a field is unknown, or not what it may be.
        """
        try:
            return type(self).model_validate({**self.__dict__, **fields})
        except ValidationError as error:
            raise errors.ManifestError("the plan is not valid:", problems=problems(error)) from None

    def over(self, cells: int, *, devices: int = 1) -> Self:
        """Return the plan for so many training cells: in epochs, where it counts steps.

        On several devices a step takes ``batch_size`` cells on each.
        """
        return self if self.steps is None else self.lasting(self._epochs_of(cells, devices))

    def cells_an_epoch(self, cells: int, *, devices: int = 1) -> int:
        """Return how many of so many training cells an epoch takes: all, unless they are a large part of the steps."""
        if self.steps is None:
            return cells
        steps = math.ceil(self.steps / self._epochs_of(cells, devices))
        return min(cells, steps * self.batch_size * devices)

    def _epochs_of(self, cells: int, devices: int) -> int:
        """Return in how many epochs a plan that counts steps trains."""
        steps = self.steps or 0
        return max(round(steps / math.ceil(cells / (self.batch_size * devices))), min(LEAST_EPOCHS, steps))

    def lasting(self, epochs: int) -> Self:
        """Return the plan in so many epochs, with every other number of epochs in proportion."""
        scale = epochs / max(self.epochs, 1)
        chosen = self.chosen_options()
        counted = {name: self._field(name) for name in IN_EPOCHS if name not in OWNERS or name in chosen}
        scaled = {name: _scaled(value, scale) for name, value in counted.items() if value is not None}
        stopping = self.early_stopping and self.early_stopping.scaled(scale)
        return self.changed(**scaled, steps=None, epochs=epochs, early_stopping=stopping)

    def _field(self, name: str) -> Any:
        """Return a field or an option."""
        return getattr(getattr(self, OWNERS[name]) if name in OWNERS else self, name)

    def only(self, kind: str) -> Self:
        """Return the plan without other kinds' options: what training a model of this kind reads."""
        return self.changed(**{other: options() for other, options in OPTIONS.items() if other != kind})

    def checked_for(self, kind: str, *, called: str = "the plan") -> Self:
        """Return the plan, validated again, for a model of this kind; ``called`` is its name in errors.

        Raises
        ------
        InvalidInput
            If it sets what only another kind reads; ``facts`` has each such option.
        ManifestError
            If it is no valid plan, as a ``model_copy`` may be.
        """
        plan = self.changed()
        foreign = {name: value for name, value in plan.chosen_options().items() if OWNERS[name] != kind}
        if not foreign:
            return plan
        others = [f"{name} (of {OWNERS[name]})" for name in foreign]
        own = [name for name, owner in OWNERS.items() if owner == kind]
        reads = f"Beside what every kind reads, {kind} reads {errors.names(own, shown=len(own))}" if own else ""
        raise errors.InvalidInput(
            f"{called} sets {errors.names(others, shown=len(others))}, which {kind} does not read. "
            f"{reads or f'{kind} reads what every kind reads, and nothing else'}: leave out what it does not.",
            facts=foreign,
        )

    def chosen_options(self) -> dict[str, Any]:
        """Return every option that is not at its default, of whichever kind."""
        chosen = [getattr(self, kind).model_dump(exclude_defaults=True) for kind in OPTIONS]
        return {name: value for options in chosen for name, value in options.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps is not None and not self.epochs:
            raise ValueError("steps needs epochs of at least 1, which the other numbers of epochs are in proportion to")
        return self

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, given: Any) -> Any:
        """Gather options that stand among the rest, as in format 1, under the kinds that read them."""
        if not isinstance(given, dict):
            return given
        if strangers := [kind for kind in OPTIONS if kind in given and not isinstance(given[kind], OPTIONS[kind])]:
            taken = errors.names([OPTIONS[kind].__name__ for kind in strangers])
            raise ValueError(
                f"{errors.names(strangers)} cannot be a key of a file, where options stand among the plan's other "
                f"keys; in Python it takes {taken}"
            )
        plan = {name: value for name, value in given.items() if name not in OWNERS}
        for name in given.keys() & OWNERS.keys():
            kind = OWNERS[name]
            plan[kind] = {**dict(plan.get(kind, ())), name: given[name]}
        return plan

    @model_validator(mode="wrap")
    @classmethod
    def _placed_as_written(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Report problems of options where files have them: among the plan's other keys."""
        try:
            return validate(given)
        except ValidationError as error:
            found: list[Any] = error.errors(include_url=False)
            lines = [
                one | {"loc": one["loc"][1:] if one["loc"][:1] and one["loc"][0] in OPTIONS else one["loc"]}
                for one in found
            ]
            raise ValidationError.from_exception_data(error.title, lines) from None

    @model_serializer(mode="wrap")
    def _flat(self, nested: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields as format 1 has them: options among the rest."""
        plan: dict[str, Any] = nested(self)
        options = [plan.pop(kind) for kind in OPTIONS if kind in plan]
        flat = plan | {name: value for fields in options for name, value in fields.items()}
        return as_before(flat, LATER)


LEAST_EPOCHS = 20
"""A plan that counts steps is parted into so many epochs at least, so that shares of it can be told apart."""
OPTIONS: dict[str, type[Options]] = {
    name: type(field.default) for name, field in Plan.model_fields.items() if isinstance(field.default, Options)
}
"""Kind of model to the options it reads; kinds that are not here read nothing of their own."""
STOPPING_LATER: dict[str, Any] = {"watches": "loss"}
LATER: dict[str, Any] = {"steps": None, "gene_dropout": 0.0, "contrast_weight": 0.0, "label_smoothing": 0.0}
"""What came after format 1.0, in early stopping and in the plan, and what plans from before did: their files keep their
bytes."""
IN_EPOCHS = (
    "kl_anneal_epochs",
    "pretraining_epochs",
    "soft_mask_l1_anneal_epochs",
    "soft_mask_l1_anneal_every",
    "extension_l1_anneal_epochs",
    "extension_l1_anneal_every",
)
"""What is counted in epochs beside the epochs themselves and the waits of early stopping."""
OWNERS = {name: kind for kind, options in OPTIONS.items() for name in options.model_fields}
"""Option to the kind of model that reads it."""

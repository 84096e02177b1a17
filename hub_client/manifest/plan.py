"""How to train: what a recipe, a call of ``train`` and a manifest's training record share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hub_client.manifest._frozen import Frozen


class EarlyStopping(Frozen):
    """When to stop, judged by the unweighted validation loss after each epoch (lower is better)."""

    patience: PositiveInt = 20
    """Epochs without improvement after which training stops; the first ``patience`` epochs are never counted."""
    threshold: NonNegativeFloat = 0.0
    """What counts as an improvement, in the loss's own units (nats per cell)."""
    reduce_patience: PositiveInt | None = 13
    """Epochs without improvement after which the learning rate is cut; None never cuts it."""
    reduce_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Plan(Frozen):
    """How a model is trained. The defaults are the ones that worked on real data, not scArches'."""

    epochs: NonNegativeInt = 100
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
    sampling: Literal["shuffle", "stratified"] = "shuffle"
    """``stratified`` draws with replacement, each condition equally often."""
    early_stopping: EarlyStopping | Literal[False] | None = EarlyStopping()
    """None, or false in TOML, which has no null, trains all epochs."""
    keep_best: bool = True
    """Restore the weights of the best validation epoch."""
    pretraining_epochs: NonNegativeInt | None = None
    """scPoli: epochs before prototypes join the loss; None is nine tenths of ``epochs``."""
    prototype_weight: NonNegativeFloat = 1.0
    """scPoli's eta."""
    unlabelled_weight: NonNegativeFloat = 0.0
    """scPoli: weight of the unlabelled prototypes inside the prototype loss."""
    unlabelled_clustering: Literal["leiden", "kmeans"] = "leiden"
    unlabelled_clusters: PositiveInt | None = None
    """How many clusters k-means makes; needed for k-means only."""
    leiden_resolution: PositiveFloat = 2.0
    classification_weight: NonNegativeFloat = 50.0
    """scANVI: weight of the classifier's cross-entropy (scvi-tools' ``classification_ratio``)."""
    samples_per_label: PositiveInt | None = None
    """scANVI: how many labelled cells of each label the classifier learns from in an epoch, drawn anew in each; None is
    all."""
    adversarial: bool | None = None
    """totalVI: whether the encoder learns to hide batches from a classifier; None does so for a reference that lacks
    proteins in some."""
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

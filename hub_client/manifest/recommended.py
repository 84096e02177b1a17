"""What each kind of model is built and trained with where nobody asks for anything else.

Chosen on left-out batches of blood and pancreas, one setting for each kind and not one for each data set:
docs/latents.md has the figures, docs/building-references.md the reasons. The defaults of
:class:`~hub_client.manifest.plan.Plan` and of the configs are those of format 1.0, which files of it are read by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hub_client import errors
from hub_client.manifest.configs import CONFIGS, KindConfig
from hub_client.manifest.plan import OPTIONS, Plan

SMALL = 1000
"""Fewer cells than this make a small reference."""
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "scpoli": {"encoder_input": "centred", "hidden": (128,), "latent": 16, "dropout": 0.1},
    "trvae": {"encoder_input": "centred", "hidden": (256, 64), "latent": 16, "dropout": 0.1},
    "expimap": {"encoder_input": "centred"},
    "scvi": {"likelihood": "nb"},
    "scanvi": {"likelihood": "nb"},
    "totalvi": {},
}
"""Kind to the hyperparameters that are not the config's defaults."""
SMALL_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {}
"""Kind to those that differ for a small reference."""
_EVERY = {"epochs": 100, "kl_anneal_epochs": 100, "sampling": "stratified", "early_stopping": None, "keep_best": False}
PLANS: Mapping[str, Mapping[str, Any]] = {
    "scpoli": {
        "steps": 1500,
        "gene_dropout": 0.5,
        "pretraining_epochs": 20,
        "contrast_weight": 100.0,
        "label_smoothing": 0.1,
    },
    "trvae": {"steps": 1500, "gene_dropout": 0.3},
    "expimap": {"steps": 1500, "gene_dropout": 0.3},
    "scvi": {"steps": 1500},
    "scanvi": {"steps": 1500},
    "totalvi": {"steps": 1500},
}
"""Kind to how a reference is trained, beside what all kinds share."""
QUERY_PLAN = Plan(
    epochs=20,
    batch_size=64,
    weight_decay=0,
    kl_anneal_epochs=0,
    early_stopping=None,
    keep_best=False,
    validation_fraction=0,
)
"""How the rows of a query's conditions are trained, where it is worth it."""


@dataclass(frozen=True)
class Recommended:
    """The settings of a new reference.

    Attributes
    ----------
    architecture
        Its hyperparameters, as a manifest takes them.
    plan
        How to train it.
    query_plan
        How to train the rows of its queries.
    reason
        What the settings were decided from, in words.
    """

    architecture: KindConfig
    plan: Plan
    query_plan: Plan
    reason: str


def recommended(kind: str, *, cells: int) -> Recommended:
    """Return the settings that did best on left-out batches for a reference of a kind and size.

    Parameters
    ----------
    kind
        ``scpoli``, ``trvae``, ``expimap``, ``scvi``, ``scanvi`` or ``totalvi``.
    cells
        How many cells the reference has.

    Raises
    ------
    InvalidInput
        If there is no such kind, or no cells.

    Examples
    --------
    >>> recommended("scpoli", cells=5000).plan.steps
    1500
    """
    if kind not in CONFIGS:
        raise errors.InvalidInput(
            f"{kind!r} is no kind of model; it is one of {errors.names(CONFIGS, shown=len(CONFIGS))}.",
            facts={"kind": kind},
        )
    if cells < 1:
        raise errors.InvalidInput(f"cells is {cells}; a reference has at least one.", facts={"cells": cells})
    small = SMALL_ARCHITECTURES.get(kind, {}) if cells < SMALL else {}
    size = f"{cells:,} cells, {'fewer than' if cells < SMALL else 'at least'} {SMALL:,}"
    return Recommended(
        architecture=CONFIGS[kind].model_validate({"kind": kind, **ARCHITECTURES[kind], **small}),
        plan=Plan.model_validate({**_EVERY, **PLANS[kind]}),
        query_plan=QUERY_PLAN,
        reason=f"the settings of {kind} for {size}",
    )


def with_given(config: KindConfig, *, cells: int) -> KindConfig:
    """Return the recommended hyperparameters with those that were given in their place."""
    given = {name: getattr(config, name) for name in config.model_fields_set}
    best = recommended(config.kind, cells=cells).architecture
    return type(config).model_validate(dict(best) | given)


def plan_with_given(plan: Plan, *, kind: str, cells: int) -> Plan:
    """Return the recommended plan with what was given in its place; given epochs are counted instead of steps."""
    best = recommended(kind, cells=cells).plan
    given = {name: getattr(plan, name) for name in plan.model_fields_set - OPTIONS.keys()}
    options = {name: getattr(plan, owner) for owner in OPTIONS for name in getattr(plan, owner).model_fields_set}
    given |= {name: getattr(record, name) for name, record in options.items()}
    if "epochs" in given and "steps" not in given:
        best = best.lasting(given["epochs"])
    return best.changed(**given)

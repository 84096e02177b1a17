"""What each kind of model is built and trained with where nobody asks for anything else.

Chosen for scPoli, trVAE, scVI and scANVI on left-out batches of blood, CITE-seq and pancreas, one setting for each kind
and not one for each data set; expiMap and totalVI have what the others share. docs/latents.md has the figures,
docs/building-references.md the reasons. The defaults of
:class:`~hub_client.manifest.plan.Plan` and of the configs are those of format 1.0, which files of it are read by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hub_client import errors
from hub_client.manifest.configs import CONFIGS, KindConfig
from hub_client.manifest.plan import OPTIONS, EarlyStopping, Plan

SMALL = 1000
"""Fewer cells than this make a small reference."""
PASSES = 4
"""How often a large reference's cells can be seen, at least: settings were chosen on references of up to 5,000."""
EVERY = {
    "epochs": 100,
    "kl_anneal_epochs": 100,
    "sampling": "stratified",
    "early_stopping": EarlyStopping(watches="labels", patience=20, reduce_patience=10),
    "keep_best": False,
}
"""The plan of every kind's references, beside what its config recommends; with steps, its epochs are per cent."""
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
    """Return the settings that are recommended for a reference of a kind and size.

    Those of scPoli, trVAE, scVI and scANVI did best on left-out batches; expiMap and totalVI are trained as they are,
    with the hyperparameters of format 1.0.

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
    2000
    """
    if kind not in CONFIGS:
        raise errors.InvalidInput(
            f"{kind!r} is no kind of model; it is one of {errors.names(CONFIGS, shown=len(CONFIGS))}.",
            facts={"kind": kind},
        )
    if cells < 1:
        raise errors.InvalidInput(f"cells is {cells}; a reference has at least one.", facts={"cells": cells})
    config, small = CONFIGS[kind], cells < SMALL
    fields = {**config.recommended, **(config.recommended_small if small else {})}
    chosen = {**config.recommended_plan, **(config.recommended_small_plan if small else {})}
    plan = Plan.model_validate({**EVERY, **chosen})
    passes = PASSES * math.ceil(cells / plan.batch_size)
    return Recommended(
        architecture=config.model_validate({"kind": kind, **fields}),
        plan=plan.changed(steps=max(plan.steps or 0, passes)),
        query_plan=QUERY_PLAN,
        reason=f"recommended for {kind} of {cells:,} cells: {'; '.join(_reasons(config, small, passes, plan))}",
    )


def _reasons(config: type[KindConfig], small: bool, passes: int, plan: Plan) -> Iterator[str]:
    """Yield what settings were decided by the number of cells."""
    differs = {**config.recommended_small, **config.recommended_small_plan}
    if small and differs:
        yield f"{errors.names([f'{name} {value}' for name, value in differs.items()])}, for fewer than {SMALL:,}"
    if passes > (plan.steps or 0):
        yield f"{passes:,} steps at most, to see all of them {PASSES} times"
    else:
        yield f"{plan.steps:,} steps at most"


def with_given(config: KindConfig, *, cells: int) -> KindConfig:
    """Return the recommended hyperparameters with those that were given in their place."""
    given = {name: getattr(config, name) for name in config.model_fields_set}
    best = recommended(config.kind, cells=cells).architecture
    return type(config).model_validate(dict(best) | given)


def plan_with_given(plan: Plan, *, kind: str, cells: int, query: bool = False) -> Plan:
    """Return the recommended plan with what was given in its place; given epochs are counted instead of steps.

    With ``query`` it is the one for queries. Of early stopping, too, what was not given is as recommended, if it is.
    """
    recommendation = recommended(kind, cells=cells)
    best = recommendation.query_plan if query else recommendation.plan
    given = {name: getattr(plan, name) for name in plan.model_fields_set - OPTIONS.keys()}
    if plan.early_stopping and best.early_stopping and "early_stopping" in given:
        chosen = {name: getattr(plan.early_stopping, name) for name in plan.early_stopping.model_fields_set}
        given["early_stopping"] = best.early_stopping.model_copy(update=chosen)
    options = {name: getattr(plan, owner) for owner in OPTIONS for name in getattr(plan, owner).model_fields_set}
    given |= {name: getattr(record, name) for name, record in options.items()}
    if "epochs" in given and "steps" not in given:
        best = best.lasting(given["epochs"])
    return best.changed(**given)

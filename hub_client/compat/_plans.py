"""Turn scArches' training arguments into a Plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub_client import errors
from hub_client.manifest.plan import EarlyStopping, Plan

_EVERY: dict[str, Any] = {
    "weight_decay": 0.04,
    "batch_size": 128,
    "train_frac": 0.9,
    "use_early_stopping": True,
    "early_stopping_kwargs": None,
    "alpha_kl": 1.0,
    "alpha_epoch_anneal": None,
    "alpha_iter_anneal": None,
    "clip_value": 0.0,
    "seed": 2020,
    "monitor": True,
    "n_workers": 0,
}
DEFAULTS: dict[str, Any] = _EVERY | {
    "use_stratified_sampling": False,
    "unlabeled_weight": 0.0,
    "clustering": "leiden",
    "clustering_res": 2.0,
    "n_clusters": None,
}
"""The keyword arguments of scArches' scPoli trainer and their defaults."""
ONE_HOT: dict[str, Any] = _EVERY | {"use_stratified_sampling": True, "reload_best": True, "monitor_only_val": True}
"""Those of its trainer of trVAE."""
EXPIMAP: dict[str, Any] = ONE_HOT | {
    "alpha_kl": 0.35,
    "alpha_l1": None,
    "alpha_l1_epoch_anneal": None,
    "alpha_l1_anneal_each": 5,
    "gamma_ext": None,
    "gamma_epoch_anneal": None,
    "gamma_anneal_each": 5,
    "beta": 1.0,
    "print_stats": False,
}
"""Those of its trainer of expiMap."""
_PENALTIES = {
    "alpha_l1": "soft_mask_l1",
    "alpha_l1_epoch_anneal": "soft_mask_l1_anneal_epochs",
    "alpha_l1_anneal_each": "soft_mask_l1_anneal_every",
    "gamma_ext": "extension_l1",
    "gamma_epoch_anneal": "extension_l1_anneal_epochs",
    "gamma_anneal_each": "extension_l1_anneal_every",
    "beta": "hsic_weight",
}
_OF_SCPOLI = {
    "unlabeled_weight": "unlabelled_weight",
    "clustering": "unlabelled_clustering",
    "n_clusters": "unlabelled_clusters",
    "clustering_res": "leiden_resolution",
}

_STOPPING = {
    "early_stopping_metric": None,
    "mode": None,
    "threshold": "threshold",
    "patience": "patience",
    "reduce_lr": None,
    "lr_patience": "reduce_patience",
    "lr_factor": "reduce_factor",
}
_JUDGED = {"early_stopping_metric": "metric", "mode": "mode"}


def training_arguments(given: dict[str, Any], *, defaults: dict[str, Any] = DEFAULTS) -> dict[str, Any]:
    """Return the keyword arguments of one of scArches' trainers with its defaults filled in.

    Raises
    ------
    InvalidInput
        If one has a name scArches' trainer does not know.
    """
    if strangers := sorted(set(given) - set(defaults)):
        raise errors.InvalidInput(
            f"train() does not know {errors.names(strangers)}; it takes {errors.names(defaults, shown=len(defaults))}.",
            facts={name: given[name] for name in strangers},
        )
    return defaults | given


def plan(arguments: dict[str, Any], *, cells: int, **ours: Any) -> Plan:
    """Return the Plan that scArches' trainer arguments describe; ``cells`` turns iterations into epochs."""
    return Plan(
        batch_size=arguments["batch_size"],
        weight_decay=arguments["weight_decay"],
        gradient_clip=arguments["clip_value"] or None,
        kl_weight=arguments["alpha_kl"],
        kl_anneal_epochs=_anneal_epochs(arguments, cells=cells),
        validation_fraction=1 - arguments["train_frac"],
        sampling="stratified" if arguments["use_stratified_sampling"] else "shuffle",
        early_stopping=_stopping(arguments),
        **{name: arguments[theirs] for theirs, name in _OF_SCPOLI.items() if theirs in arguments},
        **ours,
    )


def penalties(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the Plan's fields that expiMap's penalties are in; None is no penalty, and no annealing."""
    return {ours: arguments[theirs] or 0 for theirs, ours in _PENALTIES.items()}


def _anneal_epochs(arguments: dict[str, Any], *, cells: int) -> float:
    if arguments["alpha_epoch_anneal"] is not None:
        return float(arguments["alpha_epoch_anneal"])
    if arguments["alpha_iter_anneal"] is None:
        return 0.0
    steps: int = max(1, round(cells * arguments["train_frac"] / arguments["batch_size"]))
    return float(arguments["alpha_iter_anneal"]) / steps


def judged(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the metric of early stopping and its mode, by the names of :func:`hub_client.compat._trainer.judge`."""
    given = (arguments["early_stopping_kwargs"] or {}) if arguments["use_early_stopping"] else {}
    return {ours: given[theirs] for theirs, ours in _JUDGED.items() if theirs in given}


def _stopping(arguments: dict[str, Any]) -> EarlyStopping | None:
    if not arguments["use_early_stopping"]:
        return None
    given = dict(arguments["early_stopping_kwargs"] or {})
    if strangers := sorted(set(given) - set(_STOPPING)):
        raise errors.InvalidInput(
            f"early_stopping_kwargs has {errors.names(strangers)}; known are {errors.names(_STOPPING, shown=7)}.",
            facts={name: given[name] for name in strangers},
        )
    rule = {ours: given[theirs] for theirs, ours in _STOPPING.items() if ours and theirs in given}
    return EarlyStopping(**rule | ({} if given.get("reduce_lr", True) else {"reduce_patience": None}))

"""What scArches' trainers log of an epoch, and what its early stopping may be judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from hub_client import errors
from hub_client.manifest.plan import Plan
from hub_client.models.model import Model
from hub_client.nn.training import History, Judge

Terms = Mapping[str, float]
"""The terms of a loss, by our names, of the training or the validation cells in one epoch."""
SPLITS = {"epoch": "train", "val": "validation"}
"""How scArches' names begin, and which cells they are of."""
MODES = {"min": 1.0, "max": -1.0}
"""The sign that makes the better value the smaller one."""
DEFAULT = "val_unweighted_loss"


@dataclass(frozen=True)
class Log:
    """One number that scArches logs."""

    value: Callable[[Terms, Plan], float]
    """From the terms of a loss and the plan to the number."""
    needs: Callable[[Any, Plan], bool] = lambda config, plan: True
    """Whether a model of this config that trains by this plan has it."""
    late: bool = False
    """Whether it begins when prototypes join the loss."""


_EVERY = {
    "loss": Log(lambda terms, _: terms["loss"]),
    "unweighted_loss": Log(lambda terms, _: terms["unweighted"]),
    "recon_loss": Log(lambda terms, _: terms["reconstruction"]),
    "kl_loss": Log(lambda terms, _: terms["kl"]),
}
LOGS: Mapping[str, Mapping[str, Log]] = {
    "trvae": _EVERY | {"mmd_loss": Log(lambda terms, _: terms["mmd"], needs=lambda config, _: config.mmd)},
    "expimap": _EVERY | {"hsic_loss": Log(lambda terms, _: terms["hsic"], needs=lambda config, _: config.hsic)},
    "scpoli": _EVERY
    | {
        "cvae_loss": Log(lambda terms, plan: terms["loss"] - plan.scpoli.prototype_weight * terms["prototype"]),
        "prototype_loss": Log(lambda terms, plan: plan.scpoli.prototype_weight * terms["prototype"], late=True),
        "labeled_loss": Log(
            lambda terms, plan: terms["prototype"] - plan.scpoli.unlabelled_weight * _unlabelled(terms), late=True
        ),
        "unlabeled_loss": Log(
            lambda terms, _: _unlabelled(terms), needs=lambda _, plan: plan.scpoli.unlabelled_weight > 0, late=True
        ),
    },
}
"""Kind of model to what its trainer logs, behind ``epoch_`` (training cells) or ``val_`` (validation cells)."""


def _unlabelled(terms: Terms) -> float:
    return terms.get("unlabelled", 0.0)


@dataclass(frozen=True)
class Trainer:
    """How training went, by scArches' names.

    Attributes
    ----------
    logs
        Lists with a value for each epoch: ``epoch_<loss>`` of the training cells, ``val_<loss>`` of the validation
        cells. Those of scPoli's prototypes begin when prototypes join the loss.
    n_epochs, epoch
        How many epochs there were to be, and the last one that was trained, from 0.
    best_epoch
        The epoch whose weights were kept; None when nothing was judged.
    training_time
        Wall time in seconds.
    """

    logs: dict[str, list[float]] = field(repr=False)
    n_epochs: int
    epoch: int
    best_epoch: int | None
    training_time: float

    @classmethod
    def of(cls, history: History, model: Model, plan: Plan) -> Trainer:
        """Return what a history of training shows of a model."""
        logs = dict(_logged(history.epochs, _known(model, plan), plan))
        return cls(logs, plan.epochs, len(history.epochs) - 1, history.best_epoch, history.seconds)


def _logged(epochs: pd.DataFrame, known: Mapping[str, Log], plan: Plan) -> Iterator[tuple[str, list[float]]]:
    """Yield scArches' name and the values of each log of the splits that there are."""
    for beginning, split in SPLITS.items():
        rows = [found for row in epochs.to_dict("records") if (found := _terms(row, split))]
        for name, log in known.items() if rows else ():
            judged = rows[_joined(plan) if log.late else 0 :]
            yield f"{beginning}_{name}", [float(log.value(terms, plan)) for terms in judged]


def _terms(row: Mapping[Any, float], split: str) -> dict[str, float]:
    """Return the terms of one split in an epoch's row of the history, NaN where this epoch had none as 0."""
    found = {str(name).removeprefix(f"{split}_"): value for name, value in row.items() if f"{split}_" in str(name)}
    return {name: 0.0 if pd.isna(value) else value for name, value in found.items()}


def _known(model: Model, plan: Plan) -> dict[str, Log]:
    config = model.manifest.architecture
    return {name: log for name, log in LOGS[config.kind].items() if log.needs(config, plan)}


def _joined(plan: Plan) -> int:
    """Return the first epoch with prototypes in the loss."""
    chosen = plan.scpoli.pretraining_epochs
    return int(0.9 * plan.epochs) if chosen is None else chosen


def judge(model: Model, plan: Plan, *, metric: str = DEFAULT, mode: str = "min") -> Judge:
    """Return what decides on early stopping and the best weights, from scArches' ``early_stopping_kwargs``.

    Raises
    ------
    InvalidInput
        If this model logs no such metric, or there is no such mode.
    """
    known = _known(model, plan)
    names = [f"{beginning}_{name}" for beginning in SPLITS for name in known]
    if metric not in names:
        raise errors.InvalidInput(
            f"early_stopping_metric is {metric!r}; training this model logs "
            f"{errors.names(names, shown=len(names))}.{_missing(metric, model)}",
            facts={"early_stopping_metric": metric},
        )
    if mode not in MODES:
        raise errors.InvalidInput(
            f"mode is {mode!r}; it is one of {errors.names(MODES)}: whether a smaller or a larger value is better.",
            facts={"mode": mode},
        )
    beginning, _, name = metric.partition("_")
    log, sign = known[name], MODES[mode]

    def value(row: Mapping[str, float]) -> float:
        terms = _terms(row, SPLITS[beginning]) or _terms(row, SPLITS["epoch"])
        return sign * log.value(terms, plan)

    return Judge(value, first=_joined(plan) if log.late else 0)


def _missing(metric: str, model: Model) -> str:
    """Return what to do for a metric that models of this kind log under other settings."""
    settings = {
        "mmd_loss": " The discrepancy is there with use_mmd=True.",
        "hsic_loss": " The dependence is there with use_hsic=True.",
        "unlabeled_loss": " Unlabelled prototypes take part in training where unlabeled_weight is above 0.",
    }
    name = metric.partition("_")[2]
    return settings.get(name, "") if name in LOGS[model.manifest.architecture.kind] else ""

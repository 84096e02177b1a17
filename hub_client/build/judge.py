"""judge(): calibrate a trained model by cells that it did not see, and state how good it is; refuse it by its gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.build.criticism import Source
from hub_client.build.left_out import LeftOut, joined, left_out, parts
from hub_client.build.transfer_comparison import transfer_metrics
from hub_client.data.cells import Cells
from hub_client.labels.calibrate import calibrate
from hub_client.labels.evaluate import evaluate
from hub_client.labels.predict import Predictions, predict
from hub_client.labels.predict import joined as joined_predictions
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration, Metric, Trust
from hub_client.manifest.recipe import Gate, Recipe
from hub_client.manifest.report import LevelReport, Report
from hub_client.manifest.v1 import Manifest
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.nn.training import say, split

METRICS = {
    "accuracy": "share of cells whose predicted label is the true one",
    "latent_accuracy": "the same of labels from the latent alone, as hub_client.predict gives them beside",
    "macro_f1": "mean of F1 over the labels that cells have or are given (scikit-learn's), so that rare labels count "
    "as much as common ones",
    "latent_macro_f1": "the same of labels from the latent alone",
    "calibration_error": "expected calibration error of the uncertainty over ten bins",
    "set_coverage": "share of cells whose label set holds the true label",
    "set_size": "mean number of labels in a label set",
}
"""The metrics of a release, and the definition of each. What a level has no labels for is left out."""
HALVES = "; each half is judged by the calibration fitted on the other"
"""What the definition of such a metric adds where it is of the cells that the calibration was fitted on."""


@dataclass(frozen=True)
class Training:
    """What a build trained its model on, and how it trains another on a part of it."""

    cells: Cells
    """With labels; none of them is held out."""
    studies: NDArray[np.str_]
    """The data set of each cell, ``(cells,)``."""
    fitted: Callable[[Model, Cells], Model]
    """Trains a new model, and gives it what its labels are transferred from."""
    progress: bool
    device: str = "auto"


def judge(model: Model, training: Training, held_out: Cells, recipe: Recipe) -> None:
    """Calibrate a trained model, put its metrics into the manifest, and refuse it if it fails a gate.

    Of recipes of version 2 whose reference has several batches, temperatures and thresholds come from each batch as a
    model of the others sees it; else from the held-out cells.

    Raises
    ------
    InvalidInput
        If a gate is not passed.
    """
    if not recipe.labels:
        return
    decided = recipe.trust.model_dump(exclude={"distance_quantile", "left_out"})  # before anything is fitted
    unfitted = [Calibration(level=rule.key, temperature=1.0, **decided) for rule in recipe.own_levels]
    model.manifest = model.manifest.changed(trust=_trust(model, unfitted))
    seen = list(_left_out(model, training, recipe))
    report = _by_left_out(model, seen, held_out, recipe) if seen else _by_held_out(model, held_out, recipe)
    _check_gates(recipe, report)


# --- by held-out cells -----------------------------------------------------------------------------------------------


def _by_held_out(model: Model, held_out: Cells, recipe: Recipe) -> Report:
    report = evaluate(_cross_fitted(model, held_out, recipe), _truth(held_out))
    validated_on = f"{len(held_out):,} cells of the reference's own data sets that were not trained on"
    model.manifest = model.manifest.changed(
        trust=_trust(model, _calibrations(model, held_out, recipe), validated_on=validated_on),
        metrics=_metrics(report, held_out, model.manifest, recipe, definitions=_halved()),
    )
    return report


def _halved() -> Mapping[str, str]:
    return METRICS | {name: METRICS[name] + HALVES for name in ("calibration_error", "set_coverage", "set_size")}


def _truth(cells: Cells) -> dict[str, pd.Series]:
    return {level: pd.Series(names, index=cells.obs_names) for level, names in cells.labels.items()}


def _trust(model: Model, calibrations: Iterable[Calibration], *, validated_on: str | None = None) -> Trust:
    return model.manifest.trust.model_copy(update={"calibrations": tuple(calibrations), "validated_on": validated_on})


def _calibrations(model: Model, cells: Cells, recipe: Recipe) -> tuple[Calibration, ...]:
    evidences = evidence(model, embed(model, cells), cells=cells)
    quantile, with_sets = recipe.trust.distance_quantile, recipe.recipe_version > 1
    chosen = [c for c in model.manifest.trust.calibrations if c.level in evidences]
    return tuple(
        calibrate(
            evidences[c.level], cells.labels[c.level], calibration=c, distance_quantile=quantile, with_sets=with_sets
        )
        for c in chosen
    )


def _cross_fitted(model: Model, cells: Cells, recipe: Recipe) -> Predictions:
    """Return predictions in which each half of the cells is calibrated on the other half."""
    halves = []
    one, other = (rows.numpy() for rows in split(cells, model.vocabulary, fraction=0.5, seed=recipe.seed))
    for fitted, judged in ((one, other), (other, one)):
        trust = _trust(model, _calibrations(model, cells.rows(fitted), recipe))
        trusted = replace(model, manifest=model.manifest.changed(trust=trust))
        halves.append(predict(trusted, cells.rows(judged), unknown_above=None))
    return joined_predictions(halves)


# --- by batches that are left out ------------------------------------------------------------------------------------


def _left_out(model: Model, training: Training, recipe: Recipe) -> Iterator[LeftOut]:
    """Return each batch, or study, as a model of the others sees it; none where the recipe wants none."""
    if recipe.recipe_version == 1 or not recipe.trust.left_out:
        return
    chosen = parts(training.cells, model, studies=training.studies)
    if training.progress and chosen:
        say(f"training {len(chosen)} models to calibrate labels by, each without one of {errors.names(chosen)}")
    shared: dict[str, Any] = {"fitted": training.fitted, "seed": recipe.seed, "device": training.device}
    yield from left_out(model, training.cells, chosen=chosen, **shared)


def _by_left_out(model: Model, seen: Sequence[LeftOut], held_out: Cells, recipe: Recipe) -> Report:
    """Calibrate a model by what models of the rest say of each batch; what is reported are the held-out cells.

    A level none of whose labels are in two parts, such as one that a single data set has, is calibrated on those.
    """
    names = errors.names([one.name for one in seen], shown=len(seen))
    cells = sum(len(one.cells) for one in seen)
    on = f"{cells:,} cells of {names}, each as a model of the others sees it"
    found = {c.level: c.model_copy(update={"fitted_on": on}) for c in _over(model, seen, recipe)}
    decided = model.manifest.trust.calibrations
    alone = {c.level: c for c in _calibrations(model, held_out, recipe)} if len(found) < len(decided) else {}
    calibrations = [(alone | found)[c.level] for c in decided if c.level in alone | found]
    model.manifest = model.manifest.changed(trust=_trust(model, calibrations, validated_on=on))
    report = evaluate(predict(model, held_out, unknown_above=None), _truth(held_out))
    metrics = _metrics(report, held_out, model.manifest, recipe, definitions=METRICS)
    model.manifest = model.manifest.changed(metrics=(*metrics, *_transferred(model, seen, recipe)))
    return report


def _over(model: Model, seen: Sequence[LeftOut], recipe: Recipe) -> list[Calibration]:
    """Return the calibrations that all of some parts give, each part weighing the same; none that they do not tell."""
    found = []
    for calibration in model.manifest.trust.calibrations:
        usable = [one for one in seen if one.tells(calibration.level)]
        if not usable:
            continue
        evidences, truth, part = joined(usable, calibration.level)
        settings: dict[str, Any] = {"distance_quantile": recipe.trust.distance_quantile, "with_sets": True}
        found.append(calibrate(evidences, truth, calibration=calibration, groups=part, **settings))
    return found


def _transferred(model: Model, seen: Sequence[LeftOut], recipe: Recipe) -> Iterator[Metric]:
    """Return how well each part is labelled by a model of the others, calibrated by these, and by its opponents."""
    source = Source.of(recipe)
    for one in seen:
        others = [other for other in seen if other is not one] or [one]
        fitted = {c.level: c for c in (*model.manifest.trust.calibrations, *_over(model, others, recipe))}
        trust = _trust(one.model, fitted.values())
        trusted = replace(one.model, manifest=one.model.manifest.changed(trust=trust))
        found = predict(trusted, one.cells.relabelled({}), unknown_above=None)
        yield from transfer_metrics(model, one.training, one.cells, batch=one.name, predictions=found, source=source)


# --- what is reported ------------------------------------------------------------------------------------------------


def _metrics(
    report: Report, cells: Cells, manifest: Manifest, recipe: Recipe, *, definitions: Mapping[str, str]
) -> tuple[Metric, ...]:
    held_out = f"held out ({recipe.holdout.fraction:.0%}, stratified by conditions and label, never trained on)"
    shared = Source.of(recipe).stated(manifest, cells, split=held_out)
    return tuple(
        Metric(
            name=f"{level.level}.{name}",
            definition=definition + (_never_true(level) if name == "macro_f1" else ""),
            value=getattr(level, name),
            n=level.cells,
            **shared,
        )
        for level in report.levels
        for name, definition in definitions.items()
        if getattr(level, name) is not None
    )


def _never_true(level: LevelReport) -> str:
    """Return which labels pull a macro-F1 down though no cell has them; "" where all that are given are true."""
    given = errors.names(f"{label} ({cells:,} cells)" for label, cells in level.never_true.items())
    return f"; given and never true, each an F1 of 0: {given}" if given else ""


def _check_gates(recipe: Recipe, report: Report) -> None:
    values = {(gate.level, gate.metric): getattr(report[gate.level], gate.metric) for gate in recipe.gates}
    failed = [line for gate in recipe.gates if (line := _fault(gate, values[gate.level, gate.metric]))]
    if failed:
        raise errors.InvalidInput(
            f"{recipe.name} {recipe.version} was not written: its held-out cells fail gates of the recipe:\n  "
            + "\n  ".join(failed),
            facts={f"{level}.{metric}": value for (level, metric), value in values.items()},
        )


def _fault(gate: Gate, value: float) -> str | None:
    """Return how a value misses a gate; None if it passes."""
    what = f"{gate.level}.{gate.metric} is {value:.4f}, wanted"
    if gate.at_least is not None and value < gate.at_least:
        return f"{what} at least {gate.at_least:g}"
    if gate.at_most is not None and value > gate.at_most:
        return f"{what} at most {gate.at_most:g}"
    return None

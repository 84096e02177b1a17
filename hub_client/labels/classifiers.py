"""with_expression_classifiers(): a model that also names labels by expression alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.expression import LinearClassifier, fit
from hub_client.manifest.calibration import ExpressionClassifier
from hub_client.manifest.v1 import TensorSpec
from hub_client.models.model import Model

PREFIX = "expression."
PARTS = ("weight", "bias", "centre")
"""The tensors of a classifier: fields of LinearClassifier, and what a manifest's record of it names."""


def with_expression_classifiers(model: Model, cells: Cells) -> Model:
    """Return the model with a linear classifier of log-normalised counts for each of the cells' label levels.

    Where the latent mixes studies that draw the line between two labels differently, expression keeps them apart;
    ``transfer = "consensus"`` averages both (docs/label-transfer.md).

    Parameters
    ----------
    model
        A model of counts.
    cells
        The reference, with labels.

    Raises
    ------
    Unsupported
        If the model does not read counts.
    """
    if model.manifest.input.kind != "counts":
        raise errors.Unsupported(
            f"{model.manifest.name} reads {model.manifest.input.kind} values; a classifier of expression needs counts.",
            kind=model.manifest.architecture.kind,
            verb="with_expression_classifiers",
        )
    described = replace(model)
    described.describe()
    own = (level.key for level in model.manifest.own_levels)
    levels = [key for key in own if (cells.labels.get(key, np.empty(0)) != "").any()]
    fitted = {f"{PREFIX}{index}": _fitted(model, cells, level) for index, level in enumerate(levels)}
    tensors = {f"{name}.{part}": getattr(found, part) for name, found in fitted.items() for part in PARTS}
    records = (
        ExpressionClassifier.model_validate({"level": level} | {part: f"{name}.{part}" for part in PARTS})
        for level, name in zip(levels, fitted, strict=True)
    )
    trust = model.manifest.trust.model_copy(update={"classifiers": tuple(records)})
    kept = tuple(spec for spec in described.manifest.tensors if not spec.name.startswith(PREFIX))
    specs = tuple(_spec(name, len(value)) for name, value in tensors.items())
    extras = {name: value for name, value in model.extras.items() if not name.startswith(PREFIX)}
    return replace(
        model,
        manifest=described.manifest.changed(trust=trust, tensors=(*kept, *specs)),
        extras=extras | {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()},
    )


def _fitted(model: Model, cells: Cells, level: str) -> LinearClassifier:
    names = cells.labels[level]
    labelled = np.flatnonzero(names != "")
    vocabulary = model.vocabulary
    axis = vocabulary.labels[level]
    groups = vocabulary.combination_codes(vocabulary.condition_codes(cells.conditions, cells=len(cells)))
    return fit(cells.x[labelled], axis.codes(names[labelled]), groups[labelled], labels=len(axis))


def _spec(name: str, length: int) -> TensorSpec:
    """Describe a tensor; labels are counted, not named as an axis, for the level may grow after the fit."""
    shapes = {"weight": (str(length), "genes"), "bias": (str(length),), "centre": ("genes",)}
    return TensorSpec(name=name, dtype="F32", shape=shapes[name.rpartition(".")[2]])

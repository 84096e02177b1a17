"""Votes of the nearest reference cells by expression, in the space that a release keeps to recognise strangers by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.expression_space import PARTS, ExpressionSpace
from hub_client.labels.neighbors import votes
from hub_client.manifest.calibration import NoveltyRecord
from hub_client.models.model import Model
from hub_client.release.folder import WEIGHTS


def expression_votes(model: Model, level: str, cells: Cells, *, neighbors: int) -> NDArray[np.float64] | None:
    """Return each label's share of the votes of the nearest reference cells by expression, ``(cells, labels)``.

    None for a model that does not keep its reference's expression, or no labels of this level with it. The space is
    that of the genes that the query measured; votes are weighted as those in a latent are.

    Parameters
    ----------
    model
        The model.
    level
        One of its label levels.
    cells
        The query.
    neighbors
        How many reference cells vote.
    """
    record = model.manifest.trust.novelty
    if record is None or level not in record.labels:
        return None
    space, codes = kept_space(model, record), _codes(model, record, level)
    labelled = codes >= 0
    if not labelled.any():
        return None
    view = space.over(cells.measured(model.vocabulary.genes))
    reference, points = view.reference[labelled], view.points(cells.x)
    labels = len(model.vocabulary.labels[level])
    return votes(reference, codes[labelled], points, neighbors=neighbors, labels=labels)


def kept_space(model: Model, record: NoveltyRecord) -> ExpressionSpace:
    """Return the space of expression that a release keeps.

    Raises
    ------
    IntegrityError
        If its tensors are not those of such a space.
    """
    if lost := [part for part in PARTS if record.tensors.get(part) not in model.extras]:
        raise incomplete(model, f"lacks {errors.names(lost)} of what novelty is told by")
    found = {part: model.extras[record.tensors[part]].numpy() for part in PARTS}
    genes = len(model.vocabulary.genes)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("mean", "spread", "share", "between"), (genes,))
    shapes |= {"loadings": (genes, record.components), "scores": (len(found["scores"]), record.components)}
    if wrong := [part for part, value in found.items() if value.shape != shapes[part] or not np.isfinite(value).all()]:
        raise incomplete(model, f"has {errors.names(wrong)} of no such space of expression")
    return ExpressionSpace(**found)


def incomplete(model: Model, what: str) -> errors.IntegrityError:
    """Return the error of a release whose tensors do not hold what its manifest states."""
    return errors.IntegrityError(
        f"{WEIGHTS} of {model.manifest.name} {what}. Ask the release's maker for an intact one.", file=WEIGHTS
    )


def _codes(model: Model, record: NoveltyRecord, level: str) -> NDArray[np.int64]:
    """Return the label of each kept cell as its place among the categories, -1 for none, ``(reference cells,)``."""
    name, labels = record.labels[level], len(model.vocabulary.labels[level])
    codes = model.extras[name].numpy() if name in model.extras else np.empty(0, dtype=np.int64)
    cells = len(model.extras[record.tensors["scores"]])
    if codes.shape != (cells,) or (codes < -1).any() or (codes >= labels).any():
        raise incomplete(model, f"has labels of {level!r} that are none of its reference's")
    return codes

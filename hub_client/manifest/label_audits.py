"""What an audit of labels found, as a release records it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from hub_client.manifest._frozen import Frozen
from hub_client.manifest.scalars import Key, Text, UnitInterval


class AuditedLabel(Frozen):
    """One label's row of an audit."""

    label: Text
    cells: PositiveInt
    suspected: NonNegativeInt
    """Cells that are probably something else (confident learning)."""
    called: dict[str, PositiveInt] = {}
    """What the suspected cells are called instead, the most frequent first."""
    agreement: UnitInterval | None = None
    """Share of the cells that a classifier of other batches calls the same; None where there are none."""
    without_markers: UnitInterval | None = None
    """Share of the cells deep enough to show a marker in which none is seen; None of a label without such markers."""
    forbidden_markers: UnitInterval | None = None
    """Share of the cells with counts of a marker that they should not have; None of a label without such markers."""


class LabelAuditRecord(Frozen):
    """An audit of one level's labels, before training."""

    level: Key
    cells: PositiveInt
    """Labelled cells."""
    batches: PositiveInt
    suspected: NonNegativeInt
    unjudged: tuple[Text, ...] = ()
    """Labels with too few cells to be judged."""
    labels: tuple[AuditedLabel, ...]
    seed: NonNegativeInt
    folds: Annotated[int, Field(ge=2)]

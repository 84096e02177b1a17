"""Written rules that correct the labels of a reference's cells before anything is trained, and what each one did."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator

from hub_client.manifest._frozen import Frozen
from hub_client.manifest.scalars import Text, check_unique


class Correction(Frozen):
    """A rule that relabels, unlabels or leaves out cells, by the label they were given and genes they have counts of.

    Of several rules that a cell meets, the first one counts; each looks at the label that the data set gave.
    """

    given: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The labels that the rule is for, as the data sets give them, before ``datasets.rename``."""
    datasets: tuple[Text, ...] = ()
    """The names of the data sets it is for; none are all that have the level."""
    present: tuple[Text, ...] = ()
    """The cell has a count of at least one of these; none asks nothing. Genes are named as the data sets name them, and
    need not be in the panel."""
    absent: tuple[Text, ...] = ()
    """The cell has no count of any of these."""
    to: Text | None = None
    """The release's label that the cell gets."""
    unlabel: bool = False
    """Whether the cell stays in the reference without a label: a cell like others, whose kind nobody knows."""
    leave_out: bool = False
    """Whether the cell is left out of the reference, its atlas included: a doublet, a broken cell."""
    reason: Text
    """Why: what was measured, for people to judge."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unique("given", self.given)
        if (self.to is not None) + self.unlabel + self.leave_out != 1:
            raise ValueError("a correction needs one of: to = a label, unlabel = true, leave_out = true")
        if both := sorted(set(self.present) & set(self.absent)):
            raise ValueError(f"no cell has counts of {both[0]!r} and none of it: it is in present and in absent")
        return self


class AppliedCorrection(Frozen):
    """A correction, and how many cells it changed."""

    rule: Correction
    cells: NonNegativeInt
    """Cells that it relabelled, unlabelled or left out."""
    among: NonNegativeInt
    """Cells that had one of the given labels."""

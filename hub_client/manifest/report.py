"""Report: how predictions compare with the truth."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt

from hub_client.manifest._frozen import Frozen

Share = Annotated[float, Field(ge=0, le=1)]


class LabelScore(Frozen):
    """One label's row: one against the rest."""

    label: str
    cells: NonNegativeInt
    precision: Share
    recall: Share
    f1: Share


class LevelReport(Frozen):
    """How one label level was recovered, over the cells whose true label the model knows."""

    level: str
    cells: NonNegativeInt
    accuracy: Share
    macro_f1: Share
    """Mean F1 over the labels that a cell truly has or was given: scikit-learn's ``f1_score(average="macro")``."""
    mean_uncertainty: Share
    calibration_error: Share
    """Expected calibration error over ten equal-width bins of confidence (Guo 2017, arXiv:1706.04599)."""
    error_auroc: Share | None
    """How well uncertainty ranks wrong cells above right ones; None where all cells are right or all wrong."""
    unknown: NonNegativeInt
    """Cells that were called unknown; they count as wrong."""
    not_in_model: dict[str, NonNegativeInt]
    """Labels of the truth that the model does not know, and their cells, which are left out."""
    labels: tuple[LabelScore, ...]
    """Every label of the mean, those that no cell truly has with 0 cells."""
    never_true: dict[str, NonNegativeInt] = {}
    """Labels that cells were given and none truly has, and how many cells: each counts as an F1 of 0 in the mean."""
    latent_accuracy: Share | None = None
    """Accuracy of the labels from the latent alone, none of which is unknown; None where there are none."""
    latent_macro_f1: Share | None = None
    """Macro-F1 of the labels from the latent alone; None where there are none."""

    set_coverage: Share | None = None
    """Share of cells whose label set holds the true label; None for a release without sets."""
    set_size: Annotated[float, Field(ge=1)] | None = None
    """Mean number of labels in a set; None for a release without sets."""
    named_accuracy: Share | None = None
    """Accuracy over the cells that were not called unknown; None where all were or none was."""


class Report(Frozen):
    """How predictions compare with the truth, one entry per label level."""

    levels: tuple[LevelReport, ...]

    def __getitem__(self, level: str) -> LevelReport:
        return next(report for report in self.levels if report.level == level)

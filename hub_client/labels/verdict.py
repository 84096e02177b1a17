"""verdict(): whether a mapping deserves trust, and why: each reason a number against its threshold.

What is measured, and where a threshold lies, is a row of :data:`MEASURES`; docs/verdict.md states what each threshold
was measured on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hub_client.data.cells import Cells
from hub_client.labels import verdict_measures as measures
from hub_client.labels.novelty import FOREIGN_ABOVE
from hub_client.labels.predict import Predictions
from hub_client.labels.verdict_measures import Found, Mapped, NotChecked, Novelty
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model

Colour = Literal["green", "amber", "red"]
ORDER: tuple[Colour, ...] = ("green", "amber", "red")
"""From the best to the worst."""
DIGITS = 4
"""What a value is rounded to: sums end in other digits on other machines, and a verdict is the same."""


@dataclass(frozen=True)
class Check:
    """One measure of a mapping against its thresholds.

    Attributes
    ----------
    name
        What was measured.
    value
        The number; None where it could not be measured.
    amber, red
        From where on the check has that colour; None where no value has it.
    colour
        ``green``, ``amber``, ``red`` or ``not checked``.
    what
        A sentence with the number and its thresholds, or why there is none.
    advice
        What to do; empty where there is nothing to do.
    """

    name: str
    value: float | None
    amber: float | None
    red: float | None
    colour: Literal["green", "amber", "red", "not checked"]
    what: str
    advice: str


@dataclass(frozen=True)
class Verdict:
    """Whether a mapping deserves trust.

    Attributes
    ----------
    colour
        The worst of the checks': ``green`` has no objection, ``amber`` asks for a look, ``red`` for a reason to use the
        mapping all the same.
    checks
        One for each measure, in the order of :data:`MEASURES`.
    """

    colour: Colour
    checks: tuple[Check, ...]

    @property
    def objections(self) -> tuple[Check, ...]:
        """The checks that are not green, the worst first."""
        found = [check for check in self.checks if check.colour in ("amber", "red")]
        return tuple(sorted(found, key=lambda check: check.colour != "red"))

    @property
    def stated(self) -> str:
        """The verdict in one line: the colour, and what is against the mapping."""
        made = sum(check.colour != "not checked" for check in self.checks)
        against = ", ".join(f"{check.name} ({check.colour})" for check in self.objections)
        return f"{self.colour}: {against}" if against else f"{self.colour}: nothing against it in {made} checks"

    def __str__(self) -> str:
        lines = [f"{check.colour}: {check.what} {check.advice}".rstrip() for check in self.objections]
        return "\n".join([self.stated, *(f"  {line}" for line in lines)])

    def as_json(self) -> dict[str, Any]:
        """Return the verdict in types that JSON has."""
        return {"colour": self.colour, "checks": [dict(vars(check)) for check in self.checks]}


@dataclass(frozen=True)
class Limits:
    """From where on a check is amber, and from where on red; None: from nowhere."""

    amber: float | None = None
    red: float | None = None


@dataclass(frozen=True)
class Measure:
    """One row of the verdict: what is measured, and what its number means.

    Attributes
    ----------
    name
        What the table on screen calls it.
    compute
        Makes the number of what a mapping has.
    said
        A sentence with ``{value}`` in it.
    advice
        What to do about a number that is not green.
    limits
        The thresholds, or what makes them of the release.
    worse
        On which side of a threshold the worse numbers are.
    shown
        How the number is written.
    """

    name: str
    compute: Callable[[Mapped], Found]
    said: str
    advice: str
    limits: Limits | Callable[[Manifest], Limits]
    worse: Literal["above", "below"] = "above"
    shown: str = ".1%"

    def check(self, mapped: Mapped) -> Check:
        """Return the check of a mapping."""
        limits = self.limits if isinstance(self.limits, Limits) else self.limits(mapped.model.manifest)
        found = self.compute(mapped)
        if isinstance(found, NotChecked):
            said = f"{found.reason[0].upper()}{found.reason[1:]}."
            return Check(self.name, None, limits.amber, limits.red, "not checked", said, "")
        value = round(found, DIGITS)
        colour = self._colour(value, limits)
        said = f"{self.said.format(value=format(value, self.shown))}{self._thresholds(limits)}."
        return Check(self.name, value, limits.amber, limits.red, colour, said, "" if colour == "green" else self.advice)

    def _colour(self, value: float, limits: Limits) -> Colour:
        passed = operator.gt if self.worse == "above" else operator.lt
        steps: tuple[tuple[Colour, float | None], ...] = (("red", limits.red), ("amber", limits.amber))
        return next((colour for colour, limit in steps if limit is not None and passed(value, limit)), "green")

    def _thresholds(self, limits: Limits) -> str:
        named = {"amber": limits.amber, "red": limits.red}
        texts = [f"{colour} {self.worse} {limit:{self.shown}}" for colour, limit in named.items() if limit is not None]
        return f" ({', '.join(texts)})" if texts else ""


def _of_coverage(manifest: Manifest) -> Limits:
    return Limits(manifest.genes.coverage_warn, None)


MEASURES: tuple[Measure, ...] = (
    Measure(
        "genes",
        measures.coverage,
        "The query measures {value} of the model's genes",
        "Map the counts of all genes, before any selection, or choose a reference whose genes the query has.",
        _of_coverage,
        worse="below",
    ),
    Measure(
        "genes by use",
        measures.weighted_coverage,
        "The query measures {value} of what the encoder reads, its genes weighted by use",
        "Map the counts of all genes, before any selection, or choose a reference whose genes the query has.",
        _of_coverage,
        worse="below",
    ),
    Measure(
        "input",
        measures.doubts,
        "Alignment has {value} doubts about the values or the organism",
        "Read its warnings, in mapping.alignment.doubts, and mend what they name.",
        Limits(amber=0),
        shown=".0f",
    ),
    Measure(
        "counts",
        measures.skew,
        "The largest count of a cell is {value} times the mean of its counts",
        "These look like logarithms or ranks that were rounded: map the counts from before any normalisation.",
        Limits(amber=8, red=6),
        worse="below",
        shown=".1f",
    ),
    Measure(
        "depth",
        measures.depth,
        "{value} of the cells have fewer counts than 5% of the reference's or more than 95%",
        "Check that these are the counts of whole cells; trust fine labels less where cells are shallow.",
        Limits(amber=0.5),
    ),
    Measure(
        "beyond the atlas",
        measures.beyond_atlas,
        "{value} of the cells are farther from the reference's cells than 95% of these are from each other",
        "Check organism, tissue and gene names: the reference may not hold such cells. Choose another if it does not.",
        Limits(amber=0.3, red=0.75),
    ),
    Measure(
        "novel cells",
        measures.novel,
        "{value} of the cells are of no type of the reference by their expression",
        "Look at mapping.novelty.clusters for the genes that set them apart; do not use their labels.",
        Limits(amber=0.2, red=0.6),
    ),
    Measure(
        "expression",
        measures.foreign_score,
        "Expression differs from the reference's by {value} tolerances of a gene in the median cell",
        "Check organism, tissue, gene names and technology: all of the query differs, not some of its cells.",
        Limits(amber=FOREIGN_ABOVE),
        shown=".2f",
    ),
    Measure(
        "neighbourhoods",
        measures.neighborhoods_kept,
        "Of a cell's nearest by expression, {value} more than by chance are near it in the latent",
        "What the query's cells differ in is lost in this latent: cluster on expression, or choose another reference.",
        Limits(amber=0.2),
        worse="below",
    ),
    Measure(
        "batches mixed",
        measures.batches_mixed,
        "Within a label, batches of the query mix at {value} of what chance gives",
        "Look whether batches differ in biology; if not, train on the query (--train).",
        Limits(amber=0.4),
        worse="below",
    ),
    Measure(
        "mixed with reference",
        measures.reference_mixed,
        "Within a label, the query mixes with the reference at {value} of what chance gives",
        "Look at the latent of both together before the query's and the reference's cells are compared in it.",
        Limits(amber=0.2),
        worse="below",
    ),
    Measure(
        "markers",
        measures.contradicted,
        "Markers contradict {value} of the confidently labelled cells",
        "Plot the markers by predicted label, and do not use labels that they contradict.",
        Limits(amber=0.15, red=0.4),
    ),
    Measure(
        "uncertainty",
        measures.mean_uncertainty,
        "The mean uncertainty of labels is {value}",
        "Labels are unsure throughout: check organism, tissue and gene names, or choose another reference.",
        Limits(amber=0.25, red=0.3),
        shown=".3f",
    ),
    Measure(
        "unknown",
        measures.unknown,
        "{value} of the cells are too unsure to be named",
        "Leave these cells without a label, or take a coarser level; the reference may lack their type.",
        Limits(amber=0.2, red=0.5),
    ),
    Measure(
        "labels by training",
        measures.labels_changed,
        "Training gave {value} of the cells another label",
        "Compare with a mapping that is not trained (--no-train): labels should not hang on training.",
        Limits(amber=0.15),
    ),
    Measure(
        "moved by training",
        measures.shift,
        "Training moved cells by {value} of their spread in the latent",
        "Compare with a mapping that is not trained (--no-train), and train for fewer epochs.",
        Limits(amber=1.0),
    ),
)
"""Every measure, in the order of the table on screen."""


def verdict(
    model: Model,
    cells: Cells,
    *,
    predictions: Predictions,
    untrained: Predictions | None = None,
    novelty: Novelty | None = None,
    seed: int = 0,
) -> Verdict:
    """Return whether a mapping deserves trust, by every measure of :data:`MEASURES`.

    Its cost does not grow with the query but for one pass over its cells: neighbours are searched for 2,000 of them.

    Parameters
    ----------
    model
        The model that knows the query's conditions.
    cells
        The query as the model read it.
    predictions
        Latent and labels of all cells.
    untrained
        Latent and labels of the cells :func:`hub_client.labels.verdict_measures.sampled` draws, before training; None
        where nothing was trained.
    novelty
        How new the cells are, for the measures that ask for it.
    seed
        Of the cells that are drawn.

    Examples
    --------
    >>> cells = hub_client.align(adata, model)  # doctest: +SKIP
    >>> verdict(model, cells, predictions=hub_client.predict(model, cells)).colour  # doctest: +SKIP
    'green'
    """
    sample = measures.sampled(len(cells), seed=seed)
    mapped = Mapped(model, cells, predictions, sample, seed=seed, untrained=untrained, novelty=novelty)
    checks = tuple(measure.check(mapped) for measure in MEASURES)
    colours = [check.colour for check in checks if check.colour != "not checked"]
    return Verdict(max(colours, key=ORDER.index, default="green"), checks)

"""The audit of a recipe's labels, after its corrections and before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from hub_client.build import datasets
from hub_client.labels.audit import FEWEST, LabelAudit, audit_labels
from hub_client.manifest.axes import Markers
from hub_client.manifest.recipe import LabelRule, Recipe


def audit_recipe(recipe: Recipe | str | Path, *, data: str | Path) -> tuple[LabelAudit, ...]:
    """Return the audit of each of a recipe's own label levels, after its corrections.

    Parameters
    ----------
    recipe
        A recipe, or the path of its TOML file.
    data
        The folder that holds the recipe's data sets.

    Raises
    ------
    NotFound, ManifestError, IntegrityError, VocabularyError, AlignmentError
        As :func:`hub_client.build.build.build`.
    """
    found = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
    return audits(found, datasets.load(found, Path(data)))


def audits(recipe: Recipe, reference: datasets.Reference) -> tuple[LabelAudit, ...]:
    """Return the audit of each label level that has two labels to compare; derived levels follow from others."""
    batch = recipe.conditions[0].key
    return tuple(
        audit_labels(
            reference.counts, rule.key, batch=batch, markers=_measured(rule, reference), layer="X", seed=recipe.seed
        )
        for rule in recipe.own_levels
        if _comparable(reference.counts.obs[rule.key])
    )


def _comparable(labels: pd.Series) -> bool:
    sizes = labels[labels != ""].value_counts()
    return bool((sizes >= FEWEST).sum() > 1)


def _measured(rule: LabelRule, reference: datasets.Reference) -> dict[str, Markers]:
    """Return the markers of labels that cells have."""
    return {
        label: rule.markers[label] for label in sorted(set(reference.counts.obs[rule.key])) if label in rule.markers
    }


def lines(found: Sequence[LabelAudit]) -> Iterator[str]:
    """Yield what an audit found, a line for each level and for each thing to look at."""
    for audit in found:
        suspected, cells = audit.record.suspected, audit.record.cells
        yield f"labels {audit.level!r}: {suspected:,} of {cells:,} cells look like others ({suspected / cells:.1%})"
        yield from (f"  {warning}" for warning in audit.warnings)

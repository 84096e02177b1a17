"""``archzoo list`` and ``archzoo info``: which models there are, and what is known of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hub_client import errors
from hub_client.cli import options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.manifest.v1 import Manifest

COLUMNS = (
    Column("name", text=lambda listing: listing.name),
    Column("version", text=lambda listing: listing.version or ""),
    Column("architecture", text=lambda listing: listing.architecture),
    Column("organism", rank=4, text=lambda listing: listing.organism or ""),
    Column("tissue", rank=3, text=lambda listing: ", ".join(listing.tissue)),
    Column("genes", "right", text=lambda listing: f"{listing.genes:,}"),
    Column("cells", "right", rank=2, text=lambda listing: f"{listing.cells:,}" if listing.cells else ""),
    Column("labels", "right", rank=1, text=lambda listing: f"{len(listing.labels):,}" if listing.labels else ""),
    Column("licence", rank=5, text=lambda listing: listing.license or ""),
    Column("hub", rank=6, text=lambda listing: listing.hub),
)
METRICS = (
    Column("metric", text=lambda metric: metric.name),
    Column("value", "right", text=lambda metric: f"{metric.value:.3f}"),
    Column("data", text=lambda metric: metric.dataset),
    Column("cells", "right", text=lambda metric: f"{metric.n:,}"),
    Column("split", rank=1, text=lambda metric: metric.split),
)
SHOWN = 8
"""Categories or labels named in a line of ``info``."""


def list_models(
    query: Annotated[
        str, typer.Argument(help="Only models with these words, or ontology ids.", show_default=False)
    ] = "",
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """List the models there are.

    Those that come with archzoo, and those in your hub.

    For example:

    ```
    archzoo list
    archzoo list pbmc
    archzoo list "lupus 10x"
    archzoo list CL:0000236
    archzoo list --json | jq -r '.[].name'
    ```
    """
    found = options.hub_at(hub).search(query)
    if as_json:
        screen.say_json([asdict(listing) for listing in found])
    elif not found:
        screen.complain(f"no model matches {query!r}; `archzoo list` shows all." if query else _empty(hub))
    else:
        screen.say_table(COLUMNS, found)


def _empty(hub: str | None) -> str:
    missing = hub is not None and "://" not in hub and not Path(hub).expanduser().exists()
    return f"there is no hub at {hub} yet; the first push makes it." if missing else "there is no model to list."


def info(model: options.ModelName, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Show what a model is and how good it is.

    For example:

    ```
    archzoo info pbmc-scpoli
    archzoo info pbmc-scpoli@1.0.0 --json
    ```
    """
    place = options.hub_at(hub)
    ref, manifest = place.resolve(model), place.manifest(model)
    if as_json:
        screen.say_json({"ref": options.record(ref), "manifest": manifest.model_dump(mode="json")})
        return
    screen.say_paragraph(manifest.title or manifest.name)
    if manifest.summary:
        screen.say_paragraph(manifest.summary)
    screen.say()
    screen.say_facts(options.identity(ref))
    screen.say()
    screen.say_facts({name: value for name, value in facts(manifest).items() if value})
    if manifest.metrics:
        screen.say()
        show_metrics(manifest)


def facts(manifest: Manifest) -> dict[str, str]:
    """Return what a manifest holds, for people; fields without a value are empty."""
    organism = () if manifest.organism is None else (manifest.organism,)
    origin = {"organism": organism, "tissue": manifest.tissue, "assay": manifest.assay, "disease": manifest.disease}
    config = manifest.architecture
    settings = ", ".join(f"{name} {short(value)}" for name, value in config.model_dump(exclude={"kind"}).items())
    return {
        "architecture": f"{config.kind} ({settings})",
        **{name: ", ".join(term.label for term in terms) for name, terms in origin.items()},
        "genes": f"{len(manifest.genes.panel):,}, by {manifest.genes.id_type}; refuses a query with less than "
        f"{manifest.genes.coverage_refuse:.0%}",
        **{f"condition {condition.key}": counted(condition.categories) for condition in manifest.conditions},
        **{f"labels {level.key}": counted(level.categories) for level in manifest.labels},
        "proteins": counted(manifest.proteins.panel) if manifest.proteins else "",
        "gene programs": _programs(manifest),
        "trained on": "; ".join(_trained_on(manifest)),
        "training": _training(manifest),
        "lineage": _lineage(manifest),
        "intended use": manifest.intended_use,
        "limitations": manifest.limitations,
        "licence": manifest.license or "",
        "data licence": manifest.data_license or "",
        "authors": ", ".join(author.name for author in manifest.authors),
        "cite": f"doi:{manifest.citation.doi}" if manifest.citation and manifest.citation.doi else "",
    }


def short(value: object) -> str:
    """Return a setting in one word: the items of a list joined by dashes."""
    return "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def counted(names: Sequence[str]) -> str:
    """Return how many names there are, and the first of them."""
    return f"{len(names):,}: {errors.names(names, shown=SHOWN)}"


def _programs(manifest: Manifest) -> str:
    active = [term.name for term in manifest.terms if term.active]
    sources = dict.fromkeys(f"{term.source} ({term.license})" for term in manifest.terms if term.source)
    count = f"{len(active):,} of {len(manifest.terms):,} active" + (f", {errors.names(sources)}" if sources else "")
    return f"{count}: {errors.names(active, shown=SHOWN)}" if manifest.terms else ""


def _trained_on(manifest: Manifest) -> list[str]:
    how = ", mapped without training" if manifest.as_started else ""
    found = [f"{one.name} ({one.cells:,} cells{how})" for one in manifest.training.datasets]
    parent = manifest.lineage.parent if manifest.lineage else None
    return [*found, f"all that {parent.name} {parent.version or ''}".rstrip() + " was trained on"] if parent else found


def _training(manifest: Manifest) -> str:
    training, plan = manifest.training, manifest.training.plan
    if not plan or not training.epochs:
        return ""
    return f"{training.epochs} epochs, batches of {plan.batch_size}, seed {training.seed}"


def _lineage(manifest: Manifest) -> str:
    lineage = manifest.lineage
    if lineage is None:
        return ""
    parent = lineage.parent
    return f"{lineage.relation} of {parent.name} {parent.version or ''}".strip() if parent else lineage.relation


def show_metrics(manifest: Manifest) -> None:
    """Print a release's metrics as a table."""
    screen.say_table(METRICS, manifest.metrics)

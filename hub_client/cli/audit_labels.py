"""``archzoo audit-labels``: which labels of a data set are doubtful, which cells, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hub_client import errors
from hub_client.cli import options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hub_client.labels.audit import LabelAudit
    from hub_client.manifest.axes import Markers

SHOWN = 8
Data = Annotated[Path, typer.Argument(help="Cells with counts and labels.", show_default=False)]
Labels = Annotated[str, typer.Option("--labels", metavar="COLUMN", help="The column of obs.", show_default=False)]
Batch = Annotated[str | None, typer.Option(metavar="COLUMN", help="Batches or studies.", show_default=False)]
Layer = Annotated[str | None, typer.Option(metavar="NAME", help="The layer that holds counts, if not X.")]
Recipe = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A recipe whose level of that name, or whose only one, has markers.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Gets the doubtful cells, as CSV.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Gets a picture: what each label's cells are called.")]
Seed = Annotated[int, typer.Option(help="Of the folds.")]
TABLE = (
    Column("label", text=lambda row: str(row["label"])),
    Column("cells", "right", text=lambda row: f"{row['cells']:,}"),
    Column("suspected", "right", text=lambda row: _share(row["suspected_share"])),
    Column("called instead", text=lambda row: _called(row["called_instead"])),
    Column("other batches agree", "right", rank=1, text=lambda row: _share(row["agreement"])),
    Column("no marker", "right", rank=2, text=lambda row: _share(row["without_markers"])),
    Column("forbidden marker", "right", rank=2, text=lambda row: _share(row["forbidden_markers"])),
    Column("(elsewhere)", "right", rank=3, text=lambda row: _share(row["elsewhere"])),
)


def audit_labels(
    data: Data,
    labels: Labels,
    batch: Batch = None,
    recipe: Recipe = None,
    layer: Layer = None,
    out: Out = None,
    plot: Plot = None,
    seed: Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Audit the labels of a data set.

    Classifiers say what each cell is without having seen it, and, with `--batch`, without its batch. Confident learning
    names the cells whose labels are probably wrong. Markers of a recipe (`[labels.markers]`) are checked beside that:
    they alone see an error that runs through a whole data set.

    For example:

    ```
    archzoo audit-labels reference.h5ad --labels cell_type --batch study --out suspects.csv
    archzoo audit-labels pbmc.h5ad --labels cell_type_broad --recipe pbmc-scpoli.toml --plot audit.png
    ```
    """
    from hub_client.data.open_query import read_cells
    from hub_client.labels.audit import audit_labels as audit

    adata = read_cells(data)
    markers = _markers(recipe, labels, known=set(map(str, adata.obs.get(labels, ()))))
    found = audit(adata, labels, batch=batch, markers=markers, layer=layer, seed=seed)
    _write(found, out=out, plot=plot)
    if as_json:
        screen.say_json({**found.record.model_dump(mode="json"), "warnings": list(found.warnings)})
    else:
        _show(found)


def _markers(recipe: Path | None, level: str, *, known: set[str]) -> dict[str, Markers]:
    """Return the markers of a recipe's level of that name, or of its only one, for labels that the data have."""
    if recipe is None:
        return {}
    from hub_client.manifest.recipe import Recipe

    rules = Recipe.read(recipe).own_levels
    chosen = [rule for rule in rules if rule.key == level] or rules
    if len(chosen) != 1:
        raise errors.InvalidInput(
            f"--recipe {recipe} has the label levels {errors.names([rule.key for rule in rules]) or 'none'}, and "
            f"--labels is {level!r}: name a column that is called as a level.",
            facts={"recipe": recipe, "labels": level},
        )
    return {label: markers for label, markers in chosen[0].markers.items() if label in known}


def _write(found: LabelAudit, *, out: Path | None, plot: Path | None) -> None:
    if out is not None:
        found.suspects.to_csv(out)
    if plot is not None:
        from hub_client.plot.label_audit import label_audit

        cast("Figure", label_audit(found).figure).savefig(plot, dpi=150)


def _show(found: LabelAudit) -> None:
    rows = [{"label": label, **row} for label, row in found.table.iterrows()]
    screen.say_table(TABLE, [{**row, "suspected_share": row["suspected"] / row["cells"]} for row in rows])
    screen.say()
    for warning in found.warnings[:SHOWN]:
        screen.say_paragraph(warning)
    if len(found.warnings) > SHOWN:
        screen.say(f"and {len(found.warnings) - SHOWN:,} more (--json has all)")
    if not found.warnings:
        screen.say("nothing to look at: classifiers, batches and markers agree with the labels")


def _share(value: float) -> str:
    return "" if value != value else f"{value:.1%}"  # NaN: not judged


def _called(called: dict[str, int]) -> str:
    return ", ".join(f"{name} {cells:,}" for name, cells in list(called.items())[:3])

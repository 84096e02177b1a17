"""``archzoo import`` and ``export``: folders of scArches and scvi-tools, made a release or made of one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import browse, options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.interop.inspection import Inspection

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What scArches or scvi-tools saved.", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder.", show_default=False)]
Inspect = Annotated[bool, typer.Option("--inspect", help="Show what is inside, and load nothing.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="The model's name, instead of the folder's.")]
Kind = Annotated[str | None, typer.Option(metavar="KIND", help="Refuse a model of another kind, as in `scpoli`.")]
Organism = Annotated[str | None, typer.Option(metavar="NAME", help="What the genes are of, as in `human`.")]
GeneIds = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Ensembl ids: one a line in the model's order, or lines of gene, tab, id."),
]
Terms = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Names of an expiMap's gene programs: one a line, in their order; or a GMT file."
    ),
]
Reference = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="What scArches saved of the model that surgery started from.")
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="What the names of scvi-tools' files begin with.")]
Scvi = Annotated[
    Path, typer.Option("--scvi", metavar="FOLDER", help="A new folder for scvi-tools.", show_default=False)
]
Replace = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
TENSORS = (Column("tensor"), Column("shape", "right"))
REQUESTS = (Column("is"), Column("asked for"), Column("by", rank=1))


def import_model(
    folder: Folder,
    out: Out = None,
    inspect: Inspect = False,
    name: Name = None,
    kind: Kind = None,
    organism: Organism = None,
    gene_ids: GeneIds = None,
    terms: Terms = None,
    reference: Reference = None,
    prefix: Prefix = "",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make a release of a model that scArches or scvi-tools saved.

    Reads folders of trVAE, expiMap and scPoli (`attr.pkl`, `model_params.pt`, `var_names.csv`), and of scVI, scANVI and
    totalVI (`model.pt`, or the same three before 0.15), such as repositories of scvi-hub. Runs nothing that is in them:
    a file that asks for more than numbers, text, arrays, tensors and frames is refused, and all that it asks for is
    listed. What a release cannot hold, such as the training cells, is left out and named; minified cells become the
    atlas.

    For example:

    ```
    archzoo import my-model/ --inspect
    archzoo import my-model/ --organism human --out imported
    archzoo import human-lung-cell-atlas/ --organism human --out hlca
    archzoo map imported --query lupus.h5ad -c batch=library --out mapped.h5ad
    ```
    """
    if inspect:
        _inspect(folder, prefix=prefix, as_json=as_json)
        return
    if out is None:
        raise errors.InvalidInput("give a new folder for the release with --out, or look at the folder with --inspect.")
    from hub_client.interop.import_legacy import import_legacy
    from hub_client.interop.term_names import read as read_names

    model = import_legacy(
        folder,
        name=name,
        kind=kind,
        organism=organism,
        gene_ids=None if gene_ids is None else _gene_ids(gene_ids),
        term_names=None if terms is None else read_names(terms),
        reference=reference,
        prefix=prefix,
    )
    model.save(out, overwrite=force)
    _show_import(out, as_json=as_json)


def export_model(
    model: options.ModelName,
    scvi: Scvi,
    force: Replace = False,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Write a release of scVI, scANVI or totalVI for scvi-tools.

    `scvi.model.SCVI.load(FOLDER, adata)` reads it, as do those of SCANVI and TOTALVI. Such a folder is a pickle, which
    runs code when it is loaded: to share a model, share its release, which cannot.

    For example:

    ```
    archzoo export pbmc-scvi --scvi pbmc-scvi-tools
    ```
    """
    from hub_client.interop.export_scvi import export_scvi

    written = export_scvi(options.hub_at(hub).pull(model), scvi, overwrite=force)
    if as_json:
        screen.say_json({"folder": str(written)})
    else:
        screen.say_facts({"folder": str(written), "read by": "scvi-tools, as a pickle: load it where you trust it"})


# --- looking ---------------------------------------------------------------------------------------------------------


def _inspect(folder: Path, *, prefix: str, as_json: bool) -> None:
    from hub_client.interop.inspection import inspect

    inspection = inspect(folder, prefix=prefix)
    if as_json:
        screen.say_json(_record(folder, inspection))
        return
    screen.say_facts({name: value for name, value in _facts(folder, inspection).items() if value})
    screen.say()
    requests = sorted(inspection.contents.requests, key=lambda request: request.allowed)
    screen.say_table(REQUESTS, [["allowed" if one.allowed else "refused", one.name, one.file] for one in requests])
    if inspection.contents.shapes is not None:
        screen.say()
        shapes = inspection.contents.shapes.items()
        screen.say_table(TENSORS, [[name, " x ".join(map(str, shape)) or "1 number"] for name, shape in shapes])


def _record(folder: Path, inspection: Inspection) -> dict[str, Any]:
    contents = inspection.contents
    return {
        "folder": str(folder),
        "kind": inspection.kind,
        "genes": list(contents.genes),
        "conditions": inspection.conditions,
        "labels": inspection.labels,
        "programs": inspection.programs,
        "settings": inspection.settings,
        "cells": contents.cells.name if contents.cells else None,
        "asks_for": [asdict(request) for request in contents.requests],
        "refused": list(inspection.refused),
        "tensors": None if contents.shapes is None else {name: list(shape) for name, shape in contents.shapes.items()},
    }


def _facts(folder: Path, inspection: Inspection) -> dict[str, str]:
    contents = inspection.contents
    return {
        "folder": str(folder),
        "kind": inspection.kind or "none that archzoo imports",
        "genes": browse.counted(contents.genes),
        **{f"condition {key}": browse.counted(names) for key, names in inspection.conditions.items()},
        **{f"labels {key}": browse.counted(names) for key, names in inspection.labels.items()},
        "gene programs": ", ".join(f"{count:,} {kind}" for kind, count in inspection.programs.items()),
        "settings": ", ".join(f"{name} {browse.short(value)}" for name, value in inspection.settings.items()),
        "cells": f"in {contents.cells.name}" if contents.cells else "",
        "import": _outlook(inspection),
    }


def _outlook(inspection: Inspection) -> str:
    if refused := len(inspection.refused):
        return f"refused: it asks for {refused} {'thing' if refused == 1 else 'things'} that no saved model needs"
    return "can be imported" if inspection.kind else "refused: it is none of the kinds that archzoo imports"


# --- importing -------------------------------------------------------------------------------------------------------


def _gene_ids(file: Path) -> list[str] | dict[str, str]:
    """Return a file's lines, or its two columns where there are tabs."""
    if not file.is_file():
        raise errors.NotFound(f"--gene-ids {file}: no such file.", name=str(file))
    lines = file.read_text(encoding="utf-8").splitlines()
    if not any("\t" in line for line in lines):
        return [line.strip() for line in lines]
    rows = [line.split("\t") for line in lines if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise errors.InvalidInput(
            f"--gene-ids {file}: some lines have a tab and some have none. Write one id a line, or gene, tab, id.",
            facts={"gene_ids": str(file)},
        )
    return {row[0].strip(): row[1].strip() for row in rows}


def _show_import(folder: Path, *, as_json: bool) -> None:
    place = options.hub_at()
    ref, manifest = place.resolve(folder), place.manifest(folder)
    origin = manifest.imported_from
    lost = list(origin.lost) if origin else []
    if as_json:
        files = {file.path: file.sha256 for file in origin.files} if origin else {}
        more = {"kind": manifest.architecture.kind, "imported_from": files, "not_kept": lost}
        options.show_release(ref, as_json=True, folder=str(folder), **more)
        return
    options.show_release(ref, as_json=False, folder=str(folder))
    screen.say()
    screen.say_facts({name: value for name, value in browse.facts(manifest).items() if value})
    screen.say()
    screen.say_facts({"not kept": "; ".join(lost)})

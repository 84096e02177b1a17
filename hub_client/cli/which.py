"""``archzoo which``: which reference fits these cells."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from hub_client import errors
from hub_client.cli import options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.mapping.rank_references import ReferenceFit, References

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_COLOURS = {"green": "green", "amber": "yellow", "red": "red", "not tried": "dim"}


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(value: float | None, shown: str) -> str:
    return "" if value is None else format(value, shown)


COLUMNS = (
    Column("", "right", text=lambda row: str(row.rank)),
    Column("model", text=lambda row: row.name),
    Column("version", rank=3, text=lambda row: row.version or ""),
    Column("tissue", rank=4, text=lambda row: ", ".join(row.tissue)),
    Column("genes", "right", text=lambda row: _share(row.coverage)),
    Column("by use", "right", rank=2, text=lambda row: _share(row.weighted_coverage)),
    Column("novel", "right", text=lambda row: _share(row.novel)),
    Column("beyond", "right", rank=1, text=lambda row: _share(row.beyond_atlas)),
    Column("unsure", "right", text=lambda row: _number(row.uncertainty, ".2f")),
    Column("nearer", "right", text=lambda row: _number(row.reconstruction, "+.2f")),
    Column("verdict", text=lambda row: row.verdict or "not tried", style=lambda text: _COLOURS.get(text, "")),
)


def which(
    query: Annotated[str, typer.Argument(help="The cells, as for `archzoo map`.", show_default=False)],
    hub: options.HubFolder = None,
    tissue: Annotated[
        str | None,
        typer.Option(
            metavar="TISSUE",
            help="Only references of this tissue, a part of its name or its ontology id, or of none that is stated.",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", min=0, help="Models to pull and try, at most.")] = 3,
    max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="How much to pull for that, at most, all models together.")
    ] = "500MB",
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The layer that holds counts.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same result.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Find the reference that fits your cells.

    Every model of your hubs is held against the cells, first by its manifest: organism, tissue, values, and the share
    of its genes that the cells have. The best few are pulled, and up to 1,000 of the cells mapped onto each without
    training.

    `genes` is the share of the model's genes that were measured, `by use` of what it reads of them; `novel` the share
    of cells that are of no type of the reference, `beyond` those beyond its atlas; `unsure` the mean uncertainty of
    labels; `nearer` by how much what the model expects of a cell is nearer to it than the average cell (nats a count;
    below 0 it is farther); `verdict` that of `archzoo map`.

    For example:

    ```
    archzoo which lupus.h5ad
    archzoo which lupus.h5ad --tissue blood --most 5 --max-size 2GB
    archzoo which lupus.h5ad --hub https://hub.lab.example --json | jq -r .best
    ```
    """
    limit = size(max_size)

    from hub_client.data.examples import QUERIES, bundled_query
    from hub_client.mapping.rank_references import rank_references  # not before cheap mistakes: this loads torch

    cells = bundled_query(query) if query in QUERIES else query
    found = rank_references(cells, hub=hub, layer=layer, tissue=tissue, most=most, max_bytes=limit, seed=seed)
    command = _command(found, query, hub=hub, layer=layer)
    if as_json:
        screen.say_json(found.as_json() | {"command": command})
        return
    _show(found)
    screen.say_paragraph(f"{found.stated}")
    if command:
        screen.say(f"\n  {command}")


def _show(found: References) -> None:
    if not found.rows:
        return
    screen.say_table(COLUMNS, found.rows)
    screen.say()
    for row in found.rows:
        screen.say_paragraph(f"{row.rank}. {row.name}: {row.reason}")
    screen.say()


def size(text: str) -> int:
    """Return a number of bytes as people write it: 200MB, 1.5 GB, 4096; units of a thousand.

    Raises
    ------
    InvalidInput
        If it is not written so.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise errors.InvalidInput(
            f"--max-size is {text!r}; it is a number with a unit, such as 200MB or 1.5GB.", facts={"max_size": text}
        )
    return int(float(found[1]) * _FACTORS[found[2].upper()])


def _command(found: References, query: str, *, hub: str | None, layer: str | None) -> str | None:
    """Return what maps the cells onto the best model; None without one."""
    best = found.best
    if best is None:
        return None
    words = ["archzoo", "map", best.name, "--query", query, "--out", "mapped.h5ad"]
    words += ["--layer", layer] if layer else []
    place = hub or (best.hub if _is_ambiguous(found, best) else None)
    return shlex.join([*words, *(["--hub", place] if place else [])])


def _is_ambiguous(found: References, best: ReferenceFit) -> bool:
    return sum(row.name == best.name for row in found.rows) > 1

"""``archzoo lock``, ``verify``, ``cite`` and ``replay``: what a pipeline pins, a paper cites and a reviewer repeats."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hub_client import errors
from hub_client.cli import failures, options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.mapping.replay import Replay

Names = Annotated[list[str], typer.Argument(help="Releases, as in `kidney` or `my-lab/kidney@1.2.0`.")]
LockFile = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The lock file.")]
Format = Annotated[Literal["bibtex", "cff"], typer.Option(help="`bibtex`, or `cff` for a CITATION.cff.")]
ReceiptFile = Annotated[Path, typer.Argument(help="A receipt that `archzoo map` wrote.", show_default=False)]
Query = Annotated[str, typer.Option(metavar="FILE", help="The cells that were mapped.", show_default=False)]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The reference, where it is in no hub.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Another seed, to see what it changes.", min=0)]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Another number of threads.", min=1)]
CLAIMS = (Column("claim"), Column("holds"), Column("seconds", "right", rank=1), Column("because"))
_HOLDS = {True: "yes", False: "no", None: "not tried"}


def lock(
    models: Names, out: LockFile = Path("archzoo.lock"), hub: options.HubFolder = None, as_json: options.Json = False
) -> None:
    """Pin the releases that a pipeline uses.

    Writes their versions, commits, digests, files, data sets and the releases they were grown from to `archzoo.lock`:
    commit it with your code. Then `archzoo pull --locked` refuses anything else.

    For example:

    ```
    archzoo lock pbmc-scpoli my-lab/kidney
    archzoo pull my-lab/kidney --locked archzoo.lock --out kidney
    ```
    """
    from hub_client.hub.lock import lock as pin
    from hub_client.hub.lock import write_lock

    pinned = pin(models, options.hub_at(hub))
    write_lock(out, pinned)
    if as_json:
        screen.say_json(pinned.model_dump(mode="json"))
        return
    for model in pinned.models:
        screen.say(f"{model.name}@{model.version or model.commit} sha256:{model.digest}")


def verify(model: options.ModelName, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Check whether a release works here as it did for its maker.

    Reports which of four claims hold: *valid* (every file is the one that the manifest names), *loads* (the network
    takes the weights), *runs* (it embeds and labels simulated cells) and *reproduces* (latents and labels are those
    that its maker got). Ends with 5 if one does not hold.

    For example:

    ```
    archzoo verify pbmc-scpoli
    archzoo verify my-lab/kidney@sha256:8c41d0e2b7aa
    ```
    """
    from hub_client.hub.claims import check_claims

    claims = check_claims(model, hub=options.hub_at(hub))
    if as_json:
        screen.say_json([asdict(claim) for claim in claims])
    else:
        rows = [[claim.name, _HOLDS[claim.holds], f"{claim.seconds:.2f}", claim.message] for claim in claims]
        screen.say_table(CLAIMS, rows)
    if not all(claim.holds for claim in claims):
        raise typer.Exit(failures.EXIT_CODES[errors.IntegrityError][0])


def cite(model: options.ModelName, format: Format = "bibtex", hub: options.HubFolder = None) -> None:
    """Print how to cite a model and its data.

    It contains the digest, by which readers of the paper can pull the very same release; of a model that was grown from
    another one, that release and its data too.

    For example:

    ```
    archzoo cite pbmc-scpoli >> references.bib
    archzoo cite pbmc-scpoli --format cff > CITATION.cff
    ```
    """
    from hub_client.release import citation

    place = options.hub_at(hub)
    writers = {"bibtex": citation.bibtex, "cff": citation.cff}
    cited = writers[format](place.manifest(model), place.resolve(model), ancestors=place.ancestors(model))
    screen.say(cited.rstrip("\n"))


def replay(
    receipt: ReceiptFile,
    query: Query,
    model: Model = None,
    seed: Seed = None,
    threads: Threads = None,
    hub: options.HubFolder = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make a mapping again from its receipt.

    Pulls the reference by the receipt's digest, maps the same cells in the same way, and reports what is the same and
    what is not: the cells, the seed, versions, threads, latents, labels. Ends with 1 if a label differs.

    For example:

    ```
    archzoo replay mapped.receipt.json --query lupus.h5ad
    archzoo replay mapped.receipt.json --query lupus.h5ad --seed 1
    ```
    """
    from hub_client.manifest.receipts import read_receipt

    given = read_receipt(_content(receipt), source=str(receipt))
    place = options.hub_at(hub)
    reference = place.pull(model or f"{given.reference.name}@sha256:{given.reference.digest}")

    from hub_client.data.examples import QUERIES, bundled_query
    from hub_client.mapping.replay import replay as repeat  # after the names were found: this loads torch

    cells = bundled_query(query) if query in QUERIES else query
    repeated = repeat(given, cells, model=reference, seed=seed, threads=threads, progress=not quiet)
    if as_json:
        fields = ("same", "same_labels", "largest", "uncertainty")
        differences = [asdict(difference) for difference in repeated.differences]
        screen.say_json({name: getattr(repeated, name) for name in fields} | {"differences": differences})
    else:
        screen.say("\n  ".join([_verdict(repeated), *map(str, repeated.differences)]))
    if not repeated.same_labels:
        raise typer.Exit(1)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise errors.NotFound(f"there is no receipt {path}.", name=str(path)) from None


def _verdict(repeated: Replay) -> str:
    if repeated.receipt is None:
        return "these are not the cells that were mapped:"
    if repeated.same:
        same = "latents and labels are the same, bit for bit"
        return f"{same}; what else differs:" if repeated.differences else same
    labels = "all labels are the same" if repeated.same_labels else "labels differ"
    doubt = "" if repeated.uncertainty is None else f", uncertainties by up to {repeated.uncertainty:.3g}"
    return f"{labels}; latents differ by up to {repeated.largest:.3g}{doubt}:"

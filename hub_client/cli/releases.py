"""``archzoo pull``, ``push``, ``validate`` and ``build``: releases between folders and hubs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from hub_client.cli import options, screen
from hub_client.store.ref import Ref

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder.", show_default=False)]
To = Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Where in the hub.", show_default=False)]
Version = Annotated[str | None, typer.Option(metavar="X.Y.Z", help="Its version, instead of its manifest's.")]
Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="What changed.")]
Recipe = Annotated[Path, typer.Argument(help="A recipe, in TOML.", show_default=False)]
Data = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the recipe's data sets lie.", show_default=False)]
Zoo = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets NAME/VERSION/.", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def pull(model: options.ModelName, out: Out, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Write a model's release to a new folder, every file checked against its manifest.

    For example:

    ```
    archzoo pull pbmc-scpoli --out pbmc-scpoli
    archzoo pull my-lab/kidney@1.2.0 --out kidney
    ```
    """
    from hub_client.client import Hub

    place = Hub(hub)
    ref = place.resolve(model)
    place.download(model, out)
    _tell(ref, folder=str(out), as_json=as_json)


def push(
    folder: Annotated[Path, typer.Argument(help="A release folder.", show_default=False)],
    to: To,
    version: Version = None,
    message: Message = None,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Release a model from a folder into a hub, and print the commit and the digest to cite.

    For example:

    ```
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --version 1.1.0 -m "Two more donors"
    ```
    """
    from hub_client.client import Hub

    _tell(Hub(hub).push(folder, to, version=version, message=message), as_json=as_json)


def validate(model: options.ModelName, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Check a release: every file against its manifest, and what the manifest still lacks to be published.

    Ends with 1 if it could not be published as it is.

    For example:

    ```
    archzoo validate mapped-model/
    archzoo validate pbmc-scpoli
    ```
    """
    from hub_client.client import Hub
    from hub_client.manifest.publishing import publishing_problems

    with TemporaryDirectory(prefix="archzoo-") as folder:
        place = Hub(hub)
        ref = place.resolve(model)
        place.download(model, Path(folder) / "release")
    problems = publishing_problems(place.manifest(model))
    if as_json:
        screen.say_json({**options.told(ref), "problems": problems})
    else:
        screen.say(f"{ref}: every file is the one the manifest names")
        for problem in problems:
            screen.say(f"  {problem}")
    if problems:
        raise typer.Exit(1)


def build(recipe: Recipe, data: Data, out: Zoo, quiet: Quiet = False, as_json: options.Json = False) -> None:
    """Train a model as its recipe says, judge it by the recipe's gates, and write the release.

    For example:

    ```
    archzoo build zoo/recipes/pbmc-scpoli.toml --data ../shared/data --out zoo/released
    ```
    """
    from hub_client.build import build as build_release

    built = build_release(recipe, data=data, out=out, progress=not quiet)
    screen.say(str(built))


def _tell(ref: Ref, *, as_json: bool, **more: Any) -> None:
    if as_json:
        screen.say_json({**options.told(ref), **more})
        return
    screen.say_facts(options.identity(ref) | more)

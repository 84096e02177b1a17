"""``archzoo pull``, ``push``, ``validate`` and ``build``: releases between folders and hubs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client.cli import catalogue, options, screen
from hub_client.store.ref import Ref

if TYPE_CHECKING:
    from hub_client.model import Model

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder.", show_default=False)]
To = Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Where in the hub.", show_default=False)]
Version = Annotated[str | None, typer.Option(metavar="X.Y.Z", help="Its version, instead of its manifest's.")]
Parent = Annotated[
    str | None, typer.Option(metavar="REVISION", help="The release it follows, instead of the one it was made from.")
]
Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="What changed.")]
Recipe = Annotated[Path, typer.Argument(help="A recipe, in TOML.", show_default=False)]
Data = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the recipe's data sets lie.", show_default=False)]
Zoo = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets NAME/VERSION/.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace a release that is there already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def pull(model: options.ModelName, out: Out, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Write a release to a new folder.

    Every file is checked against the manifest.

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
    parent: Parent = None,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Release a model folder into a hub.

    Prints the commit and the digest, which a paper can cite.

    For example:

    ```
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --version 1.1.0 -m "Two more donors"
    ```
    """
    from hub_client.client import Hub

    _tell(Hub(hub).push(folder, to, version=version, message=message, parent=parent), as_json=as_json)


def validate(model: options.ModelName, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Check a release.

    Checks every file against the manifest, then the test vectors (a few simulated cells with the latents and labels
    that the model's maker got for them), then whether anything is missing that a published release needs. Ends with 1
    if the release could not be published as it is.

    For example:

    ```
    archzoo validate mapped-model/
    archzoo validate pbmc-scpoli
    ```
    """
    from hub_client.client import Hub
    from hub_client.manifest.publishing import publishing_problems

    place = Hub(hub)
    ref = place.resolve(model)
    with TemporaryDirectory(prefix="archzoo-") as folder:
        place.download(model, Path(folder) / "release")
    manifest = place.manifest(model)
    passed = ["files and manifest agree"]
    if manifest.test_vectors:
        _replay(place.pull(model))
        passed.append("test vectors reproduced")
    problems = publishing_problems(manifest)
    if as_json:
        screen.say_json({**options.told(ref), "passed": passed, "problems": problems})
    else:
        screen.say("\n  ".join([f"{ref}: {'; '.join(passed)}", *problems]))
    if problems:
        raise typer.Exit(1)


def _replay(model: Model) -> None:
    from hub_client.verify import verify

    verify(model)


def build(
    recipe: Recipe, data: Data, out: Zoo, force: Force = False, quiet: Quiet = False, as_json: options.Json = False
) -> None:
    """Train and release a model from its recipe.

    The model is judged by the recipe's gates, on cells it never saw. A release that misses a gate is not written.

    For example:

    ```
    archzoo build zoo/recipes/pbmc-scpoli.toml --data ../shared/data --out zoo/released
    ```
    """
    from hub_client.build import build as build_release
    from hub_client.client import Hub

    folder = build_release(recipe, data=data, out=out, overwrite=force, progress=not quiet)
    built = Hub()
    _tell(built.resolve(folder), folder=str(folder), as_json=as_json)
    if not as_json:
        screen.say()
        catalogue.show_metrics(built.manifest(folder))


def _tell(ref: Ref, *, as_json: bool, **more: Any) -> None:
    if as_json:
        screen.say_json({**options.told(ref), **more})
        return
    screen.say_facts(options.identity(ref) | more)

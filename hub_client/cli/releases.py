"""``archzoo pull``, ``push``, ``validate`` and ``build``: releases between folders and hubs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import browse, cache, options, screen
from hub_client.cli.screen import Column
from hub_client.release.store import Ref

if TYPE_CHECKING:
    from hub_client.checks.validate import Validation
    from hub_client.hub.client import Hub
    from hub_client.hub.preview import Preview
    from hub_client.release.signing import Signer

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FOLDER", help="A new folder; not needed for a bundle.", show_default=False),
]
Pr = Annotated[bool, typer.Option("--pr", help="Open a pull request instead; on a hub on the network.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and push nothing.")]
Private = Annotated[
    bool | None,
    typer.Option("--private/--public", help="Who sees a new repository on a hub on the network.", show_default=False),
]
To = Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Where in the hub.", show_default=False)]
Version = Annotated[str | None, typer.Option(metavar="X.Y.Z", help="Its version, instead of its manifest's.")]
Parent = Annotated[
    str | None, typer.Option(metavar="REVISION", help="The release it follows, instead of the one it was made from.")
]
Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="What changed.")]
Recipe = Annotated[Path, typer.Argument(help="A recipe, in TOML.", show_default=False)]
Data = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the recipe's data sets lie.", show_default=False)]
Zoo = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets NAME/VERSION/.", show_default=False)]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write what was found as a page.")]
Trust = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Publishers whose signatures you accept; warns of a release none of them signed."
    ),
]
Locked = Annotated[Path | None, typer.Option(metavar="FILE", help="Only what this lock file pins; see archzoo lock.")]
Delta = Annotated[bool, typer.Option("--delta", help="Keep only what surgery added, and the parent's digest.")]
Key = Annotated[Path | None, typer.Option("--sign", metavar="KEY", help="Sign the manifest; `archzoo key` makes keys.")]
PublishDonors = Annotated[
    bool,
    typer.Option("--publish-donors", help="Conditions that look like donors may be published; the manifest states it."),
]
WorseThanParent = Annotated[
    bool,
    typer.Option(
        "--worse-than-parent",
        help="Push also if it is worse than the release it was made from, by its test vectors or figures.",
    ),
]
Publisher = Annotated[str | None, typer.Option(metavar="NAME", help="Who signs, as readers see it.")]


def pull(
    model: options.ModelName,
    out: Out = None,
    locked: Locked = None,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Write a release to a new folder.

    Every file is checked against the manifest. A download that broke off goes on where it was. A bundle needs no
    folder: without one it goes into the cache, and its model is found by its name from then on, without a network.
    With `--locked`, the release has to be the one that the lock file pins, in every hash.

    For example:

    ```
    archzoo pull pbmc-scpoli --out pbmc-scpoli
    archzoo pull my-lab/kidney@1.2.0 --out kidney
    archzoo pull hf://my-lab/kidney --out kidney
    archzoo pull kidney.tar
    archzoo pull my-lab/kidney --locked archzoo.lock --out kidney
    ```
    """
    if out is None:
        options.show_release(_kept(model), as_json=as_json)
        return
    place = options.hub_at(hub)
    if locked:
        from hub_client.hub.lock import locked as pinned
        from hub_client.hub.lock import read_lock

        model = pinned(model, read_lock(locked), place)
    ref = place.resolve(model)
    place.download(model, out)
    options.show_release(ref, folder=str(out), as_json=as_json)


def push(
    folder: Annotated[Path, typer.Argument(help="A release folder.", show_default=False)],
    to: To,
    version: Version = None,
    message: Message = None,
    parent: Parent = None,
    pr: Pr = False,
    dry_run: DryRun = False,
    private: Private = None,
    delta: Delta = False,
    sign: Key = None,
    publisher: Publisher = None,
    publish_donors: PublishDonors = False,
    worse_than_parent: WorseThanParent = False,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Release a model folder into a hub.

    Prints the commit and the digest, which a paper can cite. On a hub on the network it is one commit, which is refused
    if somebody else pushed meanwhile; the token comes from the config file, `$ARCHZOO_TOKEN` or, for the public hub,
    your Hugging Face login.

    For example:

    ```
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --version 1.1.0 -m "Two more libraries"
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --hub https://hub.lab.example --private --dry-run
    archzoo push mapped-model --to hf://theirs/pbmc-scpoli --pr
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --delta
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k --sign lab.pem --publisher "My lab"
    ```
    """
    place = options.hub_at(hub)
    settings: dict[str, Any] = {"version": version, "parent": parent, "delta": delta}
    settings |= {"publish_donors": publish_donors, "worse_than_parent": worse_than_parent}
    if dry_run:
        _preview(place.preview(folder, to, **settings), as_json=as_json)
        return
    settings |= {"message": message, "signer": _signer(sign, publisher)}
    if pr:
        proposal = place.propose(folder, to, **settings)
        options.show_release(proposal.ref, **{"pull request": proposal.url}, as_json=as_json)
    else:
        options.show_release(place.push(folder, to, **settings, private=private), as_json=as_json)


def _signer(key: Path | None, publisher: str | None) -> Signer | None:
    if (key is None) != (publisher is None):
        raise errors.InvalidInput(
            "--sign and --publisher belong together: a key, and the name of the publisher.",
            facts={"sign": key, "publisher": publisher},
        )
    if key is None or publisher is None:
        return None
    from hub_client.release.signing import Signer

    return Signer(key, publisher)


def make_key(file: Annotated[Path, typer.Argument(help="A new file for the private key.", show_default=False)]) -> None:
    """Make a key to sign releases with.

    Writes the private key to a file that only you can read, and prints the public one: the line that others put under
    `[publishers]` in their trust file (`$ARCHZOO_TRUST`, or `trusted.toml` in archzoo's configuration folder).

    For example:

    ```
    archzoo key lab.pem
    ```
    """
    from hub_client.release.signing import new_key

    screen.say(f'"My lab" = "{new_key(file)}"')


def validate(
    model: options.ModelName,
    html: Html = None,
    trust: Trust = None,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Check a release.

    Checks every file against the manifest; that the fields are filled that a published release needs; that the card is
    in step; that there are no barcodes, donors, persons, file paths or e-mail addresses in any file; that labels,
    vocabulary and weights agree; the test vectors (a few simulated cells with the latents and labels that the model's
    maker got for them); the signature; and whether the same weights are in the hub under another name.

    `error`: do not use or publish it. `warning`: it could not be published as it is. `info`: good to know. Ends with 1
    if there are errors or warnings. A push runs these checks, too, and refuses errors.

    For example:

    ```
    archzoo validate mapped-model/
    archzoo validate pbmc-scpoli --html pbmc-scpoli.html
    archzoo validate my-lab/kidney --trust trusted.toml
    ```
    """
    place = options.hub_at(hub)
    ref = place.resolve(model)
    place.manifest(model)  # one that cannot be read raises its own error
    validation = _validation(place, model, ref, trust)
    if html:
        from hub_client.checks.validate import as_html

        html.write_text(as_html(str(ref), validation), encoding="utf-8")
    if as_json:
        screen.say_json({**options.record(ref), **asdict(validation), "publishable": validation.publishable})
    else:
        findings = [f"{finding.severity}: {finding.check}: {finding.message}" for finding in validation.findings]
        screen.say("\n  ".join([f"{ref}: {'; '.join(validation.passed)}", *findings]))
    if not validation.publishable:
        raise typer.Exit(1)


def _validation(place: Hub, model: str, ref: Ref, trust: Path | None) -> Validation:
    from hub_client.checks.validate import Finding, Validation, validate

    with TemporaryDirectory(prefix="archzoo-") as temporary:
        try:
            folder = place.download(model, Path(temporary) / "release")
        except errors.IntegrityError as error:
            return Validation((), (Finding("files", "error", str(error)),))
        return validate(folder, stores=place.stores, trust=trust, name=ref.repo)


def build(
    recipe: Recipe,
    data: Data,
    out: Zoo,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train and release a model from its recipe.

    The model is judged by the recipe's gates, on cells it never saw. A release that misses a gate is not written.

    For example:

    ```
    archzoo build zoo/recipes/pbmc-scpoli.toml --data ../shared/data --out zoo/released
    ```
    """
    from hub_client.build.build import build as build_release
    from hub_client.build.build import choose_programs

    chosen = choose_programs(recipe, data=data)
    folder = build_release(recipe, data=data, out=out, overwrite=force, progress=not quiet)
    place = options.hub_at()
    programs = {} if chosen is None else {"gene programs": str(chosen)}
    options.show_release(place.resolve(folder), as_json=as_json, folder=str(folder), **programs)
    if not as_json:
        screen.say()
        browse.show_metrics(place.manifest(folder))


def _kept(model: str) -> Ref:
    """Return the release of a bundle, put into the cache; InvalidInput for any other name."""
    from hub_client.hub import delta
    from hub_client.store.cache.downloads import Cache
    from hub_client.store.network import bundles

    path = Path(model).expanduser()
    if path.suffix != bundles.SUFFIX:
        last = model.split("@")[0].rstrip("/").split("/")[-1]
        raise errors.InvalidInput(
            f"a release is written to a new folder: give one with --out, as in --out {last}. "
            f"Only a bundle ({bundles.SUFFIX}) can do without.",
            facts={"out": None},
        )
    file = bundles.BundleFile(path, "models")
    with file.opened(file.ref()) as folder:
        delta.verify(folder)
    return file.keep(Cache.default())


def _preview(preview: Preview, *, as_json: bool) -> None:
    if as_json:
        screen.say_json(asdict(preview))
        return
    follows = f", after {preview.parent}" if preview.parent else ", the first release there"
    screen.say(f"{preview.repo}@{preview.version} in {preview.hub}{follows}. Nothing was pushed.\n")
    files = [[file.name, file.what, cache.readable(file.size)] for file in preview.files]
    screen.say_table([Column("file"), Column("what"), Column("size", "right")], files)
    screen.say()
    fields = [[change.field, change.before or "", change.after or ""] for change in preview.fields]
    screen.say_table([Column("field"), Column("before"), Column("after")], fields)

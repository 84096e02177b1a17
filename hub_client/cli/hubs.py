"""``archzoo bundle`` and ``export-static``: releases for machines that reach no hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hub_client import errors
from hub_client.cli import cache, options, screen

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE.tar", help="A new file.", show_default=False)]
Target = Annotated[Path, typer.Argument(metavar="DIR", help="A folder, new or exported to before.", show_default=False)]
IncludePrivate = Annotated[
    bool, typer.Option("--include-private", help="Also what the hub shows to some only. The folder is for those, then.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[OWNER/NAME]...", help="Only these repositories.")]


def bundle(model: options.ModelName, out: Out, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Write a release as one file.

    To carry to a machine without a network, where `archzoo pull FILE.tar` puts it into the cache. The file is a plain
    tar; the same release always gives the same bytes. A delta needs its parent there, too: bundle both.

    For example:

    ```
    archzoo bundle pbmc-scpoli --out pbmc-scpoli.tar
    archzoo pull pbmc-scpoli.tar
    ```
    """
    place = options.hub_at(hub)
    ref, path = place.resolve(model), place.bundle(model, out)
    size = path.stat().st_size
    more = {"file": str(path), "bytes": size} if as_json else {"file": f"{path} ({cache.readable(size)})"}
    options.show_release(ref, as_json=as_json, **more)


def export_static(
    folder: Target,
    names: Names = None,
    include_private: IncludePrivate = False,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Write a hub as plain files for any web server.

    Models and data sets of your hub, every version, in a folder that a web server or a bucket publishes as it is. Run
    it again after pushes: only what is new is written. It is read with `--hub static+https://HOST/PATH`. Left out is
    what a served hub shows to some only, and what is gated on the public one.

    For example:

    ```
    archzoo export-static public_html/zoo
    archzoo export-static public_html/zoo my-lab/kidney --hub /data/our-hub
    archzoo list --hub static+https://lab.example/zoo
    ```
    """
    from hub_client.release.store import DOCUMENT
    from hub_client.store import addresses
    from hub_client.store.network import static

    stores = [addresses.places(hub, kind=kind).target for kind in DOCUMENT]
    done = static.export(stores, folder.expanduser(), only=names or (), include_private=include_private)
    if as_json:
        screen.say_json({"folder": str(folder), **asdict(done)})
    else:
        written = cache.readable(done.written)
        screen.say(f"{folder}: {done.repositories} repositories, {done.releases} releases, {written} newly written")
        if done.private:
            screen.say(f"left out, as they are private: {errors.names(done.private)}")

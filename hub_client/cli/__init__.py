"""The ``archzoo`` command: the verbs, with tables and progress for people and ``--json`` for scripts.

Nothing heavy is imported here; each command imports what it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

import hub_client
from hub_client.cli import (
    audit_labels,
    browse,
    cache,
    hubs,
    import_export,
    map_cells,
    releases,
    reproduce,
    serve,
    versions,
    which,
)
from hub_client.cli.failures import failing, table_of_codes

app = typer.Typer(
    name="archzoo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=table_of_codes(),
)

COMMANDS: dict[str, Callable[..., None]] = {
    "list": browse.list_models,
    "info": browse.info,
    "which": which.which,
    "map": map_cells.map_cells,
    "pull": releases.pull,
    "push": releases.push,
    "bundle": hubs.bundle,
    "yank": versions.yank,
    "validate": releases.validate,
    "key": releases.make_key,
    "verify": reproduce.verify,
    "diff": versions.diff,
    "log": versions.log,
    "lock": reproduce.lock,
    "cite": reproduce.cite,
    "replay": reproduce.replay,
    "audit-labels": audit_labels.audit_labels,
    "build": releases.build,
    "import": import_export.import_model,
    "export": import_export.export_model,
    "export-static": hubs.export_static,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(cache.app, name="cache")
app.add_typer(serve.app, name="serve")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"archzoo {hub_client.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Map single cells onto published reference models.

    Models come from the zoo that is part of archzoo and from hubs: a folder, a hub that your lab serves
    (`archzoo serve`), the public Hugging Face hub (`hf://`), or a plain web server. `--hub` names one;
    without it, `$ARCHZOO_HUB` does, or the config file, or it is the folder `~/.local/share/archzoo/hub`.

    A first session:

    ```
    archzoo list
    archzoo info pbmc-scpoli
    archzoo map pbmc-scpoli --query pbmc68k --out mapped.h5ad --save-model mapped-model
    archzoo push mapped-model --to my-lab/pbmc-scpoli-68k
    ```
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, else the code of the kind of error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]  # a reader of a failed command adds it at the end
    with failing(debug=len(words) < len(given)):
        app(words, prog_name="archzoo")
    sys.exit(0)

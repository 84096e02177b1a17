"""``archzoo serve``: a hub of one's own on the network."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hub_client import errors
from hub_client.cli import failures, options, screen
from hub_client.cli.cache import readable
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.serve.garbage import Removed
    from hub_client.serve.tokens import Tokens

app = typer.Typer(invoke_without_command=True, no_args_is_help=True)
token = typer.Typer(no_args_is_help=True, help="Make, list and revoke the tokens that let people in.")
app.add_typer(token, name="token")


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    read = "read"
    write = "write"
    admin = "admin"


class Visibility(StrEnum):
    """Who sees a repository whose owner has not stated it."""

    private = "private"
    public = "public"


_ROOT = typer.Option("--root", metavar="DIR", help="The hub's folder; made if missing.", show_default=False)
Root = Annotated[Path, _ROOT]
COLUMNS = (
    Column("id", text=lambda token: token.id),
    Column("user", text=lambda token: token.user),
    Column("scope", text=lambda token: token.scope),
    Column("namespaces", text=lambda token: ", ".join(token.namespaces)),
    Column("created", rank=2, text=lambda token: token.created[:10]),
    Column("expires", rank=1, text=lambda token: (token.expires or "never")[:10]),
)
_GIGABYTE = 10**9


@app.callback()
def serve(
    context: typer.Context,
    root: Annotated[Path | None, _ROOT] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")] = 8400,
    url: Annotated[
        str | None, typer.Option(help="The hub's address as people see it, behind a proxy.", show_default=False)
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM), for https.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).", show_default=False)] = None,
    proxies: Annotated[
        str, typer.Option(metavar="ADDRESSES", help="Proxies whose X-Forwarded headers are believed.")
    ] = "127.0.0.1",
    visibility: Annotated[
        Visibility, typer.Option(help="Who sees a repository whose owner has not stated it.")
    ] = Visibility.private,
    max_file: Annotated[float, typer.Option(metavar="GB", help="Largest file.")] = 50.0,
    quota: Annotated[
        float | None, typer.Option(metavar="GB", help="What each namespace may hold.", show_default="no limit")
    ] = None,
    link_seconds: Annotated[int, typer.Option(metavar="SECONDS", help="How long an upload link holds.")] = 3600,
) -> None:
    """Run your lab's own hub, which Hugging Face clients can use.

    The folder is a folder hub: what was pushed to it with `--hub DIR` is served, and what clients push can be pulled
    with `--hub DIR`. Nobody sees a private repository without a token for its namespace. Ctrl-C or SIGTERM stops the
    hub once running transfers have ended.

    For example:

    ```
    archzoo serve token create --root /data/hub --user ada --scope write
    archzoo serve --root /data/hub --url https://hub.lab.example
    HF_ENDPOINT=https://hub.lab.example HF_HUB_DISABLE_XET=1 hf upload ada/kidney ./kidney
    ```

    It listens on this computer only. To let others in, put a proxy with https in front of it, or give
    `--host 0.0.0.0 --certificate FILE --key FILE`: tokens must not travel unencrypted.
    """
    if context.invoked_subcommand is not None:
        return
    _check_installed()
    from hub_client.serve.hub import Settings
    from hub_client.serve.server import Listening
    from hub_client.serve.server import serve as run

    if root is None:
        raise errors.InvalidInput(
            "--root is missing: the folder that the hub keeps everything in.", facts={"root": None}
        )
    if (certificate is None) != (key is None):
        raise errors.InvalidInput("https needs both, --certificate and --key.", facts={"key": key})
    settings = Settings(
        root.expanduser().absolute(),
        public=visibility is Visibility.public,
        address=url.rstrip("/") if url else None,
        largest_file=int(max_file * _GIGABYTE),
        quota=int(quota * _GIGABYTE) if quota is not None else None,
        link_seconds=link_seconds,
    )
    run(
        settings,
        Listening(host, port, certificate, key, proxies),
        ready=lambda at: screen.say(f"serving {root} at {at}"),
    )


@token.command("create")
def create_token(
    root: Root,
    user: Annotated[str, typer.Option(help="Whom it is for; also the namespace it holds for.", show_default=False)],
    scope: Annotated[
        Scope,
        typer.Option(
            help="read: pull, open pull requests. write: also create, push, merge. admin: also delete, rename, "
            "change who sees it.",
            show_default=False,
        ),
    ],
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="Hold for these namespaces instead; `*` is all. Repeatable.", show_default=False),
    ] = None,
    days: Annotated[int | None, typer.Option(min=0, help="Expire after so many days.", show_default="never")] = None,
) -> None:
    """Make a token and print it, once: the hub keeps only its hash.

    The token is the last word that is printed.

    For example:

    ```
    archzoo serve token create --root /data/hub --user ada --scope write --namespace ada --namespace kidney-lab
    ```
    """
    secret, made = _tokens(root).create(user, scope=scope.value, namespaces=namespace or (), days=days)
    screen.say(f"token {made.id}: {made.user} may {made.scope} in {', '.join(made.namespaces)}: {secret}")


@token.command("list")
def list_tokens(root: Root, as_json: options.Json = False) -> None:
    """List the tokens that let people in; they cannot be shown again.

    For example:

    ```
    archzoo serve token list --root /data/hub
    ```
    """
    found = _tokens(root).all()
    if as_json:
        screen.say_json([{key: value for key, value in asdict(token).items() if key != "sha256"} for token in found])
    elif found:
        screen.say_table(COLUMNS, found)
    else:
        screen.say(f"no tokens yet: `archzoo serve token create --root {root} --user NAME --scope write`")


@token.command("revoke")
def revoke_token(
    root: Root, identity: Annotated[str, typer.Argument(metavar="ID", help="The token's id.", show_default=False)]
) -> None:
    """Let a token in no more, from the next request on; upload links it was given end with it.

    For example:

    ```
    archzoo serve token revoke --root /data/hub 1f0c9a2e
    ```
    """
    gone = _tokens(root).revoke(identity)
    screen.say(f"revoked {gone.id}, which let {gone.user} {gone.scope} in {', '.join(gone.namespaces)}")


@app.command("gc")
def collect(
    root: Root,
    hours: Annotated[
        float, typer.Option(min=0, help="Keep what was touched in the last so many hours: it may wait for its commit.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be removed.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove what no branch, tag or pull request refers to any more.

    The hub may be running: pushes that are under way are not touched. Run it each night.

    For example:

    ```
    archzoo serve gc --root /data/hub --dry-run
    ```
    """
    _check_installed()
    from hub_client.serve import garbage
    from hub_client.serve.repository_root import Repositories

    repositories = Repositories(root.expanduser().absolute(), private=True)
    removed = list(garbage.collect(repositories, seconds=hours * 3600, dry_run=dry_run))
    if as_json:
        screen.say_json([asdict(record) for record in removed])
    else:
        _say_removed(removed, dry_run=dry_run)
    if any(record.problem for record in removed):
        raise typer.Exit(failures.EXIT_CODES[errors.IntegrityError][0])


def _say_removed(removed: list[Removed], *, dry_run: bool) -> None:
    for record in removed:
        if record.problem:
            screen.say(f"{record.place} was left alone: {record.problem}")
        elif record.objects:
            screen.say(f"{record.place}: {record.objects:,} objects, {readable(record.bytes)}")
    verb = "would be" if dry_run else "were"
    total = sum(record.objects for record in removed), sum(record.bytes for record in removed)
    screen.say(f"{total[0]:,} objects with {readable(total[1])} {verb} removed")


def _tokens(root: Path) -> Tokens:
    _check_installed()
    from hub_client.serve.tokens import Tokens

    return Tokens(root.expanduser().absolute())


def _check_installed() -> None:
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise errors.InvalidInput("a hub needs more than archzoo alone: pip install 'archzoo[serve]'.")

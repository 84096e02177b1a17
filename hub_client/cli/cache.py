"""``archzoo cache``: what the hub on this computer holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import failures, options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.store.folder import FolderStore
    from hub_client.store.protocol import Entry

app = typer.Typer(no_args_is_help=True, help="See and check the hub on this computer.")

Folder = Annotated[
    str | None, typer.Option("--hub", metavar="FOLDER", help="This folder, instead of your hub.", show_default=False)
]
COLUMNS = (
    Column("kind", rank=1),
    Column("name"),
    Column("releases", "right"),
    Column("commits", "right", rank=2),
    Column("size", "right"),
)
UNITS = ("B", "kB", "MB", "GB", "TB")


@app.command("ls")
def show(hub: Folder = None, as_json: options.Json = False) -> None:
    """List the hub's repositories and their size.

    For example:

    ```
    archzoo cache ls
    ```
    """
    records = [_record(store, repo) for store in _stores(hub) for repo in store.repos()]
    if as_json:
        screen.say_json({"folder": str(_folder(hub)), "repositories": records})
        return
    screen.say(str(_folder(hub)))
    if records:
        screen.say_table(
            COLUMNS,
            [
                [r["kind"], r["name"], _number(r["releases"]), _number(r["commits"]), readable(r["bytes"])]
                for r in records
            ],
        )
    screen.say(f"in all: {readable(sum(r['bytes'] for r in records))}")


@app.command()
def verify(hub: Folder = None, as_json: options.Json = False) -> None:
    """Check every file of every commit again.

    Ends with 5 if one is broken.

    For example:

    ```
    archzoo cache verify
    ```
    """
    checked = [record for store in _stores(hub) for repo in store.repos() for record in _verified(store, repo)]
    broken = [record for record in checked if record["problem"]]
    if as_json:
        screen.say_json(checked)
    else:
        for record in broken:
            screen.say(f"{record['name']} {(record['commit'] or 'history')[:12]}: {record['problem']}")
        screen.say(f"{len(checked)} commits checked, {len(broken)} broken")
    if broken:
        raise typer.Exit(failures.EXIT_CODES[errors.IntegrityError][0])


def readable(size: int) -> str:
    """Return a number of bytes in the unit that leaves one to three digits before the point."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {UNITS[unit]}"


def _folder(hub: str | None) -> Path:
    from hub_client.client import default_folder
    from hub_client.store.catalogue import refuse_address

    refuse_address(hub or "")
    return Path(hub).expanduser() if hub else default_folder()


def _stores(hub: str | None) -> list[FolderStore]:
    from hub_client.store.folder import FolderStore
    from hub_client.store.protocol import DOCUMENT

    return [FolderStore(_folder(hub), kind=kind) for kind in DOCUMENT]


def _record(store: FolderStore, repo: str) -> dict[str, Any]:
    files = Path(store.address, store.kind, f"{repo}.git").rglob("*")
    return {
        "kind": store.kind,
        "name": repo,
        "releases": _counted(store.releases, repo),
        "commits": _counted(store.history, repo),
        "bytes": sum(path.stat().st_size for path in files if path.is_file()),
    }


def _counted(found: Callable[[str], Sequence[object]], repo: str) -> int | None:
    """Return how many there are; None in a repository that is damaged: ``verify`` says how."""
    try:
        return len(found(repo))
    except errors.IntegrityError:
        return None


def _number(count: int | None) -> str:
    return "damaged" if count is None else str(count)


def _verified(store: FolderStore, repo: str) -> list[dict[str, Any]]:
    """Return what is wrong with each commit; one record without a commit where the history cannot be read."""
    try:
        return [_checked(store, repo, entry) for entry in store.history(repo) if entry.digest]
    except errors.IntegrityError as error:
        return [{"kind": store.kind, "name": repo, "commit": None, "version": None, "problem": str(error)}]


def _checked(store: FolderStore, repo: str, entry: Entry) -> dict[str, Any]:
    from hub_client.store import bundle

    problem = None
    with TemporaryDirectory(prefix="archzoo-") as temporary:
        try:
            folder = store.fetch(store.resolve(repo, entry.commit), Path(temporary) / "release")
            if store.kind == "models":
                bundle.verify(folder)
        except errors.HubClientError as error:
            problem = str(error)
    return {"kind": store.kind, "name": repo, "commit": entry.commit, "version": entry.version, "problem": problem}

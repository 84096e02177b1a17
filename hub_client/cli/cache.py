"""``archzoo cache``: what is on this computer: its folder hub, and what was downloaded from other hubs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import failures, options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.release.store import Entry
    from hub_client.store.cache.downloads import Cache
    from hub_client.store.folder.folder_store import FolderStore

app = typer.Typer(no_args_is_help=True, help="See, check and tidy up what is on this computer.")

Folder = Annotated[
    str | None,
    typer.Option("--hub", metavar="FOLDER", help="Only this folder hub, and no downloads.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")]
UnusedFor = Annotated[
    float | None,
    typer.Option(metavar="DAYS", min=0, help="Also releases that were not read for so long.", show_default=False),
]
COLUMNS = (
    Column("kind", rank=1, text=lambda record: record["kind"]),
    Column("name", text=lambda record: record["name"]),
    Column("releases", "right", text=lambda record: _count(record["releases"])),
    Column("commits", "right", rank=2, text=lambda record: _count(record["commits"])),
    Column("size", "right", text=lambda record: readable(record["bytes"])),
)
DOWNLOADED = (
    Column("downloaded", text=lambda one: one.repo),
    Column("version", text=lambda one: one.version or one.commit[:12]),
    Column("hub", rank=2, text=lambda one: one.hub),
    Column("digest", rank=1, text=lambda one: f"sha256:{one.digest[:12]}"),
    Column("size", "right", text=lambda one: readable(one.size) + ("" if one.complete else ", partly here")),
    Column("last read", rank=3, text=lambda one: datetime.fromtimestamp(one.used, tz=UTC).date().isoformat()),
)
UNITS = ("B", "kB", "MB", "GB", "TB")


@app.command("ls")
def show(hub: Folder = None, as_json: options.Json = False) -> None:
    """List what is here, and its size.

    First your hub in a folder; then what was downloaded from hubs on the network, or came as a bundle. What is marked
    as partly here was looked at but not pulled, or was cut off.

    For example:

    ```
    archzoo cache ls
    ```
    """
    from hub_client.store.cache import prune as pruning

    records = [_record(store, repo) for store in _stores(hub) for repo in store.repos()]
    downloads = pruning.kept(_cache()) if hub is None else []
    if as_json:
        folders = {"folder": str(_folder(hub)), "cache": str(_cache().root)}
        screen.say_json({**folders, "repositories": records, "downloads": [asdict(one) for one in downloads]})
        return
    screen.say(str(_folder(hub)))
    if records:
        screen.say_table(COLUMNS, records)
    screen.say(f"in all: {readable(sum(r['bytes'] for r in records))}")
    if downloads:
        screen.say(f"\n{_cache().root}")
        screen.say_table(DOWNLOADED, downloads)
        each = {file.sha256: file.size for one in downloads if one.complete for file in one.files}
        screen.say(f"in all: {readable(sum(each.values()))}, files that releases share counted once")


@app.command()
def verify(hub: Folder = None, as_json: options.Json = False) -> None:
    """Check every file again.

    Those of every commit of your hub, and those that were downloaded. Ends with 5 if one is broken. A broken download
    is fetched again by the next pull.

    For example:

    ```
    archzoo cache verify
    ```
    """
    from hub_client.store.cache import prune as pruning

    checked = [record for store in _stores(hub) for repo in store.repos() for record in _verified(store, repo)]
    broken = [record for record in checked if record["problem"]]
    downloads = pruning.damaged(_cache()) if hub is None else ()
    files = [{"path": str(path), "problem": problem} for path, problem in downloads]
    damaged = [record for record in files if record["problem"]]
    if as_json:
        screen.say_json([*checked, *files])
    else:
        for record in broken:
            screen.say(f"{record['name']} {(record['commit'] or 'history')[:12]}: {record['problem']}")
        for record in damaged:
            screen.say(f"{record['path']}: {record['problem']}")
        screen.say(f"{len(checked)} commits checked, {len(broken)} broken")
        if files:
            screen.say(f"{len(files)} downloaded files checked, {len(damaged)} broken")
    if broken or damaged:
        raise typer.Exit(failures.EXIT_CODES[errors.IntegrityError][0])


@app.command()
def prune(dry_run: DryRun = False, unused_for: UnusedFor = None, as_json: options.Json = False) -> None:
    """Remove downloads that nobody needs.

    Those that were cut off more than a day ago, and files that no release in the cache names; with `--unused-for` also
    releases that were not read for long. Your hub in a folder and a shared cache are not touched.

    For example:

    ```
    archzoo cache prune --dry-run
    archzoo cache prune --unused-for 90
    ```
    """
    from hub_client.store.cache import prune as pruning

    seconds = None if unused_for is None else unused_for * pruning.DAY
    removed = pruning.prune(_cache(), unused_for=seconds, dry_run=dry_run)
    if as_json:
        screen.say_json([{"path": str(one.path), "bytes": one.size, "why": one.why} for one in removed])
        return
    for one in removed:
        screen.say(f"{one.path}: {readable(one.size)}, {one.why}")
    size = readable(sum(one.size for one in removed))
    screen.say(f"{len(removed)} files, {size}: " + ("to be removed" if dry_run else "removed"))


def _cache() -> Cache:
    from hub_client.store.cache.downloads import Cache

    return Cache.default()


def readable(size: int) -> str:
    """Return a number of bytes in the unit that leaves one to three digits before the point."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {UNITS[unit]}"


def _folder(hub: str | None) -> Path:
    from hub_client.hub.client import default_folder
    from hub_client.store.catalogue import refuse_address

    refuse_address(hub or "")
    return Path(hub).expanduser() if hub else default_folder()


def _stores(hub: str | None) -> list[FolderStore]:
    from hub_client.release.store import DOCUMENT
    from hub_client.store.folder.folder_store import FolderStore

    return [FolderStore(_folder(hub), kind=kind) for kind in DOCUMENT]


def _record(store: FolderStore, repo: str) -> dict[str, Any]:
    files = Path(store.address, store.kind, f"{repo}.git").rglob("*")
    return {
        "kind": store.kind,
        "name": repo,
        "releases": _number(store.releases, repo),
        "commits": _number(store.history, repo),
        "bytes": sum(path.stat().st_size for path in files if path.is_file()),
    }


def _number(read: Callable[[str], Sequence[object]], repo: str) -> int | None:
    """Return how many there are; None in a repository that is damaged, of which ``verify`` gives the fault."""
    try:
        return len(read(repo))
    except errors.IntegrityError:
        return None


def _count(count: int | None) -> str:
    return "damaged" if count is None else str(count)


def _verified(store: FolderStore, repo: str) -> list[dict[str, Any]]:
    """Return what is wrong with each commit; one record without a commit where the history cannot be read."""
    try:
        return [_checked(store, repo, entry) for entry in store.history(repo) if entry.digest]
    except errors.IntegrityError as error:
        return [{"kind": store.kind, "name": repo, "commit": None, "version": None, "problem": str(error)}]


def _checked(store: FolderStore, repo: str, entry: Entry) -> dict[str, Any]:
    from hub_client.hub import delta

    problem = None
    with TemporaryDirectory(prefix="archzoo-") as temporary:
        try:
            folder = store.fetch(store.resolve(repo, entry.commit), Path(temporary) / "release")
            if store.kind == "models":
                delta.verify(folder)
        except errors.HubClientError as error:
            problem = str(error)
    return {"kind": store.kind, "name": repo, "commit": entry.commit, "version": entry.version, "problem": problem}

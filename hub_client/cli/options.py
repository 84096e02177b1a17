"""Options that several commands share, how their values are read, and how a pinned release is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import screen
from hub_client.release.store import Ref

if TYPE_CHECKING:
    from hub_client.hub.client import Hub


def hub_at(place: str | None = None) -> Hub:
    """Return the hub that ``--hub`` names; it is imported here, so that no command's help waits for it."""
    from hub_client.hub.client import Hub

    return Hub(place)


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models that begin so, for the shell; of hubs on the network, those in the cache."""
    from hub_client.store import settings

    try:
        with settings.without_network():
            return [name for name in hub_at().names() if name.startswith(incomplete)]
    except (errors.HubClientError, OSError):
        return []


def pairs(values: Sequence[str] | None, *, option: str) -> dict[str, str] | None:
    """Return ``["batch=library"]`` as ``{"batch": "library"}``; None for none.

    Raises
    ------
    InvalidInput
        If a value is not ``KEY=COLUMN``, or a key is given twice.
    """
    split = [value.partition("=") for value in values or ()]
    keys = [key for key, _, _ in split]
    if not all(key and column for key, _, column in split) or len(set(keys)) < len(keys):
        raise errors.InvalidInput(
            f"{option} {' '.join(values or ())}: expected KEY=COLUMN, the model's key and the query's obs column, and "
            "each key once.",
            facts={option: values},
        )
    return {key: column for key, _, column in split} or None


def record(ref: Ref) -> dict[str, Any]:
    """Return a pinned release for JSON; its repository is called ``name``, as everywhere in the output."""
    fields = asdict(ref)
    return {"name": fields.pop("repo"), **fields}


def identity(ref: Ref) -> dict[str, str]:
    """Return a pinned release as facts for people."""
    return {
        "name": ref.repo,
        "version": ref.version or "none",
        "commit": ref.commit,
        "digest": f"sha256:{ref.digest}",
        "hub": ref.hub,
    }


def show_release(ref: Ref, *, as_json: bool, **more: Any) -> None:
    """Print a pinned release and what else there is to know of it."""
    if as_json:
        screen.say_json({**record(ref), **more})
    else:
        screen.say_facts(identity(ref) | more)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a release that is there already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
HubFolder = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="HUB",
        help="Only this hub: a folder, `https://...`, `hf://` (the public one), `static+https://...` or `bundled`.",
        show_default=False,
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        help="A name (`pbmc-scpoli`, `my-lab/kidney@1.2.0`, `hf://my-lab/kidney`), a release folder (`./kidney`), or a "
        "bundle (`kidney.tar`).",
        autocompletion=complete_model,
        show_default=False,
    ),
]

"""Everything that lives as long as the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hub_client.serve.links import Links
from hub_client.serve.quota import Quota
from hub_client.serve.repository_root import Repositories
from hub_client.serve.server_files import Audit
from hub_client.serve.tokens import Sessions, Tokens


@dataclass(frozen=True)
class Settings:
    """What whoever runs a hub can choose."""

    root: Path
    """The folder hub."""
    public: bool = False
    """Whether a repository is public whose record does not state it."""
    address: str | None = None
    """The hub's address as clients see it, without a final ``/``; None takes it from each request."""
    largest_file: int = 50 * 10**9
    """Bytes a file may have."""
    quota: int | None = None
    """Bytes the repositories of one namespace may have together; None is no limit."""
    link_seconds: int = 3600
    """How long an upload link holds."""


@dataclass(frozen=True)
class Hub:
    """A root's repositories, tokens, links, limits and audit log."""

    settings: Settings
    repositories: Repositories
    tokens: Tokens
    links: Links
    sessions: Sessions
    quota: Quota
    audit: Audit


def open_hub(settings: Settings) -> Hub:
    """Return the hub of a root, which may be empty."""
    repositories = Repositories(settings.root, private=not settings.public)
    return Hub(
        settings,
        repositories,
        Tokens(settings.root),
        Links(settings.root, seconds=settings.link_seconds),
        Sessions(settings.root),
        Quota(settings.root, file=settings.largest_file, namespace=settings.quota),
        Audit(settings.root),
    )

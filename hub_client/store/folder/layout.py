"""Where the repositories of one kind lie under a root, for folder hubs and served hubs alike.

A root does not take two names that differ in case only: on many file systems they are one folder.
"""

from __future__ import annotations

from pathlib import Path

from hub_client.release.names import is_repository

SUFFIX = ".git"


def path(root: Path, repo: str) -> Path:
    """Return the folder of a repository, there or not."""
    return root / f"{repo}{SUFFIX}"


def repositories(root: Path) -> list[str]:
    """Return the full names of what lies there as a repository does, sorted."""
    found = (f"{path.parent.name}/{path.name.removesuffix(SUFFIX)}" for path in root.glob(f"*/*{SUFFIX}"))
    return sorted(filter(is_repository, found))


def namesakes(root: Path, repo: str) -> set[str]:
    """Return the repositories that lie where one of this name would, on a file system that does not regard case."""
    owner, name = f"{repo}{SUFFIX}".casefold().split("/")
    owners = [folder for folder in _entries(root) if folder.name.casefold() == owner]
    entries = [entry for folder in owners for entry in _entries(folder) if entry.name.casefold() == name]
    return {f"{entry.parent.name}/{entry.name.removesuffix(SUFFIX)}" for entry in entries}


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []

"""Repositories, files, refs and commits in the client's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from hub_client.serve import commit_tree, front_matter
from hub_client.serve.hub import Hub
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Record
from hub_client.store.folder import git

CARD = "README.md"


def instant(moment: datetime) -> str:
    """Return a time as the client reads it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def repository(hub: Hub, place: Place, record: Record, *, commit: str | None) -> dict[str, Any]:
    """Return what a listing states of a repository at a commit; None is one without commits."""
    with hub.repositories.reading(place) as repository:
        node = next(repository.line(commit), None)
        card = front_matter.lenient(commit_tree.file(repository, commit, CARD) or b"") if commit else {}
    modified = instant(node.date) if node else record.created
    created = instant(datetime.fromisoformat(record.created)) if record.created else modified
    return {
        "_id": record.id,
        "id": str(place),
        f"{place.type}Id": str(place),
        "author": place.owner,
        "sha": commit,
        "lastModified": modified,
        "createdAt": created,
        "private": record.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags(card),
        "library_name": card.get("library_name"),
        "cardData": card or None,
    }


def tags(card: Mapping[str, Any]) -> list[str]:
    """Return the tags of a card, and those that the public hub makes of its fields."""
    given = card.get("tags")
    own = [str(tag) for tag in given] if isinstance(given, list) else []
    found = [str(card["library_name"])] if card.get("library_name") else []
    found += own + ([f"license:{card['license']}"] if isinstance(card.get("license"), str) else [])
    return list(dict.fromkeys(found))


def siblings(repository: git.Repository, commit: str, *, blobs: bool) -> list[dict[str, Any]]:
    """Return the files of a commit, with sizes and hashes if wanted."""
    found: list[dict[str, Any]] = []
    for path, blob in commit_tree.files(repository, commit).items():
        found.append({"rfilename": path})
        if blobs:
            content = commit_tree.content(repository, blob)
            found[-1] |= {"size": content.size, "blobId": blob}
            if pointer := content.pointer:
                found[-1]["lfs"] = {"sha256": pointer.sha256, "size": content.size, "pointerSize": content.stored}
    return found


def entry(repository: git.Repository, found: commit_tree.Entry) -> dict[str, Any]:
    """Return a file or folder as a listing has it."""
    if found.folder:
        return {"type": "directory", "oid": found.id, "size": 0, "path": found.path}
    content = commit_tree.content(repository, found.id)
    shown: dict[str, Any] = {"type": "file", "oid": found.id, "size": content.size, "path": found.path}
    if content.pointer:
        shown["lfs"] = {"oid": content.pointer.sha256, "size": content.size, "pointerSize": content.stored}
    return shown


def last_commits(repository: git.Repository, commit: str, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return, for each path of a commit, the commit that last changed it."""
    waiting = set(paths)
    found: dict[str, dict[str, Any]] = {}
    newer, after = _objects(repository, commit), next(repository.line(commit))
    for node in (node for node in repository.line(commit) if node.id != commit):
        older = _objects(repository, node.id)
        changed = {path for path in waiting if older.get(path) != newer[path]}
        found |= dict.fromkeys(changed, _last(after))
        waiting -= changed
        if not waiting:
            return found
        newer, after = older, node
    return found | dict.fromkeys(waiting, _last(after))


def _objects(repository: git.Repository, commit: str) -> dict[str, str]:
    return {found.path: found.id for found in commit_tree.walk(repository, commit)}


def _last(node: git.Node) -> dict[str, Any]:
    return {"id": node.id, "title": title(node), "date": instant(node.date)}


def title(node: git.Node) -> str:
    """Return the first line of a commit's message."""
    return node.message.partition("\n")[0]


def commit(node: git.Node) -> dict[str, Any]:
    """Return a commit as a listing has it."""
    return {
        "id": node.id,
        "title": title(node),
        "message": node.message.partition("\n")[2].strip(),
        "authors": [{"user": node.author}],
        "date": instant(node.date),
    }


def refs(names: Mapping[str, str], *, base: str) -> list[dict[str, str]]:
    """Return branches, tags or pull requests as a listing has them."""
    return [{"name": name, "ref": base + name, "targetCommit": commit} for name, commit in sorted(names.items())]

"""Discussions and pull requests of a repository: one JSON file each, a pull request also a ref.

A pull request is there once its file is: the ref is written first, and a ref without a file is nobody's. A merge is
announced in the file before the branch moves, so that whatever is killed in between, file and branch agree when read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hub_client.serve import commit_tree, json_views, server_files
from hub_client.serve.refusals import Refused
from hub_client.serve.repository_root import OWN
from hub_client.serve.revisions import HEADS, MAIN, PULLS
from hub_client.store.folder import git

Discussion = dict[str, Any]
_LONGEST_TEXT = 64 * 2**10
_LONGEST_TITLE = 500
_LONGEST_DIFF = 2**20


def all_of(repository: git.Repository) -> list[Discussion]:
    """Return every discussion, the newest first."""
    numbers = sorted(int(path.stem) for path in _folder(repository).glob("*.json") if path.stem.isdigit())
    return [read(repository, number) for number in reversed(numbers)]


def read(repository: git.Repository, number: int) -> Discussion:
    """Return a discussion; Refused if there is none of this number."""
    found: Discussion | None = server_files.read_json(_path(repository, number))
    if found is None:
        raise Refused(404, f"There is no discussion {number} here.")
    return _settled(repository, found)


def named(repository: git.Repository, number: str) -> Discussion:
    """Return the discussion whose number is in an address; errors as :func:`read`."""
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise Refused(404, f"There is no discussion {number[:20]!r} here.")
    return read(repository, int(number))


def conflicts(repository: git.Repository, discussion: Discussion) -> list[str]:
    """Return the files that keep a pull request from being merged; none of one that is merged already."""
    head, ours = _ends(repository, discussion)
    return (
        commit_tree.merge(repository, ours, head).conflicts
        if head and ours and discussion["status"] != "merged"
        else []
    )


def diff(repository: git.Repository, discussion: Discussion) -> str | None:
    """Return what a pull request changes; None where that is too long to be read, and of a discussion."""
    head, ours = _ends(repository, discussion)
    base = commit_tree.fork(repository, ours, head) if head and ours else None
    return repository.diff(base, head, most=_LONGEST_DIFF) if base and head else None


def _ends(repository: git.Repository, discussion: Discussion) -> tuple[str | None, str | None]:
    return repository.ref(f"{PULLS}{discussion['num']}"), repository.ref(discussion["base"])


def write(repository: git.Repository, discussion: Discussion) -> None:
    """Keep a discussion as it is now; the caller holds the repository's lock."""
    server_files.write_json(_path(repository, discussion["num"]), discussion)


def pull_requests(repository: git.Repository) -> dict[str, str]:
    """Return number and commit of every pull request."""
    found = repository.refs(PULLS)
    return {number: commit for number, commit in found.items() if _path(repository, int(number)).exists()}


def open_one(
    repository: git.Repository, *, user: str, title: str, text: str, head: str | None, status: str = "open"
) -> Discussion:
    """Begin a discussion, or a pull request if there is a commit that asks to be merged into the main branch."""
    number = _next(repository)
    if head is not None and not repository.move(f"{PULLS}{number}", None, head):
        raise Refused(409, "Another pull request was opened meanwhile; try again.")
    discussion = {
        "num": number,
        "title": checked(title, most=_LONGEST_TITLE, what="title"),
        "author": user,
        "createdAt": now(),
        "status": status,
        "isPullRequest": head is not None,
        "base": HEADS + MAIN,
        "events": [comment(user, text)],
    }
    write(repository, discussion)
    return discussion


def checked(text: str, *, most: int = _LONGEST_TEXT, what: str = "comment") -> str:
    """Return a text that is neither empty nor too long."""
    if not text.strip() or len(text) > most:
        raise Refused(400, f"a {what} has 1 to {most:,} characters.")
    return text


def now() -> str:
    """Return the time as the client reads it."""
    return json_views.instant(datetime.now(UTC))


def event(kind: str, user: str, **data: Any) -> dict[str, Any]:
    """Return something that happened in a discussion."""
    return {"id": secrets.token_hex(12), "type": kind, "createdAt": now(), "author": {"name": user}, "data": data}


def comment(user: str, text: str) -> dict[str, Any]:
    """Return a comment as an event."""
    latest = {"raw": checked(text), "html": "", "updatedAt": now(), "author": {"name": user}}
    return event("comment", user, edited=False, hidden=False, latest=latest, history=[])


def merged(discussion: Discussion, commit: str, *, user: str) -> Discussion:
    """Return a pull request after its merge."""
    return discussion | {
        "status": "merged",
        "mergeCommitId": commit,
        "merging": None,
        "events": [*discussion["events"], event("status-change", user, status="merged")],
    }


def _settled(repository: git.Repository, discussion: Discussion) -> Discussion:
    """Return a discussion; if it announces a merge and the branch has it, whoever merged it was killed right after."""
    intent = discussion.get("merging")
    if not intent:
        return discussion
    if any(node.id == intent["commit"] for node in repository.line(repository.head())):
        return merged(discussion, intent["commit"], user=intent["user"])
    return discussion | {"merging": None}


def _folder(repository: git.Repository) -> Path:
    return repository.path / OWN / "discussions"


def _path(repository: git.Repository, number: int) -> Path:
    return _folder(repository) / f"{number}.json"


def _next(repository: git.Repository) -> int:
    """Return a number that neither a discussion nor a ref has."""
    taken = [int(path.stem) for path in _folder(repository).glob("*.json") if path.stem.isdigit()]
    return 1 + max([*taken, *(int(number) for number in repository.refs(PULLS) if number.isdigit())], default=0)


# What can be done to a discussion


def _comment(discussion: Discussion, user: str, body: dict[str, Any]) -> dict[str, Any]:
    added = comment(user, str(body.get("comment") or ""))
    discussion["events"].append(added)
    return {"newMessage": added}


def _title(discussion: Discussion, user: str, body: dict[str, Any]) -> dict[str, Any]:
    new = checked(str(body.get("title") or ""), most=_LONGEST_TITLE, what="title").strip()
    added = event("title-change", user, **{"from": discussion["title"], "to": new})
    discussion["events"].append(added)
    discussion["title"] = new
    return {"newTitle": added}


def _status(discussion: Discussion, user: str, body: dict[str, Any]) -> dict[str, Any]:
    new = body.get("status")
    if new not in ("open", "closed") or discussion["status"] == "merged":
        raise Refused(400, "a status is open or closed, and one that is merged stays so.")
    added = event("status-change", user, status=new)
    discussion["events"].append(added)
    if body.get("comment"):
        discussion["events"].append(comment(user, str(body["comment"])))
    discussion["status"] = new
    return {"newStatus": added}


CHANGES: dict[str, Callable[[Discussion, str, dict[str, Any]], dict[str, Any]]] = {
    "comment": _comment,
    "title": _title,
    "status": _status,
}
"""What a client may post to a discussion, and what does it."""


def change_comment(discussion: Discussion, identity: str, *, user: str, text: str | None) -> dict[str, Any]:
    """Give a comment another text, or hide it for ever if there is none."""
    for found in discussion["events"]:
        if found["type"] == "comment" and found["id"] == identity:
            latest = {"raw": checked(text) if text is not None else "", "html": "", "updatedAt": now()}
            found["data"]["history"].append(found["data"]["latest"])
            found["data"] |= {"latest": latest | {"author": {"name": user}}, "edited": True, "hidden": text is None}
            if text is None:
                found["data"]["history"] = []
            return {"updatedComment": found}
    raise Refused(404, "There is no such comment here.")

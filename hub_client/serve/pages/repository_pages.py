"""Pages within a repository: files, comparison of manifests, history, discussions."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from hub_client.manifest.inheritance import comparable
from hub_client.release.changes import Change, changes
from hub_client.release.store import DOCUMENT
from hub_client.serve import commit_tree, discussion_files, revisions
from hub_client.serve.pages import html, tagged_releases
from hub_client.serve.refusals import no_revision
from hub_client.serve.request import Call
from hub_client.serve.revisions import MAIN
from hub_client.store.folder import git

_MOST_FILES = 500
_MOST_CHANGES = 400
_MOST_COMMITS = 200
_MOST_LINES = 2000
_UNITS = ("B", "kB", "MB", "GB", "TB")


def pick_files(call: Call) -> Response:
    """Show the files of the revision that the form names, or of the newest version."""
    with call.hub.repositories.reading(call.repo) as repository:
        revision = call.query.get("revision") or tagged_releases.newest(repository)[1] or MAIN
    return RedirectResponse(f"/{call.repo.web}/tree/{quote(revision, safe='')}", status_code=303)


def files(call: Call) -> Response:
    """Show the files of a revision, their sizes and digests."""
    revision = call.words["revision"]
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, revision)
        found = list(commit_tree.files(repository, commit).items())
        shown = [_shown_file(repository, path, blob) for path, blob in found[:_MOST_FILES]]
        names = [*tagged_releases.sorted_versions(repository), *sorted(repository.branches())]
    return html.inside(
        call,
        "files.html",
        here="/tree",
        revision=revision,
        revisions=names if revision in names else [revision, *names],
        commit=commit,
        files=shown,
        more=max(0, len(found) - _MOST_FILES),
    )


def _shown_file(repository: git.Repository, path: str, blob: str) -> dict[str, str]:
    content = commit_tree.content(repository, blob)
    digest = (
        content.pointer.sha256 if content.pointer else hashlib.sha256(commit_tree.read(repository, blob)).hexdigest()
    )
    return {"path": path, "size": _readable(content.size), "sha256": digest}


def _readable(size: int) -> str:
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def comparison(call: Call) -> Response:
    """Show which fields of the manifest differ between two versions."""
    with call.hub.repositories.reading(call.repo) as repository:
        names = tagged_releases.sorted_versions(repository) + sorted(repository.branches())
        old, new = _ends(call, names)
        commits = [revisions.resolve(repository, call.repo, name) for name in (old, new)]
        documents = [tagged_releases.document(repository, call.repo, commit) for commit in commits]
    document = DOCUMENT[call.repo.kind]
    found, problem = _compared(documents, document)
    return html.inside(
        call,
        "compare.html",
        here="/compare",
        revisions=list(dict.fromkeys([*names, old, new])),
        old=old,
        new=new,
        changes=found[:_MOST_CHANGES],
        more=max(0, len(found) - _MOST_CHANGES),
        problem=problem,
        document=document,
    )


def _ends(call: Call, names: list[str]) -> tuple[str, str]:
    """Return the two revisions to compare: those of the form, or the two newest."""
    if not names:
        no_revision(MAIN)
    return call.query.get("from") or names[min(1, len(names) - 1)], call.query.get("to") or names[0]


def _compared(documents: list[bytes | None], name: str) -> tuple[list[Change], str | None]:
    old, new = documents
    if old is None or new is None:
        return [], f"There is no {name} in one of them."
    try:
        return [change.shown() for change in changes(*comparable(old, new, parsed=json.loads))], None
    except (ValueError, RecursionError):
        return [], f"The {name} of one of them is not JSON."


def history(call: Call) -> Response:
    """Show the commits of the main branch."""
    with call.hub.repositories.reading(call.repo) as repository:
        tags = repository.tags()
        nodes = list(repository.line(repository.head()))
    shown = [
        _shown_node(node) | {"tags": [t for t, at in tags.items() if at == node.id]} for node in nodes[:_MOST_COMMITS]
    ]
    return html.inside(call, "commits.html", here="/commits", commits=shown, more=max(0, len(nodes) - _MOST_COMMITS))


def _shown_node(node: git.Node) -> dict[str, Any]:
    title, _, text = node.message.partition("\n")
    date = node.date.strftime("%Y-%m-%d %H:%M")
    return {
        "id": node.id,
        "title": title,
        "text": text.strip(),
        "author": node.author,
        "date": date,
        "parent": node.parent,
    }


def one_commit(call: Call) -> Response:
    """Show a commit's message and which files it changed."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["commit"])
        node = next(repository.line(commit))
        now = commit_tree.files(repository, commit)
        before = commit_tree.files(repository, node.parent) if node.parent else {}
    changed = [
        (path, "added" if path not in before else "changed" if path in now else "removed")
        for path in sorted(now.keys() | before.keys())
        if now.get(path) != before.get(path)
    ]
    more = max(0, len(changed) - _MOST_FILES)
    return html.inside(
        call, "commit.html", here="/commits", node=_shown_node(node), changes=changed[:_MOST_FILES], more=more
    )


def discussions(call: Call) -> Response:
    """Show discussions and pull requests."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = discussion_files.all_of(repository)
    return html.inside(call, "discussions.html", here="/discussions", discussions=found)


def discussion(call: Call) -> Response:
    """Show one discussion, and what a pull request would change."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = discussion_files.named(repository, call.words["number"])
        conflicts = discussion_files.conflicts(repository, found) if found["status"] != "closed" else []
        diff = discussion_files.diff(repository, found)
    return html.inside(
        call,
        "discussion.html",
        here="/discussions",
        discussion=found,
        conflicts=conflicts,
        diff=[{"text": line, "kind": _line_kind(line)} for line in (diff or "").splitlines()[:_MOST_LINES]],
    )


def _line_kind(line: str) -> str:
    """Return what a line of a diff is."""
    rows = {"head": ("+++", "---", "@@", "diff ", "index ", "new file", "deleted file"), "new": ("+",), "gone": ("-",)}
    return next((kind for kind, beginnings in rows.items() if line.startswith(beginnings)), "same")

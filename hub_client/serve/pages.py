"""Pages for people: plain HTML and CSS, no scripts, and nothing of a model's author is obeyed.

Templates escape what they show. A card is Markdown in which HTML is text; a browser is told besides to load nothing but
the hub's own style sheet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from hub_client import errors
from hub_client.serve import compare, describing, discussions, managing, merging, revisions, sessions, talking, tree
from hub_client.serve.places import Place
from hub_client.serve.repositories import Record
from hub_client.serve.revisions import MAIN, PULLS
from hub_client.serve.wire import Call, Refused, no_repository, no_revision, number
from hub_client.store import git, yanking
from hub_client.store.listing import DatasetListing, Listing, dataset_listing, listing
from hub_client.store.protocol import DOCUMENT, Kind, semver
from hub_client.store.ref import Ref

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_TEMPLATES = Path(__file__).parent / "templates"
_PAGE = 30
_MOST_FILES = 500
_MOST_CHANGES = 400
_MOST_COMMITS = 200
_MOST_LINES = 2000
_LONGEST_CARD = 2**20
_LONGEST_SUMMARY = 280
_TABS = (
    ("", "Card"),
    ("/tree", "Files"),
    ("/commits", "History"),
    ("/compare", "Compare"),
    ("/discussions", "Discussions"),
)
_UNITS = ("B", "kB", "MB", "GB", "TB")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(call: Call, template: str, *, status: int = 200, **values: Any) -> Response:
    given = {"kind": call.words.get("kind") if call.place is None else call.place.kind} | values
    html = _environment().get_template(template).render(user=call.user, address=call.address, **given)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "private, no-cache"}
    return HTMLResponse(html, status_code=status, headers=headers)


def _inside(call: Call, template: str, *, here: str, **values: Any) -> Response:
    """Return a page about the route's repository."""
    record = call.hub.repositories.record(call.repo) or no_repository(call.token)
    return _page(call, template, place=call.repo, private=record.private, tabs=_TABS, here=here, **values)


def style(call: Call) -> Response:
    """Send the style sheet."""
    css = (_TEMPLATES / "style.css").read_bytes()
    return Response(css, media_type="text/css", headers={"Cache-Control": "max-age=300"})


def login(call: Call) -> Response:
    """Ask for a token, or say whose is in use."""
    return _page(call, "login.html", problem=None)


def log_in(call: Call, body: bytes) -> Response:
    """Begin a session for the token of the form."""
    if call.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "Log in on the hub's own page.")
    secret = parse_qs(body.decode(errors="replace")).get("token", [""])[-1].strip()
    token = call.hub.tokens.find(secret) if secret else None
    if token is None:
        return _page(call, "login.html", status=401, problem="This hub knows no such token, or no longer.")
    return _session(call, call.hub.sessions.begin(token.id), seconds=sessions.SECONDS)


def log_out(call: Call) -> Response:
    """End the session."""
    return _session(call, "", seconds=0)


def _session(call: Call, value: str, *, seconds: int) -> Response:
    response = RedirectResponse("/", status_code=303)
    secure = call.address.startswith("https://")
    response.set_cookie(sessions.COOKIE, value, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return response


def refused(call: Call, refusal: Refused) -> Response:
    """Return the page that says why there is none; one that is missing and one that is forbidden look the same."""
    headings = {401: "Log in", 404: "Not found", 403: "Not allowed"}
    status = 404 if refusal.code == "RepoNotFound" else refusal.status
    heading = headings.get(status, "That did not work")
    response = _page(replace(call, place=None), "refused.html", status=status, heading=heading, message=str(refusal))
    response.headers.update(refusal.headers)
    return response


# Lists


def models(call: Call) -> Response:
    """List and search models."""
    return _list(call, "models", home="/")


def datasets(call: Call) -> Response:
    """List and search data sets."""
    return _list(call, "datasets", home="/datasets")


def _list(call: Call, kind: Kind, *, home: str) -> Response:
    query, start = call.query.get("q", "")[:200], number(call.query, "start", default=0, most=10**9)
    everything = replace(call, query={})
    found = [
        shown for place, record in managing.visible(everything, kind) if (shown := _item(call, place, record, query))
    ]

    def link(at: int) -> str:
        return f"{home}?{urlencode({'q': query, 'start': at})}"

    return _page(
        call,
        "list.html",
        kind=kind,
        query=query,
        total=len(found),
        items=found[start : start + _PAGE],
        older=link(start + _PAGE) if start + _PAGE < len(found) else None,
        newer=link(max(0, start - _PAGE)) if start else None,
    )


def _item(call: Call, place: Place, record: Record, query: str) -> dict[str, Any] | None:
    """Return what a list says of a repository; None if it is not what was searched for."""
    with call.hub.repositories.reading(place) as repository:
        commit, version = _newest(repository)
        about = _listing(repository, place, commit, version) if commit else None
        modified = next(repository.line(commit)).date.date().isoformat() if commit else None
    named = all(word in str(place).lower() for word in query.lower().split())
    if not (named or (about is not None and about.matches(query))):
        return None
    facts = _short_facts(about) if about else []
    return {
        "place": place,
        "private": record.private,
        "title": about.title if about else "",
        "summary": _shortened(getattr(about, "summary", "")),
        "facts": [*filter(None, [version, *facts, f"updated {modified}" if modified else None])],
    }


def _yanked(repository: git.Repository) -> Mapping[str, str]:
    """Return the versions that were withdrawn, and why."""
    commit = repository.branches().get(yanking.BRANCH)
    data = _file(repository, commit, yanking.FILE) if commit else None
    try:
        return yanking.reasons(yanking.read(data, source="this repository")) if data else {}
    except errors.IntegrityError:
        return {}


def _newest(repository: git.Repository) -> tuple[str | None, str | None]:
    """Return the commit to show first, and its version: the highest that was not yanked, or the main branch's head."""
    yanked = _yanked(repository)
    versions = {name: commit for name, commit in revisions.versions(repository).items() if name not in yanked}
    highest = max(versions, key=semver, default=None)
    return (versions[highest], highest) if highest else (repository.head(), None)


def _listing(
    repository: git.Repository, place: Place, commit: str, version: str | None
) -> Listing | DatasetListing | None:
    """Return what a manifest says of itself; None where there is none, or it cannot be read."""
    document = _document(repository, place, commit)
    digest = hashlib.sha256(document).hexdigest() if document else ""
    ref = Ref(str(place), commit, version, digest)
    try:
        if document is None:
            return None
        return listing(ref, document) if place.kind == "models" else dataset_listing(ref, document)
    except errors.ManifestError:
        return None


def _document(repository: git.Repository, place: Place, commit: str) -> bytes | None:
    return _file(repository, commit, DOCUMENT[place.kind])


def _file(repository: git.Repository, commit: str, path: str) -> bytes | None:
    found = tree.find(repository, commit, path)
    return None if found is None or found.folder else tree.read(repository, found.id)


def _short_facts(about: Listing | DatasetListing) -> list[str]:
    if isinstance(about, DatasetListing):
        return [f"{about.cells:,} cells", f"{about.genes:,} genes", about.license]
    counted = [f"{about.genes:,} genes" if about.genes else "", f"{about.cells:,} cells" if about.cells else ""]
    return [about.architecture, about.organism or "", ", ".join(about.tissue), *counted]


def _shortened(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST_SUMMARY else f"{plain[:_LONGEST_SUMMARY].rsplit(' ', 1)[0]} …"


# One repository


def card(call: Call) -> Response:
    """Show a repository's card, its versions, and how to pull it."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit, version = _newest(repository)
        about = _listing(repository, call.repo, commit, version) if commit else None
        text = (_file(repository, commit, describing.CARD) if commit else None) or b""
        yanked = _yanked(repository)
        versions = [_version(repository, call.repo, name, yanked=yanked) for name in _sorted_versions(repository)]
    return _inside(
        call,
        "card.html",
        here="",
        card=rendered(text),
        facts=_facts(about) if about else [],
        versions=versions,
        pull=_pull(call, version),
    )


def _sorted_versions(repository: git.Repository) -> list[str]:
    return sorted(revisions.versions(repository), key=semver, reverse=True)


def _version(repository: git.Repository, place: Place, name: str, *, yanked: Mapping[str, str]) -> dict[str, str]:
    commit = repository.tags()[name]
    return {
        "name": name,
        "date": next(repository.line(commit)).date.date().isoformat(),
        "digest": revisions.digest(repository, place, commit) or "",
        "yanked": yanked.get(name, ""),
    }


def _pull(call: Call, version: str | None) -> list[tuple[str, str]]:
    """Return the lines that get a repository, for archzoo and for the public hub's client."""
    options = (" --repo-type dataset" if call.repo.kind == "datasets" else "") + (
        f" --revision {version}" if version else ""
    )
    hf = f"HF_ENDPOINT={call.address} hf download {call.repo}{options}"
    at = f"@{version}" if version else ""
    verb = {"models": "pull", "datasets": "pull_dataset"}[call.repo.kind]
    python = f'hub_client.Hub("{call.address}").{verb}("{call.repo}{at}")'
    shell = f"archzoo pull {call.repo}{at} --hub {call.address} --out {call.repo.name}"
    ours = [("archzoo", shell)] if call.repo.kind == "models" else []
    return [("Python", python), *ours, ("hf", hf)]


def _facts(about: Listing | DatasetListing) -> list[tuple[str, str]]:
    if isinstance(about, DatasetListing):
        rows = {
            "cells": f"{about.cells:,}",
            "genes": f"{about.genes:,}",
            "licence": about.license,
            "source": about.source,
        }
    else:
        rows = {
            "architecture": about.architecture,
            "organism": about.organism or "",
            "tissue": ", ".join(about.tissue),
            "genes": f"{about.genes:,}" if about.genes else "",
            "trained on": f"{about.cells:,} cells" if about.cells else "",
            "labels": f"{len(about.labels):,}" if about.labels else "",
            "licence": about.license or "",
        }
    return [(name, value) for name, value in rows.items() if value]


def rendered(text: bytes) -> Markup:
    """Return a card as HTML in which the author's own HTML is text."""
    plain = text[:_LONGEST_CARD].decode(errors="replace").replace("\r\n", "\n")
    body = plain[4:].partition("\n---")[2].partition("\n")[2] if plain.startswith("---\n") else plain
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return Markup(parser.render(body))


def pick_files(call: Call) -> Response:
    """Show the files of the revision that the form names, or of the newest version."""
    with call.hub.repositories.reading(call.repo) as repository:
        revision = call.query.get("revision") or _newest(repository)[1] or MAIN
    return RedirectResponse(f"/{call.repo.web}/tree/{quote(revision, safe='')}", status_code=303)


def files(call: Call) -> Response:
    """Show the files of a revision, their sizes and digests."""
    revision = call.words["revision"]
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, revision)
        found = list(tree.files(repository, commit).items())
        shown = [_shown_file(repository, path, blob) for path, blob in found[:_MOST_FILES]]
        names = [*_sorted_versions(repository), *sorted(repository.branches())]
    return _inside(
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
    content = tree.content(repository, blob)
    digest = content.pointer.sha256 if content.pointer else hashlib.sha256(tree.read(repository, blob)).hexdigest()
    return {"path": path, "size": _readable(content.size), "sha256": digest}


def _readable(size: int) -> str:
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def comparison(call: Call) -> Response:
    """Show which fields of the manifest differ between two versions."""
    with call.hub.repositories.reading(call.repo) as repository:
        names = _sorted_versions(repository) + sorted(repository.branches())
        old, new = _ends(call, names)
        documents = [
            _document(repository, call.repo, revisions.resolve(repository, call.repo, name)) for name in (old, new)
        ]
    document = DOCUMENT[call.repo.kind]
    found, problem = _compared(documents, document)
    return _inside(
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


def _compared(documents: list[bytes | None], name: str) -> tuple[list[compare.Change], str | None]:
    old, new = documents
    if old is None or new is None:
        return [], f"There is no {name} in one of them."
    try:
        return compare.changes(old, new), None
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
    return _inside(call, "commits.html", here="/commits", commits=shown, more=max(0, len(nodes) - _MOST_COMMITS))


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
    """Show what a commit says and which files it changed."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["commit"])
        node = next(repository.line(commit))
        now = tree.files(repository, commit)
        before = tree.files(repository, node.parent) if node.parent else {}
    changed = [
        (path, _how(before, now, path))
        for path in sorted(now.keys() | before.keys())
        if now.get(path) != before.get(path)
    ]
    more = max(0, len(changed) - _MOST_FILES)
    return _inside(
        call, "commit.html", here="/commits", node=_shown_node(node), changes=changed[:_MOST_FILES], more=more
    )


def _how(before: Mapping[str, str], now: Mapping[str, str], path: str) -> str:
    if path not in before:
        return "added"
    return "changed" if path in now else "removed"


def talks(call: Call) -> Response:
    """Show discussions and pull requests."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = discussions.all_of(repository)
    return _inside(call, "discussions.html", here="/discussions", discussions=found)


def talk(call: Call) -> Response:
    """Show one discussion, and what a pull request would change."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = discussions.read(repository, talking.discussion_number(call))
        head = repository.ref(f"{PULLS}{found['num']}")
        ours = repository.ref(found["base"])
        proposed = head is not None and ours is not None and found["status"] in ("open", "draft")
        conflicts = merging.merge(repository, ours, head).conflicts if proposed and head and ours else []
        diff = talking.diff(repository, found)
    return _inside(
        call, "discussion.html", here="/discussions", talk=found, conflicts=conflicts, diff=_lines(diff) if diff else []
    )


def _lines(diff: str) -> list[dict[str, str]]:
    """Return the lines of a diff, each with what it is."""
    return [{"text": line, "kind": _line_kind(line)} for line in diff.splitlines()[:_MOST_LINES]]


def _line_kind(line: str) -> str:
    rows = {"head": ("+++", "---", "@@", "diff ", "index ", "new file", "deleted file"), "new": ("+",), "gone": ("-",)}
    return next((kind for kind, beginnings in rows.items() if line.startswith(beginnings)), "same")

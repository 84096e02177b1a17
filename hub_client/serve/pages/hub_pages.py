"""Pages of the hub itself and of a repository: lists, search, the card, logging in."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import RedirectResponse, Response

from hub_client.release.listing import DatasetListing, Listing
from hub_client.release.store import RepoType
from hub_client.serve import commit_tree, json_views, tokens
from hub_client.serve.pages import html, tagged_releases
from hub_client.serve.refusals import Refused
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Record
from hub_client.serve.request import Call, number

_PAGE = 30
_LONGEST_SUMMARY = 280


def style(call: Call) -> Response:
    """Send the style sheet."""
    css = (html.TEMPLATES / "style.css").read_bytes()
    return Response(css, media_type="text/css", headers={"Cache-Control": "max-age=300"})


def login(call: Call) -> Response:
    """Ask for a token, or show whose is in use."""
    return html.page(call, "login.html", problem=None)


def log_in(call: Call, body: bytes) -> Response:
    """Begin a session for the token of the form."""
    if call.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "Log in on the hub's own page.")
    secret = parse_qs(body.decode(errors="replace")).get("token", [""])[-1].strip()
    token = call.hub.tokens.find(secret) if secret else None
    if token is None:
        return html.page(call, "login.html", status=401, problem="This hub knows no such token, or no longer.")
    return _session(call, call.hub.sessions.begin(token.id), seconds=tokens.SESSION_SECONDS)


def log_out(call: Call) -> Response:
    """End the session."""
    return _session(call, "", seconds=0)


def _session(call: Call, value: str, *, seconds: int) -> Response:
    response = RedirectResponse("/", status_code=303)
    secure = call.address.startswith("https://")
    response.set_cookie(tokens.COOKIE, value, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return response


def models(call: Call) -> Response:
    """List and search models."""
    return _list(call, "models", home="/")


def datasets(call: Call) -> Response:
    """List and search data sets."""
    return _list(call, "datasets", home="/datasets")


def _list(call: Call, kind: RepoType, *, home: str) -> Response:
    query, start = call.query.get("q", "")[:200], number(call.query, "start", default=0, most=10**9)
    found = [item for place, record in call.visible(kind) if (item := _item(call, place, record, query))]

    def link(at: int) -> str:
        return f"{home}?{urlencode({'q': query, 'start': at})}"

    return html.page(
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
    """Return what a list shows of a repository; None if it is not what was searched for."""
    with call.hub.repositories.reading(place) as repository:
        commit, version = tagged_releases.newest(repository)
        about = tagged_releases.about(repository, place, commit, version) if commit else None
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


def _short_facts(about: Listing | DatasetListing) -> list[str]:
    if isinstance(about, DatasetListing):
        return [f"{about.cells:,} cells", f"{about.genes:,} genes", about.license]
    counted = [f"{about.genes:,} genes" if about.genes else "", f"{about.cells:,} cells" if about.cells else ""]
    return [about.architecture, about.organism or "", ", ".join(about.tissue), *counted]


def _shortened(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST_SUMMARY else f"{plain[:_LONGEST_SUMMARY].rsplit(' ', 1)[0]} …"


def card(call: Call) -> Response:
    """Show a repository's card, its versions, and how to pull it."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit, version = tagged_releases.newest(repository)
        about = tagged_releases.about(repository, call.repo, commit, version) if commit else None
        text = (commit_tree.file(repository, commit, json_views.CARD) if commit else None) or b""
        yanked = tagged_releases.yanked(repository)
        names = tagged_releases.sorted_versions(repository)
        versions = [tagged_releases.version(repository, call.repo, name, yanked=yanked) for name in names]
    return html.inside(
        call,
        "card.html",
        here="",
        card=html.rendered(text),
        facts=_facts(about) if about else [],
        versions=versions,
        pull=_pull(call, version),
    )


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

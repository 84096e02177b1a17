"""Pages for people: plain HTML and CSS, no scripts, and nothing of a model's author is obeyed.

Templates escape what they show. A card is Markdown in which HTML is text; a browser may load nothing but the hub's own
style sheet.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from hub_client.serve.refusals import Refused
from hub_client.serve.request import Call

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_CARD = 2**20
_TABS = (
    ("", "Card"),
    ("/tree", "Files"),
    ("/commits", "History"),
    ("/compare", "Compare"),
    ("/discussions", "Discussions"),
)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(call: Call, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page of the hub."""
    given = {"kind": call.words.get("kind") if call.place is None else call.place.kind} | values
    text = _environment().get_template(template).render(user=call.user, address=call.address, **given)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "private, no-cache"}
    return HTMLResponse(text, status_code=status, headers=headers)


def inside(call: Call, template: str, *, here: str, **values: Any) -> Response:
    """Return a page about the route's repository."""
    return page(call, template, place=call.repo, private=call.seen(call.repo).private, tabs=_TABS, here=here, **values)


def refused(call: Call, refusal: Refused) -> Response:
    """Return the page that states why there is none; one that is missing and one that is forbidden look the same."""
    headings = {401: "Log in", 404: "Not found", 403: "Not allowed"}
    status = 404 if refusal.code == "RepoNotFound" else refusal.status
    heading = headings.get(status, "That did not work")
    response = page(replace(call, place=None), "refused.html", status=status, heading=heading, message=str(refusal))
    response.headers.update(refusal.headers)
    return response


def rendered(text: bytes) -> Markup:
    """Return a card as HTML in which the author's own HTML is text."""
    plain = text[:_LONGEST_CARD].decode(errors="replace").replace("\r\n", "\n")
    body = plain[4:].partition("\n---")[2].partition("\n")[2] if plain.startswith("---\n") else plain
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return Markup(parser.render(body))

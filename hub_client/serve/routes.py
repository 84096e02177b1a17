"""The table of routes, matched on the raw path: a revision may hold an encoded ``/``, and is one part all the same.

A template's ``{name}`` is one part of the path, ``{name*}`` the rest of it, ``[datasets/]`` is optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import unquote

from hub_client.release.names import SHA256
from hub_client.serve.api import administration, contents, discussions, large_files, pushes
from hub_client.serve.pages import hub_pages, repository_pages
from hub_client.serve.refusals import Refused

Access = Literal["open", "token", "read", "propose", "write", "admin"]
"""Who is let in: everybody; any token; who sees the repository; any token that sees it; a token with that scope."""
Body = Literal["none", "json", "form", "file", "stream"]
"""How the handler gets the request's body: not at all; parsed; its few bytes; a file on the disk; as it arrives."""


@dataclass(frozen=True)
class Route:
    """One kind of request and what answers it; a page is for people, and so are its refusals."""

    method: str
    template: str
    handler: Callable[..., Any]
    access: Access = "read"
    body: Body = "none"
    page: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The template as a regular expression."""
        return re.compile("/" + _PARTS.sub(_expression, re.escape(self.template)))

    @property
    def action(self) -> str:
        """What the audit log calls it."""
        return self.handler.__name__


_PARTS = re.compile(r"\\\{(\w+)(\\\*)?\\\}|\\\[datasets/\\\]")
_SHAPES = {"kind": "models|datasets", "change": "comment|title|status", "sha256": SHA256.pattern}
_REPO = "api/{kind}/{owner}/{name}"
_DISCUSSION = f"{_REPO}/discussions/{{number}}"

API = (
    Route("GET", "api/whoami-v2", administration.whoami, "token"),
    Route("POST", "api/validate-yaml", administration.validate_yaml, "open", "json"),
    Route("POST", "api/repos/create", administration.create, "token", "json"),
    Route("DELETE", "api/repos/delete", administration.delete, "token", "json"),
    Route("POST", "api/repos/move", administration.move, "token", "json"),
    Route("GET", "api/{kind}", administration.list_repositories, "open"),
    Route("GET", _REPO, contents.info),
    Route("GET", f"{_REPO}/revision/{{revision}}", contents.info),
    Route("GET", f"{_REPO}/auth-check", contents.auth_check),
    Route("GET", f"{_REPO}/auth-check/write", contents.auth_check, "write"),
    Route("PUT", f"{_REPO}/settings", administration.settings, "admin", "json"),
    Route("GET", f"{_REPO}/refs", contents.refs),
    Route("GET", f"{_REPO}/commits/{{revision}}", contents.list_commits),
    Route("GET", f"{_REPO}/tree/{{revision}}", contents.list_tree),
    Route("GET", f"{_REPO}/tree/{{revision}}/{{path*}}", contents.list_tree),
    Route("POST", f"{_REPO}/paths-info/{{revision}}", contents.paths_info, "read", "form"),
    Route("POST", f"{_REPO}/preupload/{{revision}}", pushes.preupload, "propose", "json"),
    Route("POST", f"{_REPO}/commit/{{revision}}", pushes.commit, "propose", "file"),
    Route("POST", f"{_REPO}/tag/{{revision}}", pushes.create_tag, "write", "json"),
    Route("DELETE", f"{_REPO}/tag/{{tag}}", pushes.delete_tag, "write"),
    Route("POST", f"{_REPO}/branch/{{branch}}", pushes.create_branch, "write", "json"),
    Route("DELETE", f"{_REPO}/branch/{{branch}}", pushes.delete_branch, "write"),
    Route("GET", f"{_REPO}/discussions", discussions.list_discussions),
    Route("POST", f"{_REPO}/discussions", discussions.create_discussion, "propose", "json"),
    Route("GET", _DISCUSSION, discussions.get_discussion),
    Route("POST", f"{_DISCUSSION}/merge", discussions.merge, "write", "json"),
    Route("POST", f"{_DISCUSSION}/{{change}}", discussions.change_discussion, "propose", "json"),
    Route("POST", f"{_DISCUSSION}/comment/{{comment}}/edit", discussions.edit_comment, "propose", "json"),
    Route("POST", f"{_DISCUSSION}/comment/{{comment}}/hide", discussions.hide_comment, "propose", "json"),
)
FILES = (
    Route("GET", "[datasets/]{owner}/{name}/resolve/{revision}/{path*}", contents.resolve),
    Route("GET", "[datasets/]{owner}/{name}/raw/{revision}/{path*}", contents.resolve),
    Route("POST", "[datasets/]{owner}/{name}.git/info/lfs/objects/batch", large_files.batch, "read", "json"),
    Route("PUT", "lfs/{kind}/{owner}/{name}/{sha256}", large_files.upload, "open", "stream"),
    Route("GET", "lfs/{kind}/{owner}/{name}/{sha256}", large_files.download, "open"),
)
PAGES = (
    Route("GET", "", hub_pages.models, "open", page=True),
    Route("GET", "datasets", hub_pages.datasets, "open", page=True),
    Route("GET", "login", hub_pages.login, "open", page=True),
    Route("POST", "login", hub_pages.log_in, "open", "form", page=True),
    Route("POST", "logout", hub_pages.log_out, "open", page=True),
    Route("GET", "static/style.css", hub_pages.style, "open", page=True),
    Route("GET", "[datasets/]{owner}/{name}", hub_pages.card, page=True),
    Route("GET", "[datasets/]{owner}/{name}/tree", repository_pages.pick_files, page=True),
    Route("GET", "[datasets/]{owner}/{name}/tree/{revision}", repository_pages.files, page=True),
    Route("GET", "[datasets/]{owner}/{name}/compare", repository_pages.comparison, page=True),
    Route("GET", "[datasets/]{owner}/{name}/commits", repository_pages.history, page=True),
    Route("GET", "[datasets/]{owner}/{name}/commit/{commit}", repository_pages.one_commit, page=True),
    Route("GET", "[datasets/]{owner}/{name}/discussions", repository_pages.discussions, page=True),
    Route("GET", "[datasets/]{owner}/{name}/discussions/{number}", repository_pages.discussion, page=True),
)
ROUTES = (*API, *FILES, *PAGES)


def _expression(match: re.Match[str]) -> str:
    name, rest = match[1], match[2]
    if name is None:
        return "(?P<datasets>datasets/)?"
    return f"(?P<{name}>{'.+' if rest else _SHAPES.get(name, '[^/]+')})"


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """Return the route of a request and the words of its path, unquoted.

    Raises
    ------
    Refused
        If there is none.
    """
    allowed = []
    for route in ROUTES:
        if match := route.pattern.fullmatch(path):
            if route.method == method:
                return route, _words(match)
            allowed.append(route.method)
    if allowed:
        raise Refused(405, f"This address takes {', '.join(allowed)}.", Allow=", ".join(allowed))
    # the code of a kind of repository that this hub has not, so that the client reports it
    code = "RepoNotFound" if re.match("/(?:api/)?(?:spaces|kernels|buckets)/", path) else None
    raise Refused(404, "This hub has no such address.", code=code)


def _words(match: re.Match[str]) -> dict[str, str]:
    words = {name: part for name, part in match.groupdict().items() if part is not None}
    kind = words.get("kind", "datasets" if words.pop("datasets", None) else "models")
    try:
        return {name: unquote(part, errors="strict") for name, part in words.items()} | {"kind": kind}
    except UnicodeDecodeError:
        raise Refused(400, "The path is not UTF-8.") from None

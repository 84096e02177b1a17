"""What a request is to a handler, and the answers that a Hugging Face client understands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from hub_client import errors

if TYPE_CHECKING:
    from hub_client.serve.hub import Hub
    from hub_client.serve.places import Place
    from hub_client.serve.tokens import Token

BAD_TOKEN = "Invalid credentials in Authorization header"
"""The one message by which the client tells a bad token from a missing repository."""
_LONGEST_HEADER = 400


class Refused(errors.HubClientError):
    """A request that is answered by no: an HTTP status, a code the client knows, and what to do."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        """Return the answer, its message both in the body and where the client looks for it."""
        headers = {"X-Error-Message": _header(str(self))} | self.headers
        if self.code:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": str(self)} | self.body(), status_code=self.status, headers=headers)

    def body(self) -> dict[str, Any]:
        """Return what the body holds beside the message."""
        return {}


class Exists(Refused):
    """A repository that is there already; the client reads its address from the answer."""

    def __init__(self, url: str) -> None:
        super().__init__(409, "You already created this repository.")
        self.url = url

    def body(self) -> dict[str, Any]:
        """Return where the repository is."""
        return {"url": self.url}


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes
    ----------
    hub
        Everything that lives as long as the server.
    method
        In upper case; HEAD arrives as GET.
    address
        The hub's own address without a final ``/``, as the client sees it.
    path
        The raw path.
    words
        The parts of the path that the route names, unquoted.
    query
        Each key's last value.
    headers
        Names in lower case.
    client
        The network address of whoever asks.
    token
        The valid token that came along, or None.
    place
        The repository the route names, once it is known to be visible to the token; None for other routes.
    body
        The JSON of the request; ``{}`` for routes without.
    """

    hub: Hub
    method: str
    address: str
    path: str
    words: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    client: str = ""
    token: Token | None = None
    place: Place | None = None
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def repo(self) -> Place:
        """The repository of a route that names one."""
        if self.place is None:
            raise LookupError(self.path)
        return self.place

    @property
    def user(self) -> str:
        """The name of whoever asks; empty without a token."""
        return self.token.user if self.token else ""

    @property
    def may(self) -> str:
        """What the token allows, for people."""
        if self.token is None:
            return "there is none."
        return f"it may {self.token.scope} in {', '.join(self.token.namespaces)}."

    @property
    def page(self) -> str:
        """The address of the repository's page."""
        return f"{self.address}/{self.repo.web}"

    def text(self, key: str, default: str = "") -> str:
        """Return a text of the body, or refuse what is none."""
        value = self.body.get(key, default)
        if value is None:
            return default
        if not isinstance(value, str):
            raise Refused(400, f"{key!r} of the request should be text.")
        return value

    def next_link(self, **changed: object) -> dict[str, str]:
        """Return the header that names this listing's next page."""
        query = urlencode(dict(self.query) | changed)
        return {"Link": f'<{self.address}{self.path}?{query}>; rel="next"'}


def no_repository(token: Token | None) -> NoReturn:
    """Refuse in the words that a missing repository and a forbidden one share."""
    raise Refused(404 if token else 401, "Repository not found, or not for you to see.", code="RepoNotFound")


def no_revision(revision: str) -> NoReturn:
    """Refuse a revision that the repository has not."""
    raise Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def no_entry(path: str, commit: str) -> NoReturn:
    """Refuse a path that a commit has not."""
    raise Refused(404, f"Entry not found: {path}", code="EntryNotFound", X_Repo_Commit=commit)


def number(query: Mapping[str, str], key: str, *, default: int, most: int) -> int:
    """Return a whole number of the query, from 0 to ``most``."""
    given = query.get(key, "")
    if given and not re.fullmatch(r"\d{1,9}", given):
        raise Refused(400, f"{key}={given!r} should be a whole number.")
    return min(int(given or default), most)


def flag(value: object) -> bool:
    """Return whether a query's or a form's value means yes."""
    return str(value).lower() in ("1", "true", "yes", "on")


def page(call: Call, items: list[Any], *, size: int, **pinned: str) -> Response:
    """Return one page of a listing; ``pinned`` goes into the next page's address, so that pages fit together."""
    start = number(call.query, "cursor", default=0, most=10**9)
    headers = call.next_link(cursor=start + size, **pinned) if start + size < len(items) else {}
    return JSONResponse(items[start : start + size], headers=headers)


def parsed_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request's body; nothing is an empty one."""
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "The request's body is not JSON.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refused(400, "The request's body is not a JSON object.")
    return found


def _header(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:_LONGEST_HEADER].strip()

"""What a request is to a handler, and how the values in it are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from hub_client.release.store import RepoType
from hub_client.serve.hub import Hub
from hub_client.serve.refusals import Refused, no_repository
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Record
from hub_client.serve.tokens import Scope, Token

PAGE = 1000
"""Most items of a listing's page."""


@dataclass(frozen=True)
class Call:
    """One request."""

    hub: Hub
    """Everything that lives as long as the server."""
    method: str
    """In upper case; HEAD arrives as GET."""
    address: str
    """The hub's own address without a final ``/``, as the client sees it."""
    path: str
    """The raw path."""
    words: Mapping[str, str]
    """The parts of the path that the route names, unquoted."""
    query: Mapping[str, str]
    """Each key's last value."""
    headers: Mapping[str, str]
    """Names in lower case."""
    client: str = ""
    """The network address of whoever asks."""
    token: Token | None = None
    """The valid token that came along, or None."""
    place: Place | None = None
    """The repository the route names, once it is known to be visible to the token; None for other routes."""
    body: dict[str, Any] = field(default_factory=dict)
    """The JSON of the request; ``{}`` for routes without."""

    @property
    def named(self) -> Place:
        """The repository that the path names, there or not."""
        return Place(self.kind, self.words["owner"], self.words["name"])

    @property
    def kind(self) -> RepoType:
        """Whether the path is about models or data sets."""
        return "datasets" if self.words["kind"] == "datasets" else "models"

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

    def allows(self, scope: Scope, owner: str) -> bool:
        """Return whether the token holds for this."""
        return self.token is not None and self.token.allows(scope, owner)

    def seen(self, place: Place) -> Record:
        """Return what is known of a repository; Refused in the same words if there is none or it may not be seen."""
        record = self.hub.repositories.record(place)
        if record is None or not self._sees(place, record):
            no_repository(known=self.token is not None)
        return record

    def visible(self, kind: RepoType) -> list[tuple[Place, Record]]:
        """Return the repositories of a kind that the token may see."""
        found = ((place, self.hub.repositories.record(place)) for place in self.hub.repositories.all(kind))
        return [(place, record) for place, record in found if record is not None and self._sees(place, record)]

    def _sees(self, place: Place, record: Record) -> bool:
        return not record.private or self.allows("read", place.owner)

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


def number(query: Mapping[str, str], key: str, *, default: int, most: int) -> int:
    """Return a whole number of the query, from 0 to ``most``."""
    given = query.get(key, "")
    if given and not re.fullmatch(r"\d{1,9}", given):
        raise Refused(400, f"{key}={given!r} should be a whole number.")
    return min(int(given or default), most)


def limit(query: Mapping[str, str], *, default: int) -> int:
    """Return how many items of a listing are wanted, at most :data:`PAGE`."""
    return number(query, "limit", default=default, most=PAGE) or default


def flag(value: object) -> bool:
    """Return whether a query's or a form's value means yes."""
    return str(value).lower() in ("1", "true", "yes", "on")


def page(call: Call, items: list[Any], *, size: int, **pinned: str) -> Response:
    """Return one page of a listing; ``pinned`` goes into the next page's address, so that pages fit together."""
    start = number(call.query, "cursor", default=0, most=10**9)
    headers = call.next_link(cursor=start + size, **pinned) if start + size < len(items) else {}
    return JSONResponse(items[start : start + size], headers=headers)


def parsed_json(body: bytes, *, what: str = "The request's body") -> dict[str, Any]:
    """Return the JSON object of a request's body; nothing is an empty one."""
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, f"{what} is not JSON.") from None
    if not isinstance(found, dict | None):
        raise Refused(400, f"{what} is not a JSON object.")
    return found or {}

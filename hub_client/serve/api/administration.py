"""What a client asks of the hub itself: whose token it is, which repositories there are, new ones, other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from hub_client.serve import front_matter, json_views, repository_names
from hub_client.serve.refusals import Refused, no_repository
from hub_client.serve.repository_names import Place
from hub_client.serve.request import PAGE, Call, limit, page


def whoami(call: Call) -> Response:
    """Report whose token it is."""
    token = call.token
    if token is None:
        raise Refused(401, "A token is needed.")
    access = {"displayName": token.id, "role": token.scope if token.scope != "admin" else "write", "createdAt": None}
    return JSONResponse(
        {
            "type": "user",
            "id": token.user,
            "name": token.user,
            "fullname": token.user,
            "orgs": [{"type": "org", "name": name} for name in token.namespaces if name not in (token.user, "*")],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def validate_yaml(call: Call) -> Response:
    """Check a card's metadata before anything is uploaded."""
    try:
        front_matter.strict(call.text("content").encode(errors="replace"))
    except ValueError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, status_code=400)
    return JSONResponse({"errors": [], "warnings": []})


def list_repositories(call: Call) -> Response:
    """List the repositories that the token may see."""
    words, found = call.query.get("search", "").lower().split(), []
    for place, record in call.visible(call.kind):
        if call.query.get("author", place.owner) == place.owner and all(word in str(place).lower() for word in words):
            with call.hub.repositories.reading(place) as repository:
                found.append(json_views.repository(call.hub, place, record, commit=repository.head()))
    return page(call, found, size=limit(call.query, default=PAGE))


def create(call: Call) -> Response:
    """Make a repository."""
    kind = call.body.get("type")
    if kind not in repository_names.TYPES:
        raise Refused(404, "This hub holds models and data sets.", code="RepoNotFound")
    owner = call.body.get("organization") or call.user
    place = Place.new(repository_names.TYPES[kind], f"{owner}/{call.text('name')}")
    _check_scope(call, place)
    url = f"{call.address}/{place.web}"
    call.hub.repositories.create(place, private=_visibility(call.body), creator=call.user, url=url)
    return JSONResponse({"url": url, "name": str(place), "id": str(place)})


def _check_scope(call: Call, place: Place) -> None:
    if not call.allows("write", place.owner):
        raise Refused(403, f"This token may not write to the namespace {place.owner!r}: {call.may}")


def _visibility(body: Mapping[str, Any]) -> bool | None:
    """Return whether a request wants a repository private; None if it does not state it."""
    wanted = body.get("visibility")
    if wanted is None:
        given = body.get("private")
        return given if isinstance(given, bool) else None
    if wanted not in ("public", "private"):
        raise Refused(400, f"visibility is public or private here, not {str(wanted)[:40]!r}.")
    return bool(wanted == "private")


def settings(call: Call) -> Response:
    """Set who may see a repository."""
    private = _visibility(call.body)
    if call.body.get("gated"):
        raise Refused(400, "This hub has no gated repositories: give read tokens to those who may see a private one.")
    if private is not None:
        call.hub.repositories.show(call.repo, private=private)
    return JSONResponse({})


def delete(call: Call) -> Response:
    """Delete a repository."""
    place = _named_in_body(call, str(call.body.get("organization") or call.user), call.text("name"))
    call.hub.repositories.delete(place)
    return JSONResponse({})


def move(call: Call) -> Response:
    """Give a repository another name or owner."""
    owner, _, name = call.text("fromRepo").partition("/")
    place = _named_in_body(call, owner, name)
    target = Place.new(place.kind, call.text("toRepo"))
    _check_scope(call, target)
    call.hub.repositories.move(place, target, url=f"{call.address}/{target.web}")
    return JSONResponse({"url": f"{call.address}/{target.web}"})


def _named_in_body(call: Call, owner: str, name: str) -> Place:
    """Return the repository a request's body names; refused unless the token is an admin's there."""
    kind = call.body.get("type")
    if kind not in repository_names.TYPES:
        no_repository(known=call.token is not None)
    place = Place(repository_names.TYPES[kind], owner, name)
    call.seen(place)
    if not call.allows("admin", owner):
        raise Refused(403, f"Deleting and renaming need a token with scope admin for {owner!r}: {call.may}")
    return place

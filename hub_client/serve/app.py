"""One request from its first byte to its last: route, token, permission, body, handler, audit line."""

from __future__ import annotations

import base64
import binascii
import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import parse_qsl

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hub_client import errors
from hub_client.files import atomic
from hub_client.serve import server_files, streams
from hub_client.serve.hub import Hub
from hub_client.serve.pages import html
from hub_client.serve.quota import LARGEST_COMMIT, LARGEST_JSON
from hub_client.serve.refusals import BAD_TOKEN, Refused
from hub_client.serve.request import Call, parsed_json
from hub_client.serve.routes import Route, find
from hub_client.serve.tokens import COOKIE, Token

_log = logging.getLogger(__name__)
_THREADS = {True: 12, False: 32}
"""How many requests are worked on at once: those that may wait for a repository's lock, and those that read."""
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_CLOSED = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""What a browser may do with an answer that is not one of the hub's pages: nothing."""
_STATUS: tuple[tuple[type[errors.HubClientError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.NotFound, 404),
    (errors.TransportError, 503),
)
_SENDING = ("resolve", "download")
"""Actions that send a file: a lab may have to account for who has it."""
_GONE = 499
_PLAIN = {503: "This hub is busy, or cannot write just now; try again.", 507: "This hub's disk has no room left."}
"""What answers replace errors that name the server's own folders."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Application:
    """The hub as an ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._threads: dict[bool, CapacityLimiter] = {}
        self._readers: CapacityLimiter | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self._begin()
        scope.setdefault("state", {})["readers"] = self._readers
        request = Request(scope, receive)
        response = await self._answered(request)
        for name, value in (_SAFE | {"Content-Security-Policy": _CLOSED}).items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    def _begin(self) -> None:
        """Make the limiters, which belong to the running event loop."""
        if self._readers is None:
            self._readers = CapacityLimiter(streams.READERS)
            self._threads = {waits: CapacityLimiter(count) for waits, count in _THREADS.items()}

    async def _answered(self, request: Request) -> Response:
        work = _Work(_call(self._hub, request))
        try:
            response = await self._worked(work, request)
        except Refused as refusal:
            response = html.refused(work.call, refusal) if work.page else refusal.response()
        except ClientDisconnect:
            response = Response(status_code=_GONE)
        except errors.HubClientError as error:
            response = _failed(error)
        self._audited(work, response.status_code)
        return response

    async def _worked(self, work: _Work, request: Request) -> Response:
        """Answer a request step by step; ``work`` holds what is known of it, for the audit log, wherever it ends."""
        work.page = work.call.method == "GET" and "text/html" in work.call.headers.get("accept", "")
        route, words = find(work.call.method, work.call.path)
        work.action, work.page = route.action, route.page
        work.call = replace(work.call, words=words)
        work.call = replace(work.call, token=_token(work.call))
        work.call = await to_thread.run_sync(_admitted, work.call, route, limiter=self._threads[False])
        if route.body == "json":
            work.call = replace(work.call, body=parsed_json(await _small(request)))
        return await self._handled(work.call, route, request)

    async def _handled(self, call: Call, route: Route, request: Request) -> Response:
        limiter = self._threads[call.method != "GET"]
        if route.body == "stream":
            response = await route.handler(call, request.stream())
        elif route.body == "file":
            response = await self._with_file(call, route, request, limiter=limiter)
        elif route.body == "form":
            response = await to_thread.run_sync(route.handler, call, await _small(request), limiter=limiter)
        else:
            response = await to_thread.run_sync(route.handler, call, limiter=limiter)
        return response  # type: ignore[no-any-return]

    async def _with_file(self, call: Call, route: Route, request: Request, *, limiter: CapacityLimiter) -> Response:
        """Let the body arrive on the disk before anybody waits for it."""
        folder = server_files.folder(self._hub.settings.root)
        with (
            self._hub.quota.room(call.repo.owner, 0),
            atomic.writing("this hub", otherwise="ask whoever runs it"),
            TemporaryFile(dir=folder) as file,
        ):
            await streams.receive(request.stream(), file, most=LARGEST_COMMIT)
            file.seek(0)
            return await to_thread.run_sync(route.handler, call, file, limiter=limiter)

    def _audited(self, work: _Work, status: int) -> None:
        """Write down what changed something, sent a file, or was refused."""
        call = work.call
        if call.method == "GET" and status < 400 and work.action not in _SENDING:
            return
        self._hub.audit.write(
            action=work.action,
            status=status,
            method=call.method,
            path=call.path[:500],
            user=call.user or None,
            token=call.token.id if call.token else None,
            client=call.client or None,
            names=_named(call.body) or None,
        )


@dataclass
class _Work:
    """A request on its way: what is known of it so far."""

    call: Call
    action: str = "unknown"
    page: bool = False


def _named(body: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a request's body names the repository or ref it is about."""
    keys = ("name", "organization", "type", "fromRepo", "toRepo", "visibility", "tag", "startingPoint")
    return {key: str(body[key])[:200] for key in keys if body.get(key) is not None}


def _call(hub: Hub, request: Request) -> Call:
    scope = request.scope
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    address = hub.settings.address or f"{scope['scheme']}://{headers.get('host', 'localhost')}"
    raw = scope.get("raw_path") or scope["path"].encode()
    return Call(
        hub=hub,
        method="GET" if scope["method"] == "HEAD" else scope["method"],
        address=address,
        path=raw.decode("latin-1"),
        words={},
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        headers=headers,
        client=scope["client"][0] if scope.get("client") else "",
    )


def _admitted(call: Call, route: Route) -> Call:
    """Return the call with its repository; refused where the route does not let such a one in."""
    if route.access == "token" and call.token is None:
        raise Refused(401, "A token is needed: log in with `hf auth login`, or give token=.")
    if route.access in ("open", "token"):
        return call
    call.seen(call.named)
    if route.access != "read" and call.token is None:
        raise Refused(401, f"{call.named} is public to read; to change it, give a token.")
    if route.access in ("write", "admin") and not call.allows(route.access, call.named.owner):
        raise Refused(403, f"This needs a token with scope {route.access} for {call.named.owner!r}: {call.may}")
    return replace(call, place=call.named)


def _token(call: Call) -> Token | None:
    """Return the token that came along, or None; refused if one came that is not valid.

    Browsers send a password with every request, whoever's page made it; so one is taken only where nothing changes.
    """
    header = call.headers.get("authorization")
    if not header:
        return _session(call)
    scheme, _, value = header.partition(" ")
    secret = _SCHEMES[scheme.lower()](value.strip()) if scheme.lower() in _SCHEMES else ""
    if scheme.lower() == "basic" and call.method != "GET":
        raise Refused(401, "A password is only good for reading; send the token as Bearer.")
    token = call.hub.tokens.find(secret) if secret else None
    if token is None:
        raise Refused(401, BAD_TOKEN)
    return token


def _session(call: Call) -> Token | None:
    """Return the token of a browser's session, which only reads; one that is over is none."""
    given = call.headers.get("cookie", "") if call.method == "GET" else ""
    cookies = dict(part.strip().partition("=")[::2] for part in given.split(";"))
    identity = call.hub.sessions.token(cookies.get(COOKIE, ""))
    return call.hub.tokens.named(identity) if identity else None


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


_SCHEMES: Mapping[str, Callable[[str], str]] = {"bearer": str, "basic": _password}


async def _small(request: Request) -> bytes:
    """Return a body that is small enough for memory."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_JSON:
            raise Refused(413, f"the request has more than {LARGEST_JSON:,} bytes.")
    return bytes(body)


def _failed(error: errors.HubClientError) -> Response:
    """Return the answer to an error of the storage below."""
    cause = error.__cause__
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if isinstance(cause, OSError) and cause.errno in _FULL:
        status = 507
    if status >= 500:
        _log.error("%s", error, exc_info=error)
    return Refused(status, _PLAIN.get(status, str(error))).response()

"""Bytes over HTTP: bounded in size and time, resumed where they broke off, and a token for its own endpoint alone.

Whatever a hub answers is a claim. A body is read to its expected size and not a byte further, never decompressed, and
a redirect to anywhere else goes without the token, which is neither printed nor logged.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.auth import AuthBase

from hub_client import errors
from hub_client._version import __version__
from hub_client.manifest import _json
from hub_client.store import settings
from hub_client.store.network.rate_limits import asked_pause
from hub_client.store.network.stream import PAUSES, Dropped, Stream

CHUNK = 1 << 18
"""Bytes that are read, hashed and written at a time."""
TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""
LONGEST_ANSWER = 120.0
"""Seconds after which an answer that fits in memory has to be complete."""
LONGEST_WAIT = 300.0
"""Seconds that a request waits in all where a hub asks to be left alone for a while: the public hub's window."""
MOST_PAGES = 1000

_BUSY = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_HOPS = 5
_LIMITED = 429
_GATED = "GatedRepo"
_PORTS = {"http": 80, "https": 443}
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_Got = TypeVar("_Got")
_DROPPED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A complete answer: its status, headers in lower case, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """What can be had from one endpoint.

    Parameters
    ----------
    url
        ``https://hub.lab.example``, perhaps with a path.
    token
        Sent to this endpoint, and nowhere else; None sends none.

    Raises
    ------
    InvalidInput
        If it is no address of this kind, or a token would go over the network in the clear.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.origin = origin(self.url)
        self._token = _checked_token(token, self.url)
        self._sessions: dict[int, requests.Session] = {}  # by process: a fork must not share its parent's connections

    def __repr__(self) -> str:
        return f"Client({self.url})"

    def get(self, path: str, *, limit: int, params: Mapping[str, str] | None = None, elsewhere: bool = False) -> Answer:
        """Return a small answer, whatever its status, with the headers of the endpoint itself.

        Parameters
        ----------
        path
            Below the endpoint, quoted.
        limit
            The most bytes that are read.
        params
            The query.
        elsewhere
            Whether the endpoint may send us on to another host, which gets no token.

        Raises
        ------
        TransportError
            If the endpoint cannot be reached, keeps failing, sends more than ``limit`` bytes, or sends us elsewhere.
        """
        return self._attempted(
            lambda: self._small(self._address(path), limit=limit, params=params, elsewhere=elsewhere)
        )

    def pages(self, path: str, *, limit: int, params: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Return an answer and those that its ``Link`` header names as the next ones, of the same endpoint."""
        answer = self.get(path, limit=limit, params=params)
        yield answer
        seen = {path}
        while address := _next_page(answer):
            target = urljoin(self._address(path), address)
            if origin(target) != self.origin or target in seen or len(seen) > MOST_PAGES:
                raise self._odd(f"sends us on to {shown(target)} for the next page of {shown(path)}")
            seen.add(target)
            answer = self._attempted(partial(self._small, target, limit=limit))
            yield answer

    @contextmanager
    def stream(self, path: str, *, start: int, size: int) -> Iterator[Stream]:
        """Give a file of a known size from byte ``start`` on, or from byte 0 where the server cannot resume.

        Raises
        ------
        Dropped
            If the connection broke off; what came until then is good to keep.
        IntegrityError
            If the server announces another size, range or encoding than was asked for.
        TransportError
            As :meth:`get`.
        """
        response, own = self._attempted(lambda: self._opened(self._address(path), start=start, size=size))
        with response:
            begin = _begins_at(response, start=start, size=size, name=path.rpartition("/")[2])
            yield Stream(begin, own, _pieces(response))

    # One request

    def _address(self, path: str) -> str:
        return f"{self.url}/{path}"

    def _attempted(self, request: Callable[[], _Got]) -> _Got:
        """Return what a request gives, asked again after a pause where the network or the server failed."""
        pauses, waited = iter(PAUSES), 0.0
        while True:
            try:
                return request()
            except (*_DROPPED, _Busy) as error:
                pause = max(next(pauses, math.inf), error.pause if isinstance(error, _Busy) else 0.0)
                if waited + pause > LONGEST_WAIT or isinstance(error, requests.exceptions.SSLError):
                    raise self._given_up(error) from error
                self._wait(pause)
                waited += pause
            except requests.RequestException as error:
                raise self._given_up(error) from error

    def _wait(self, seconds: float) -> None:
        if seconds > max(PAUSES):
            _log.warning("the hub %s asks to be left alone for %.0f seconds; waiting", self.url, seconds)
        time.sleep(seconds)

    def _small(
        self, address: str, *, limit: int, params: Mapping[str, str] | None = None, elsewhere: bool = False
    ) -> Answer:
        own: dict[str, str] = {}
        with self._requested(address, params=params, elsewhere=elsewhere, own=own) as response:
            _refuse_encoding(response, name=shown(response.url))
            body, until = bytearray(), time.monotonic() + LONGEST_ANSWER
            for piece in _raw(response):
                body += piece
                if len(body) > limit:
                    raise self._odd(f"answers {shown(response.url)} with more than the {limit:,} bytes that are read")
                if time.monotonic() > until:
                    raise self._odd(f"takes more than {LONGEST_ANSWER:.0f} seconds to answer {shown(response.url)}")
        return Answer(response.status_code, own, bytes(body))

    def _opened(self, address: str, *, start: int, size: int) -> tuple[requests.Response, Mapping[str, str]]:
        """Return the response with the file, and the headers of the endpoint's own answer."""
        own: dict[str, str] = {}
        ranged = {"Range": f"bytes={start}-"} if 0 < start < size else {}
        response = self._requested(address, headers=ranged, elsewhere=True, own=own)
        if response.status_code == 416:
            response.close()
            own.clear()
            response = self._requested(address, elsewhere=True, own=own)
        if response.status_code not in (200, 206):
            response.close()
            raise self.refusal(response.status_code, own | _lower(response.headers), what=shown(address))
        return response, own

    def _requested(
        self,
        address: str,
        *,
        elsewhere: bool,
        own: dict[str, str],
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a GET and follow redirects, only where ``elsewhere`` to other origins; ``own`` gets the first headers.

        What a hub states about a file is in its own first answer; where that sends us on, the next host knows nothing.
        """
        for _ in range(_MOST_HOPS + 1):
            response = self._sent(address, params=params, headers=headers)
            if origin(address) == self.origin:
                own.update(_lower(response.headers) | own)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or location is None:
                return response
            response.close()
            address, params = self._target(address, location, elsewhere=elsewhere), None
        raise self._odd(f"sends us round in circles at {shown(address)}")

    def _target(self, address: str, location: str, *, elsewhere: bool) -> str:
        target = urljoin(address, location)
        there = origin(target)
        if there != self.origin and not elsewhere:
            raise self._odd(f"sends us on to {shown(target)}, which is not the hub")
        if self.origin[0] == "https" and there[0] != "https":
            raise self._odd(f"sends us on to {shown(target)}, which is not encrypted")
        return target

    def _sent(
        self, address: str, *, params: Mapping[str, str] | None, headers: Mapping[str, str] | None
    ) -> requests.Response:
        settings.refuse_offline(self.url)
        token = self._token if origin(address) == self.origin else None
        response = self._opened_session().get(
            address,
            params=params,
            headers=dict(headers or {}),
            auth=_Bearer(token),
            allow_redirects=False,
            stream=True,
            timeout=TIMEOUT,
        )
        if response.status_code in _BUSY:
            response.close()
            headers = _lower(response.headers)
            pause = asked_pause(headers, limited=response.status_code == _LIMITED)
            raise _Busy(response.status_code, pause, self.reason(headers))
        return response

    def _opened_session(self) -> requests.Session:
        process = os.getpid()
        if process not in self._sessions:
            session = self._sessions[process] = requests.Session()
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"archzoo/{__version__}"})
        return self._sessions[process]

    # Errors

    def reason(self, headers: Mapping[str, str]) -> str:
        """Return what the hub gives as its reason for a refusal: printable, short, and never the token."""
        text = shown(headers.get("x-error-message", ""))
        return text.replace(self._token, "***") if self._token else text

    def refusal(self, status: int, headers: Mapping[str, str], *, what: str = "") -> errors.TransportError:
        """Return the error for an answer by which a hub refuses; ``what`` it refuses is empty where that is plain."""
        answer = f"{status} {self.reason(headers)}".strip().rstrip(".")
        refused = f"{what} cannot be fetched: the hub {self.url}" if what else f"the hub {self.url}"
        if gated(headers):
            return errors.Restricted(
                f"{refused} refuses ({answer}). Accept its terms on its page there, and give a token."
            )
        return errors.TransportError(f"{refused} refuses ({answer}). Ask who runs the hub.")

    def _odd(self, what: str) -> errors.TransportError:
        return errors.TransportError(f"the hub {self.url} {what}. That is no answer of a hub; ask who runs it.")

    def _given_up(self, error: Exception) -> errors.TransportError:
        if isinstance(error, _Busy) and error.status == _LIMITED:
            return self._limited(error)
        if isinstance(error, _Busy) and error.pause:
            asked = f"it is busy or broken ({error.status}), and asks to come back in {error.pause:,.0f} seconds"
            return self._unreachable(asked)
        reason = next((why for kind, why in _REASONS.items() if isinstance(error, kind)), type(error).__name__)
        return self._unreachable(reason)

    def _unreachable(self, reason: str) -> errors.TransportError:
        return errors.TransportError(
            f"the hub {self.url} cannot be reached: {reason}. Check its address and your network, or work with what is "
            f"in the cache: {settings.OFFLINE}=1."
        )

    def _limited(self, error: _Busy) -> errors.TransportError:
        reason = f": {error.reason.rstrip('. ')}" if error.reason else ""
        wait = f"Wait {error.pause:,.0f} seconds" if error.pause else "Wait a few minutes"
        token = "" if self._token else "; it may allow more with a token"
        return errors.TransportError(
            f"the hub {self.url} limits how often it is asked (429 Too Many Requests{reason}). {wait} and try "
            f"again{token}. What is in the cache can be had meanwhile: {settings.OFFLINE}=1."
        )


class _Busy(Exception):
    """An answer that asks for patience: for how many seconds, and why, as far as the hub states that."""

    def __init__(self, status: int, pause: float, reason: str) -> None:
        super().__init__(status)
        self.status, self.pause, self.reason = status, pause, reason


class _Bearer(AuthBase):
    """The token, or none; with it in place requests does not look for passwords in ``~/.netrc``."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Authorization", None)
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


_REASONS: dict[type[Exception], str] = {
    _Busy: f"it is busy or broken, and answered so {len(PAUSES) + 1} times",
    requests.exceptions.SSLError: "its certificate is not one that this machine trusts",
    requests.exceptions.ProxyError: "the proxy refuses",
    requests.exceptions.ConnectTimeout: "it does not answer",
    requests.exceptions.ReadTimeout: "it stopped answering",
    requests.exceptions.ConnectionError: "no connection",
}


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address; InvalidInput if it is no http or https address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username or parts.password:
        raise errors.InvalidInput(
            f"{shown(url)!r} is not the address of a hub: expected https://host, without a user or password in it.",
            facts={"hub": shown(url)},
        )
    return parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme]


def _checked_token(token: str | None, url: str) -> str | None:
    scheme, host, _ = origin(url)
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise errors.InvalidInput(f"the token for {url} is empty, or holds blanks or other signs that no token has.")
    if token is not None and scheme == "http" and not _loopback(host):
        raise errors.InvalidInput(
            f"the token for {url} would cross the network in the clear. Use the hub's https:// address, or a tunnel "
            "that ends on this machine.",
            facts={"hub": url},
        )
    return token


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(text: str) -> str:
    """Return text of a stranger for a message: printable, in one line, at most 200 signs, without a query."""
    plain = text.partition("?")[0] if "://" in text else text
    return "".join(sign if sign.isprintable() else "?" for sign in plain)[:200]


def gated(headers: Mapping[str, str]) -> bool:
    """Return whether an answer, by its headers in lower case, is that terms have to be accepted first."""
    return headers.get("x-error-code") == _GATED


def parsed(answer: Answer, *, limit: int, source: str) -> Any:
    """Return the JSON of an answer; TransportError if it is none."""
    try:
        return _json.strict(answer.body, limit=limit)
    except ValueError as error:
        raise errors.TransportError(
            f"{source} {error}. Is this the address of a hub? Check it, and ask who runs it."
        ) from None


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _next_page(answer: Answer) -> str | None:
    links = requests.utils.parse_header_links(answer.headers.get("link", ""))
    return next((link["url"] for link in links if link.get("rel") == "next"), None)


def _refuse_encoding(response: requests.Response, *, name: str) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise errors.IntegrityError(
            f"{name} came compressed ({shown(encoding)}), though it was asked for as it is. Nothing of it was read; "
            "ask who runs the hub.",
            file=name,
            expected="identity",
            actual=shown(encoding),
        )


def _begins_at(response: requests.Response, *, start: int, size: int, name: str) -> int:
    """Return the first byte a response brings, after checking that it brings the rest of the file and nothing else."""
    _refuse_encoding(response, name=name)
    begin = 0
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        sent = tuple(map(int, found.groups())) if found else None
        if sent != (start, size - 1, size):
            raise _other_size(name, f"bytes {start}-{size - 1}/{size}", response.headers.get("Content-Range"))
        begin = start
    length = response.headers.get("Content-Length")
    if length is not None and length != str(size - begin):
        raise _other_size(name, size - begin, length)
    return begin


def _other_size(name: str, expected: object, actual: str | None) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{name} should come as {expected} (bytes), but the hub announces {shown(actual or 'nothing')}. It is not the "
        "file that the release names: pull from another hub.",
        file=name,
        expected=expected,
        actual=actual,
    )


def _pieces(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from _raw(response)
    except _DROPPED as error:
        raise Dropped(type(error).__name__) from error


def _raw(response: requests.Response) -> Iterator[bytes]:
    """Return the body as it came over the wire, with requests' errors for those of the layer below."""
    from urllib3.exceptions import HTTPError

    try:
        while piece := response.raw.read1(CHUNK, decode_content=False):
            yield piece
    except HTTPError as error:
        raise requests.ConnectionError(type(error).__name__) from error

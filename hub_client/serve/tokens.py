"""Who may do what: tokens, kept as hashes, each with a scope over some namespaces.

A token is 256 random bits, so that a plain sha256 of it cannot be turned back by trying: no slow hash is needed, and a
request costs one look-up.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from hub_client import errors
from hub_client.files import locks
from hub_client.release.names import is_part
from hub_client.serve import links, server_files

Scope = Literal["read", "write", "admin"]
"""Each includes those before it. ``read`` pulls and opens pull requests, ``write`` creates repositories, pushes and
merges, ``admin`` deletes and renames repositories and changes who sees them."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
EVERYWHERE = "*"
_PREFIX = "azt_"
_TIMEOUT = 30.0
COOKIE = "archzoo_session"
SESSION_SECONDS = 12 * 3600
_COOKIE_VALUE = re.compile(r"([0-9a-f]{8})\.(\d{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True)
class Token:
    """A token's record, from which the token itself cannot be found."""

    id: str
    """What it is called in lists and in the audit log."""
    user: str
    """Whom it was given to."""
    scope: Scope
    """See :data:`Scope`."""
    namespaces: tuple[str, ...]
    """Owners of the repositories it holds for; ``*`` is all of them."""
    sha256: str
    """Of the token."""
    created: str
    """ISO 8601, UTC."""
    expires: str | None = None
    """As ``created``; None is never."""

    def allows(self, scope: Scope, namespace: str) -> bool:
        """Return whether the token may do this there."""
        there = namespace in self.namespaces or EVERYWHERE in self.namespaces
        return there and SCOPES.index(scope) <= SCOPES.index(self.scope)


class Tokens:
    """The tokens of a hub; what another process changes holds from the next request on."""

    def __init__(self, root: Path) -> None:
        self._path = server_files.folder(root) / "tokens.json"
        self._seen: tuple[int, int] | None = None
        self._by_hash: dict[str, Token] = {}

    def find(self, secret: str) -> Token | None:
        """Return the record of a token, or None if it was never given out, is revoked or has expired."""
        self._refresh()
        return _valid(self._by_hash.get(hashed(secret)))

    def named(self, identity: str) -> Token | None:
        """Return the valid token with this id, or None."""
        return _valid(next((token for token in self.all() if token.id == identity), None))

    def all(self) -> list[Token]:
        """Return every token that was not revoked, the oldest first."""
        self._refresh()
        return list(self._by_hash.values())

    def create(
        self, user: str, *, scope: Scope, namespaces: Sequence[str] = (), days: int | None = None
    ) -> tuple[str, Token]:
        """Make a token and return it, with its record; it cannot be shown again.

        Parameters
        ----------
        user
            Whom it is for.
        scope
            What it may do.
        namespaces
            Where; none is the user's own namespace.
        days
            After how many days it expires; None is never.

        Raises
        ------
        InvalidInput
            If the user or a namespace is not a name.
        """
        for name in (user, *namespaces):
            if name != EVERYWHERE and not is_part(name):
                raise errors.InvalidInput(
                    f"{name!r:.120} is not a user's or a namespace's name: expected 1 to 96 letters, digits, - _ . as "
                    "in an owner's name, for example kidney-lab.",
                    facts={"name": name},
                )
        secret, now = _PREFIX + secrets.token_urlsafe(32), datetime.now(UTC).replace(microsecond=0)
        expires = (now + timedelta(days=days)).isoformat() if days is not None else None
        token = Token(
            secrets.token_hex(4), user, scope, tuple(namespaces) or (user,), hashed(secret), now.isoformat(), expires
        )
        with self._changing() as tokens:
            self._save([*tokens, token])
        return secret, token

    def revoke(self, identity: str) -> Token:
        """Make a token invalid, by its id or by the token itself, and return its record.

        Raises
        ------
        NotFound
            If there is no such token.
        """
        with self._changing() as tokens:
            gone = next((token for token in tokens if identity == token.id or hashed(identity) == token.sha256), None)
            if gone is None:
                raise errors.NotFound(
                    "no token has this id. `archzoo serve token list` shows the ids.",
                    name=identity if not identity.startswith(_PREFIX) else "the given token",
                )
            self._save([token for token in tokens if token is not gone])
        return gone

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """Give the tokens while nobody else can change them."""
        with locks.writer(self._path.with_suffix(".lock"), timeout=_TIMEOUT):
            yield self.all()

    def _save(self, tokens: Sequence[Token]) -> None:
        server_files.write_json(self._path, [asdict(token) for token in tokens])

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._by_hash = None, {}
            return
        if self._seen != (seen := (status.st_mtime_ns, status.st_ino)):
            records = server_files.read_json(self._path) or []
            tokens = [Token(**record | {"namespaces": tuple(record["namespaces"])}) for record in records]
            self._by_hash, self._seen = {token.sha256: token for token in tokens}, seen


class Sessions:
    """Staying logged in to the pages: a signed cookie that names a token and is good for reading only.

    It ends with its token, or after half a day.
    """

    def __init__(self, root: Path) -> None:
        self._key = links.key(server_files.folder(root) / links.KEY)

    def begin(self, token: str) -> str:
        """Return the value for a token, by its id."""
        expires = str(int(time.time()) + SESSION_SECONDS)
        return f"{token}.{expires}.{self._signed(token, expires)}"

    def token(self, value: str) -> str | None:
        """Return the id of the token that a value names; None if it was not made here, or is over."""
        match = _COOKIE_VALUE.fullmatch(value)
        if match is None or not hmac.compare_digest(self._signed(match[1], match[2]), match[3]):
            return None
        return match[1] if int(match[2]) > time.time() else None

    def _signed(self, token: str, expires: str) -> str:
        return hmac.new(self._key, f"session {token} {expires}".encode(), hashlib.sha256).hexdigest()


def hashed(secret: str) -> str:
    """Return what is kept of a token: its sha256, 64 hex digits."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _valid(token: Token | None) -> Token | None:
    """Return a token unless its time is over."""
    over = token is not None and token.expires and datetime.fromisoformat(token.expires) <= datetime.now(UTC)
    return None if over else token

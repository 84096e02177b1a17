"""Upload and download links that are a right by themselves: signed, for one object of one repository, and expiring.

Clients send large files without their token, so the link must state who may store what, where and until when.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from hub_client.files import atomic
from hub_client.serve import server_files
from hub_client.serve.refusals import Refused

KEY = "links.key"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Grant:
    """What a link allows."""

    method: str
    """``PUT`` or ``GET``."""
    repository: str
    """The repository's own id, which another repository of the same name has not."""
    sha256: str
    """Of the object, 64 hex digits."""
    size: int
    """Its bytes."""
    token: str
    """Id of the token it was given to; revoking that ends the link. Empty for a public download."""
    expires: int
    """Seconds since 1970."""


class Links:
    """Makes and checks links, with a key that never leaves the server."""

    def __init__(self, root: Path, *, seconds: int) -> None:
        self._key = key(server_files.folder(root) / KEY)
        self._seconds = seconds

    def query(self, *, method: str, repository: str, sha256: str, size: int, token: str) -> str:
        """Return the query of a link, which states what it allows and is signed."""
        grant = Grant(method, repository, sha256, size, token, int(time.time()) + self._seconds)
        shown = {"size": size, "token": token, "expires": grant.expires, "signature": self._signed(grant)}
        return urlencode(shown, quote_via=quote)

    def check(self, query: Mapping[str, str], *, method: str, repository: str, sha256: str) -> Grant:
        """Return what a link allows.

        Raises
        ------
        Refused
            If it was not made by this hub for just this, or has expired.
        """
        grant = Grant(
            method, repository, sha256, _whole(query.get("size")), query.get("token", ""), _whole(query.get("expires"))
        )
        if not hmac.compare_digest(self._signed(grant).encode(), query.get("signature", "").encode()):
            raise Refused(403, "This link was not made by this hub for this file. Ask for a new one.")
        if grant.expires < time.time():
            raise Refused(403, "This link has expired. Ask for a new one: push again.")
        return grant

    def _signed(self, grant: Grant) -> str:
        return hmac.new(self._key, json.dumps(asdict(grant)).encode(), hashlib.sha256).hexdigest()


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else -1


def key(path: Path) -> bytes:
    """Return the hub's key, made on first use; of two servers that start at once, both use the first one's."""
    if not path.exists():
        staged = atomic.stage([secrets.token_bytes(_KEY_BYTES)], staging=path.parent, mode=atomic.OWNER_ONLY)
        with suppress(FileExistsError):
            os.link(staged, path)
        staged.unlink()
    return path.read_bytes()

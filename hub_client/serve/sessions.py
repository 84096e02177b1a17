"""Staying logged in to the pages: a signed cookie that names a token and is good for reading only."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path

from hub_client.serve import links, server_files

COOKIE = "archzoo_session"
SECONDS = 12 * 3600
_VALUE = re.compile(r"([0-9a-f]{8})\.(\d{1,12})\.([0-9a-f]{64})")


class Sessions:
    """Makes and reads the cookie's value; it ends with its token, or after half a day."""

    def __init__(self, root: Path) -> None:
        self._key = links.key(server_files.folder(root) / links.KEY)

    def begin(self, token: str) -> str:
        """Return the value for a token, by its id."""
        expires = str(int(time.time()) + SECONDS)
        return f"{token}.{expires}.{self._signed(token, expires)}"

    def token(self, value: str) -> str | None:
        """Return the id of the token that a value names; None if it was not made here, or is over."""
        match = _VALUE.fullmatch(value)
        if match is None or not hmac.compare_digest(self._signed(match[1], match[2]), match[3]):
            return None
        return match[1] if int(match[2]) > time.time() else None

    def _signed(self, token: str, expires: str) -> str:
        return hmac.new(self._key, f"session {token} {expires}".encode(), hashlib.sha256).hexdigest()

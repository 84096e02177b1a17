"""Bytes in and out in pieces, with the disk's work off the event loop and memory bounded."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from starlette.responses import Response

from hub_client import errors
from hub_client.serve.refusals import Refused

PIECE = 1 << 19
"""Bytes that are held of each file that is being sent or received."""
READERS = 24
"""How many threads at once read files."""
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def span(headers: Mapping[str, str], *, size: int, etag: str) -> range | None:
    """Return the bytes of a file that were asked for; None for all of them, also where the file is another by now.

    Raises
    ------
    Refused
        With 416 if the file has no such part.
    """
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    condition = headers.get("if-range")
    if match is None or match[0] == "bytes=-" or (condition is not None and condition.strip('"') != etag):
        return None
    first, last = match[1], match[2]
    if not first:
        found = range(max(0, size - int(last)), size)
    else:
        found = range(int(first), min(size, int(last) + 1 if last else size))
    if not found:
        raise Refused(416, f"The file has {size:,} bytes.", Content_Range=f"bytes */{size}")
    return found


class FileAnswer(Response):
    """A file, or a part of it, sent piece by piece.

    Parameters
    ----------
    source
        The file, or the bytes themselves.
    size
        Bytes of the whole.
    part
        Which bytes; None is all of them.
    headers
        Beside those that describe what is sent.
    """

    def __init__(self, source: Path | bytes, *, size: int, part: range | None, headers: Mapping[str, str]) -> None:
        about = {"Accept-Ranges": "bytes", "Content-Length": str(size)}
        if part is not None:
            about["Content-Length"] = str(len(part))
            about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        super().__init__(
            status_code=200 if part is None else 206,
            headers={**headers, **about},
            media_type="application/octet-stream",
        )
        self._source = source
        self._part = part or range(0, size)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the head, then the pieces as fast as the client takes them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            async for piece in _pieces(self._source, self._part, limiter=scope["state"]["readers"]):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _pieces(source: Path | bytes, part: range, *, limiter: CapacityLimiter) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        yield source[part.start : part.stop]
        return
    descriptor = await to_thread.run_sync(os.open, source, os.O_RDONLY | os.O_CLOEXEC, limiter=limiter)
    try:
        position = part.start
        while position < part.stop:
            wanted = min(PIECE, part.stop - position)
            piece = await to_thread.run_sync(os.pread, descriptor, wanted, position, limiter=limiter)
            if not piece:
                raise errors.IntegrityError(f"{source.name} is shorter than it was.", file=source.name)
            position += len(piece)
            yield piece
    finally:
        os.close(descriptor)


def attachment(path: str) -> str:
    """Return the header under which a browser keeps a file and does not show it as the hub's own page."""
    name = path.rpartition("/")[2]
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\""


async def receive(
    pieces: AsyncIterator[bytes], file: IO[bytes], *, most: int, seen: Callable[[bytes], object] | None = None
) -> int:
    """Write a request's body to a file and return its size.

    Parameters
    ----------
    pieces
        The body.
    file
        Where to.
    most
        Bytes it may have.
    seen
        Called with each piece, off the event loop.

    Raises
    ------
    Refused
        If there are more bytes.
    """
    total, held = 0, bytearray()

    def keep(data: bytes) -> None:
        file.write(data)
        if seen:
            seen(data)

    async for piece in pieces:
        total += len(piece)
        if total > most:
            raise Refused(413, f"the body has more than {most:,} bytes.")
        held += piece
        if len(held) >= PIECE:
            data, held = bytes(held), bytearray()
            await to_thread.run_sync(keep, data)
    if held:
        await to_thread.run_sync(keep, bytes(held))
    return total

"""Large files in and out, as git-lfs asks for them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from hub_client.files import atomic
from hub_client.release.names import SHA256
from hub_client.serve.refusals import Refused, no_repository
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import INCOMING
from hub_client.serve.request import Call
from hub_client.serve.streams import FileAnswer, receive, span
from hub_client.store.folder import lfs

_MOST_OBJECTS = 1000
_MOST_BYTES = 2**63
_TYPE = "application/vnd.git-lfs+json"
_METHODS = {"upload": "PUT", "download": "GET"}


def batch(call: Call) -> Response:
    """Report which objects are here already, and give a link for each that is not."""
    operation, asked = call.body.get("operation"), call.body.get("objects")
    if operation not in _METHODS or not isinstance(asked, list) or len(asked) > _MOST_OBJECTS:
        raise Refused(400, f"expected operation upload or download, and a list of at most {_MOST_OBJECTS} objects.")
    if operation == "upload" and call.token is None:
        no_repository(known=False)
    if call.body.get("hash_algo", "sha256") != "sha256":
        raise Refused(409, "This hub knows objects by their sha256.")
    identity = call.hub.repositories.identified(call.repo).id
    large = lfs.LargeFiles(call.hub.repositories.path(call.repo))
    objects = [_object(call, large, item, method=_METHODS[operation], identity=identity) for item in asked]
    return JSONResponse({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}, media_type=_TYPE)


def _object(call: Call, large: lfs.LargeFiles, item: Any, *, method: str, identity: str) -> dict[str, Any]:
    sha256, size = _named(item)
    found: dict[str, Any] = {"oid": sha256, "size": size}
    here = large.size(sha256)
    if method == "GET" and here is None:
        return found | {"error": {"code": 404, "message": "This repository has no such object."}}
    if method == "PUT" and here == size:
        os.utime(large.path(sha256))  # about to be committed: not for the garbage collector
        return found
    if method == "PUT":
        try:
            call.hub.quota.check(call.repo.owner, size)
        except Refused as error:
            return found | {"error": {"code": error.status, "message": str(error)}}
    grant = call.hub.links.query(
        method=method, repository=identity, sha256=sha256, size=size, token=call.token.id if call.token else ""
    )
    href = f"{call.address}/lfs/{call.repo.kind}/{call.repo}/{sha256}?{grant}"
    return found | {"actions": {"upload" if method == "PUT" else "download": {"href": href, "header": {}}}}


def _named(item: Any) -> tuple[str, int]:
    sha256, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256) or type(size) is not int:
        raise Refused(422, "each object has an oid, its sha256 in 64 hex digits, and a size in bytes.")
    if not 0 <= size < _MOST_BYTES:
        raise Refused(422, "a size is a number of bytes from 0.")
    return sha256, size


async def upload(call: Call, pieces: AsyncIterator[bytes]) -> Response:
    """Receive one object; it appears once all its bytes are here and have the hash it was announced with."""
    place, sha256 = call.named, call.words["sha256"]
    size = await to_thread.run_sync(_granted, call, place, sha256)
    with call.hub.quota.room(place.owner, size), atomic.writing("this hub", otherwise="ask whoever runs it"):
        await _received(call.hub.repositories.path(place), pieces, sha256=sha256, size=size)
    return Response(status_code=200)


def download(call: Call) -> Response:
    """Send one object to whoever holds a link."""
    place, sha256 = call.named, call.words["sha256"]
    size = _granted(call, place, sha256)
    path = lfs.LargeFiles(call.hub.repositories.path(place)).path(sha256)
    if not path.is_file():
        raise Refused(404, "This repository has no such object.")
    return FileAnswer(path, size=size, part=span(call.headers, size=size, etag=sha256), headers={"ETag": f'"{sha256}"'})


def _granted(call: Call, place: Place, sha256: str) -> int:
    """Return the size that a link allows; Refused if the link is not for this, or its token was revoked."""
    record = call.hub.repositories.record(place)
    grant = call.hub.links.check(call.query, method=call.method, repository=record.id if record else "", sha256=sha256)
    if grant.token and call.hub.tokens.named(grant.token) is None:
        raise Refused(403, "The token this link was given to is no longer valid.")
    return grant.size


async def _received(repository: Path, pieces: AsyncIterator[bytes], *, sha256: str, size: int) -> None:
    staging = repository / "lfs" / INCOMING
    staged, digest = staging / uuid4().hex, hashlib.sha256()
    await to_thread.run_sync(lambda: staging.mkdir(parents=True, exist_ok=True))
    try:
        with staged.open("xb") as file:
            total = await receive(pieces, file, most=size, seen=digest.update)
            if total != size or digest.hexdigest() != sha256:
                raise Refused(400, f"The body has {total:,} bytes and sha256 {digest.hexdigest()}: not as announced.")
            await to_thread.run_sync(atomic.flush, file)
        await to_thread.run_sync(atomic.publish, staged, lfs.LargeFiles(repository).path(sha256))
    finally:
        staged.unlink(missing_ok=True)

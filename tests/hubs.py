"""A hub that speaks as the Hugging Face hub does, in memory, for tests; it can be told to misbehave.

Every request is written down with its headers and the bytes that were answered. A trick, given by a pattern of paths,
takes the honest reply and returns another one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1 << 9
"""Bytes from which the hub takes a file by the large-file route."""


@dataclass(frozen=True)
class Reply:
    """What is answered; ``cut`` bytes of the body are sent before the connection is closed, ``pace`` seconds apart."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    pace: float = 0.0

    def but(self, **changes: Any) -> Reply:
        return replace(self, **changes)

    def saying(self, **headers: str) -> Reply:
        """With other headers; names are written with _ for -."""
        return replace(self, headers=self.headers | {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    sent: list[int] = field(default_factory=lambda: [0])


@dataclass
class Commit:
    id: str
    parent: str | None
    files: dict[str, bytes]
    message: str
    date: str


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def add(self, parent: str | None, files: dict[str, bytes], message: str) -> str:
        listed = json.dumps([parent, message, sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items())])
        id_ = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[id_] = Commit(id_, parent, files, message, datetime.now(UTC).isoformat().replace("+00:00", "Z"))
        return id_

    def find(self, revision: str) -> Commit | None:
        names = self.branches | self.tags | self.proposals
        return self.commits.get(names.get(revision, revision))

    def line(self, revision: str) -> list[Commit]:
        found, commit = [], self.find(revision)
        while commit:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found


Trick = Callable[[Seen, Reply], Reply]


class HubServer:
    """The hub; ``tokens`` are those that may write, ``initial`` is whether a new repository begins with a commit."""

    def __init__(self, *, tokens: tuple[str, ...] = ("hf_write",), initial: bool = True) -> None:
        self.tokens = tokens
        self.initial = initial
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.tricks: list[tuple[re.Pattern[str], Trick]] = []
        self.url = ""
        self.lock = threading.Lock()

    def trick(self, pattern: str, trick: Trick) -> None:
        self.tricks.append((re.compile(pattern), trick))

    def answer(self, seen: Seen, body: bytes) -> Reply:
        with self.lock:
            reply = self._routed(seen, body)
        for pattern, trick in self.tricks:
            if pattern.search(seen.path):
                reply = trick(seen, reply)
        return reply

    # Routes

    def _routed(self, seen: Seen, body: bytes) -> Reply:
        parts = urlsplit(seen.path)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if path[0] == "lfs":
            return self._upload(path[1], body)
        if path[:2] == ["api", "validate-yaml"]:
            return told({"errors": [], "warnings": []})
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return Reply(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body), token)
        if path[0] == "api" and len(path) == 2:
            return self._list(path[1], query, token)
        return self._of_repo(seen, path, query, body, token)

    def _of_repo(self, seen: Seen, path: list[str], query: dict[str, str], body: bytes, token: str) -> Reply:
        in_api = path[0] == "api"
        rest = path[1:] if in_api else path
        kind = rest[0] if rest[0] in ("models", "datasets") else "models"
        rest = rest[1:] if rest[0] in ("models", "datasets") else rest
        git = len(rest) > 1 and rest[1].endswith(".git")
        name, rest = "/".join(rest[:2]).removesuffix(".git"), rest[2:]
        repo = self.repos.get(f"{kind}/{name}")
        if repo is None or (repo.private and not token):
            return Reply(404 if token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if seen.method == "POST" and not token:
            return Reply(403, b"{}", {"X-Error-Message": "forbidden"})
        if git:
            return self._batch(json.loads(body))
        if not in_api:
            return self._resolve(seen, repo, rest[1], "/".join(rest[2:]))
        verb = _VERBS.get(rest[0] if rest else "info")
        return verb(self, repo, name, rest, query, body) if verb else Reply(404, b"{}")

    def _create(self, asked: dict[str, Any], token: str) -> Reply:
        if not token:
            return Reply(401, b"{}")
        kind = {"dataset": "datasets"}.get(asked.get("type", "model"), "models")
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        url = {"url": f"{self.url}/{name}", "name": name}
        if f"{kind}/{name}" in self.repos:
            return told(url, status=409)
        repo = Repo(private=asked.get("private") is True or asked.get("visibility") == "private")
        if self.initial:
            repo.branches["main"] = repo.add(None, {".gitattributes": b"* -text\n"}, "initial commit")
        self.repos[f"{kind}/{name}"] = repo
        return told(url)

    def _list(self, kind: str, query: dict[str, str], token: str) -> Reply:
        names = sorted(n for n, repo in self.repos.items() if n.startswith(kind) and (token or not repo.private))
        start, count = int(query.get("cursor", 0)), 2
        page = [{"id": name.partition("/")[2], "private": False} for name in names[start : start + count]]
        more = f'<{self.url}/api/{kind}?cursor={start + count}>; rel="next"'
        return told(page, headers={"Link": more} if start + count < len(names) else {})

    def info(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        return told({"id": name, "private": repo.private, "sha": repo.branches.get("main"), "siblings": []})

    def refs(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        def heads(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": prefix + n, "targetCommit": c} for n, c in names.items()]

        return told(
            {
                "branches": heads(repo.branches, "refs/heads/"),
                "tags": heads(repo.tags, "refs/tags/"),
                "converts": [],
                "pullRequests": [{"name": n[5:], "ref": n, "targetCommit": c} for n, c in repo.proposals.items()],
            }
        )

    def commits(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        line, start, count = repo.line(rest[1]), int(query.get("p", 0)), 3
        page = [{"id": c.id, "title": c.message, "message": "", "authors": [], "date": c.date} for c in line]
        more = f'<{self.url}/api/models/{name}/commits/main?p={start + count}>; rel="next"'
        return told(page[start : start + count], headers={"Link": more} if start + count < len(page) else {})

    def preupload(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        modes = [
            {"path": one["path"], "uploadMode": "lfs" if one["size"] >= LARGE else "regular", "shouldIgnore": False}
            for one in json.loads(body)["files"]
        ]
        return told({"files": modes})

    def commit(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repo.branches.get("main")
        if header.get("parentCommit") not in (None, head):
            return told({"error": "stale"}, status=412, headers={"X-Error-Message": "the parent is stale"})
        files = dict(repo.commits[head].files) if head else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        id_ = repo.add(head, files, header["summary"])
        said = {"commitOid": id_, "commitUrl": f"{self.url}/{name}/commit/{id_}", "hookOutput": ""}
        if query.get("create_pr"):
            number = len(repo.proposals) + 1
            repo.proposals[f"refs/pr/{number}"] = id_
            return told(said | {"pullRequestUrl": f"{self.url}/{name}/discussions/{number}"})
        repo.branches["main"] = id_
        return told(said)

    def tag(self, repo: Repo, name: str, rest: list[str], query: dict[str, str], body: bytes) -> Reply:
        tag = json.loads(body)["tag"]
        if tag in repo.tags:
            return told({}, status=409)
        repo.tags[tag] = rest[1]
        return told({})

    def _batch(self, asked: dict[str, Any]) -> Reply:
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | (
                {}
                if one["oid"] in self.objects
                else {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}", "header": {}}}}
            )
            for one in asked["objects"]
        ]
        return told({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str, body: bytes) -> Reply:
        if hashlib.sha256(body).hexdigest() != oid:
            return Reply(400)
        self.objects[oid] = body
        return Reply(200)

    def _resolve(self, seen: Seen, repo: Repo, revision: str, path: str) -> Reply:
        commit = repo.find(revision)
        if commit is None:
            return Reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if path not in commit.files:
            return Reply(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.id})
        return ranged(commit.files[path], seen).saying(X_Repo_Commit=commit.id, ETag=etag(commit.files[path]))


_VERBS = {
    "info": HubServer.info,
    "refs": HubServer.refs,
    "commits": HubServer.commits,
    "preupload": HubServer.preupload,
    "commit": HubServer.commit,
    "tag": HubServer.tag,
}


def told(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))


def etag(content: bytes) -> str:
    if len(content) >= LARGE:
        return f'"{hashlib.sha256(content).hexdigest()}"'
    return f'"{hashlib.sha1(b"blob %d" % len(content) + bytes(1) + content).hexdigest()}"'


def ranged(content: bytes, seen: Seen) -> Reply:
    """Return a file, or the part of it that a Range header asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
    if asked is None:
        return Reply(200, content)
    start = int(asked[1])
    if start >= len(content):
        return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    return Reply(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _answer(self) -> None:
        hub = self.server.hub
        body = b"".join(self._body())
        seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        hub.seen.append(seen)
        reply = hub.answer(seen, body)
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(len(reply.body))} | reply.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send(seen, reply)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, seen: Seen, reply: Reply) -> None:
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        try:
            for start in range(0, len(body), 1 << 16):
                piece = body[start : start + (1 << 16)]
                self.wfile.write(piece)
                seen.sent[0] += len(piece)
                time.sleep(reply.pace)
        except OSError:
            self.close_connection = True
        if reply.cut is not None or reply.headers.get("Content-Length", len(reply.body)) != len(reply.body):
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: many tests do."""


@contextmanager
def served(hub: Any) -> Iterator[Any]:
    """Serve a hub on 127.0.0.1 while the context lasts; its ``url`` says where."""
    server = _Server(hub)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class FolderServer:
    """A plain web server over a folder, with Range."""

    def __init__(self, root: Any) -> None:
        self.root, self.url = root, ""
        self.seen: list[Seen] = []
        self.tricks: list[tuple[re.Pattern[str], Trick]] = []

    trick = HubServer.trick

    def answer(self, seen: Seen, body: bytes) -> Reply:
        path = self.root / unquote(urlsplit(seen.path).path.strip("/"))
        reply = ranged(path.read_bytes(), seen) if path.is_file() else Reply(404, b"no such file")
        for pattern, trick in self.tricks:
            if pattern.search(seen.path):
                reply = trick(seen, reply)
        return reply

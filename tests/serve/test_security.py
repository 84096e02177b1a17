"""What a hostile client may try on a served hub: theft by hash, forged links, paths that leave, hidden repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
import requests

from hub_client.serve import repository_names
from hub_client.serve.refusals import Refused
from hub_client.serve.routes import ROUTES
from tests.served import CLIENTS_OWN, Server, add, served, server, weights

__all__ = ["server"]
pytestmark = list(CLIENTS_OWN)


def bearer(secret: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def batch(server: Server, repo: str, secret: str, data: bytes, *, size: int | None = None) -> requests.Response:
    objects = [{"oid": sha256(data), "size": len(data) if size is None else size}]
    body = {"operation": "upload", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256"}
    return requests.post(
        f"{server.url}/{repo}.git/info/lfs/objects/batch", json=body, headers=bearer(secret), timeout=30
    )


def link(server: Server, repo: str, secret: str, data: bytes, *, size: int | None = None) -> str:
    return batch(server, repo, secret, data, size=size).json()["objects"][0]["actions"]["upload"]["href"]


def commit(server: Server, repo: str, secret: str, *operations: tuple[str, dict[str, object]]) -> requests.Response:
    lines = [("header", {"summary": "x"}), *operations]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return requests.post(f"{server.url}/api/models/{repo}/commit/main", data=body, headers=bearer(secret), timeout=30)


def file(path: str, data: bytes = b"x") -> tuple[str, dict[str, object]]:
    return "file", {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}


def large(path: str, digest: str, size: int | None = None) -> tuple[str, dict[str, object]]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": digest} | ({"size": size} if size is not None else {})


@pytest.fixture
def secret(server: Server) -> str:
    return server.token("eve")


@pytest.fixture
def repo(server: Server, secret: str, request: pytest.FixtureRequest) -> str:
    name = f"eve/{sha256(request.node.nodeid.encode())[:16]}"
    server.with_token(secret).create_repo(name, private=True)
    return name


# Large files


@pytest.fixture(scope="module")
def treasure(server: Server) -> bytes:
    """Weights in a private repository of somebody else."""
    data, api = weights(2_000_000, seed=3), server.api("ada")
    api.create_repo("ada/treasure", private=True)
    api.create_commit("ada/treasure", [add("model.safetensors", data)], commit_message="w")
    return data


@pytest.mark.slow
def test_weights_cannot_be_had_by_their_hash(server: Server, treasure: bytes, secret: str, repo: str) -> None:
    answer = commit(server, repo, secret, large("stolen.safetensors", sha256(treasure), len(treasure)))
    assert (answer.status_code, "never received" in answer.json()["error"]) == (400, True)
    told = batch(server, repo, secret, treasure).json()["objects"][0]
    assert "upload" in told["actions"], "the hub must not tell that it knows the hash from elsewhere"


@pytest.mark.slow
def test_a_pointer_sent_as_a_file_is_no_way_around(server: Server, treasure: bytes, secret: str, repo: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(treasure)}\nsize {len(treasure)}\n"
    assert commit(server, repo, secret, file("stolen.bin", pointer.encode())).status_code == 400


@pytest.mark.slow
def test_a_hash_that_nobody_sent_and_a_wrong_size_are_refused(server: Server, secret: str, repo: str) -> None:
    assert commit(server, repo, secret, large("ghost.bin", "0" * 64, 5)).status_code == 400
    data = b"weights" * 100
    assert requests.put(link(server, repo, secret, data), data=data, timeout=30).status_code == 200
    assert commit(server, repo, secret, large("short.bin", sha256(data), 3)).status_code == 400
    assert commit(server, repo, secret, large("right.bin", sha256(data), len(data))).status_code == 200
    for oid in ("../../../etc/passwd", "A" * 64, "0" * 63, None):
        assert commit(server, repo, secret, large("x.bin", oid)).status_code == 400  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"other bytes!", b"short", b"longer than announced", b""])
def test_an_upload_of_other_bytes_leaves_nothing(server: Server, secret: str, repo: str, sent: bytes) -> None:
    data = b"these bytes."
    answer = requests.put(link(server, repo, secret, data), data=sent, timeout=30)
    assert answer.status_code in (400, 413)
    folder = server.root / "models" / f"{repo}.git" / "lfs"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert "actions" in batch(server, repo, secret, data).json()["objects"][0]


def forged(href: str, **changes: str) -> str:
    parts = urlsplit(href)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | changes)))


@pytest.mark.slow
def test_forged_links_are_refused(server: Server, secret: str, repo: str) -> None:
    data, other = b"bytes" * 50, b"other" * 50
    href = link(server, repo, secret, data)
    server.with_token(secret).create_repo(f"{repo}-2", private=True)
    wrong = [
        forged(href, size="999999999"),
        forged(href, expires=str(int(time.time()) + 10**6)),
        forged(href, token="00000000"),
        forged(href, signature="0" * 64),
        forged(href, signature="\u00e9"),
        urlunsplit(urlsplit(href)._replace(query="")),
        href.replace(sha256(data), sha256(other)),
        href.replace(repo, f"{repo}-2"),
        href.replace(repo, "ada/treasure"),
        href.replace("/lfs/models/", "/lfs/datasets/"),
    ]
    for url in wrong:
        assert requests.put(url, data=data, timeout=30).status_code == 403, url
    assert requests.get(href, timeout=30).status_code == 403  # what may be sent may not be read by it


@pytest.mark.slow
def test_a_link_ends_with_its_token_and_its_repository(server: Server, repo: str) -> None:
    data, doomed = b"bytes" * 60, server.token("eve", "admin")
    api = server.with_token(doomed)
    href = link(server, repo, doomed, data)
    api.delete_repo(repo)
    api.create_repo(repo, private=True)
    assert requests.put(href, data=data, timeout=30).status_code == 403  # another repository of the same name
    href = link(server, repo, doomed, data)
    from hub_client.serve.tokens import Tokens

    Tokens(server.root).revoke(doomed)
    assert requests.put(href, data=data, timeout=30).status_code == 403


@pytest.mark.slow
def test_expired_links_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, "--link-seconds", "1") as server:
        secret, data = server.token("eve"), b"late" * 10
        server.with_token(secret).create_repo("eve/late")
        href = link(server, "eve/late", secret, data)
        time.sleep(2.1)
        answer = requests.put(href, data=data, timeout=30)
    assert (answer.status_code, "expired" in answer.json()["error"]) == (403, True)


@pytest.mark.slow
def test_quotas_and_sizes(tmp_path: Path) -> None:
    with served(tmp_path, "--quota", "0.001", "--max-file", "0.0009") as server:
        secret = server.token("eve")
        server.with_token(secret).create_repo("eve/full")
        told = batch(server, "eve/full", secret, b"x", size=950_000).json()["objects"][0]
        assert told["error"]["code"] == 413
        data = b"y" * 800_000
        href = link(server, "eve/full", secret, data)
        later = link(server, "eve/full", secret, data[1:])
        assert requests.put(href, data=data, timeout=30).status_code == 200
        assert requests.put(later, data=data[1:], timeout=30).status_code == 413
        told = batch(server, "eve/full", secret, b"z" * 300_000).json()["objects"][0]
        assert "quota" in told["error"]["message"]


# Paths


WRONG_PATHS = [
    "../x", "a/../x", "/etc/passwd", "a//b", "a/", "", ".", "./x", "..\\x", "C:\\x", "C:x", "a\0b", "a\nb",
    ".git/config", ".GIT/config", "a/.Git/hooks/x", ".git", "git~1/x", ".g\u200cit/x", "a./b", "a /b", "con",
    "x/NUL.txt", "x" * 300, "/".join("d" * 100 for _ in range(12)), "\ud800x", "a*b",
]  # fmt: skip


@pytest.mark.parametrize("path", WRONG_PATHS)
def test_paths_that_leave_the_folder_or_that_some_computer_cannot_have(path: str) -> None:
    with pytest.raises(Refused) as refused:
        repository_names.check_path(path)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "path", ["README.md", "a/b/c.txt", ".gitattributes", "zähl/β-cells.json", "a b.txt", "x..y", "git/x"]
)
def test_paths_that_everybody_can_have(path: str) -> None:
    assert repository_names.check_path(path) == path


@pytest.mark.parametrize("paths", [["a", "a/b"], ["README.md", "readme.md"], ["é.txt", "e\u0301.txt"], ["A/x", "a/y"]])
def test_paths_that_cannot_lie_together(paths: list[str]) -> None:
    with pytest.raises(Refused):
        repository_names.check_together(paths)


@pytest.mark.slow
def test_a_commit_with_one_wrong_path_changes_nothing(server: Server, secret: str, repo: str) -> None:
    before = server.with_token(secret).model_info(repo).sha
    for path in WRONG_PATHS:
        assert commit(server, repo, secret, file("good.txt"), file(path)).status_code == 400, path
        assert commit(server, repo, secret, file("good.txt"), large(path, "0" * 64)).status_code == 400, path
    assert commit(server, repo, secret, file("good.txt"), file("GOOD.txt")).status_code == 400
    assert server.with_token(secret).model_info(repo).sha == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["/{0}/resolve/main/..%2f..%2f..%2f..%2fetc%2fpasswd", "/{0}/resolve/main/%2e%2e/config", "/{0}/resolve/main/x%00y",
     "/{0}/resolve/..%2f..%2fHEAD/x", "/..%2f..%2fetc/x/resolve/main/y", "/api/models/..%2f..%2f/x",
     "/api/models/%ff/x", "/static/..%2fbase.html", "/api/models/{0}/tree/main/..%2f..",
     "/lfs/models/..%2f../x/" + "0" * 64],
)  # fmt: skip
def test_addresses_that_leave_the_folder(server: Server, secret: str, repo: str, path: str) -> None:
    with requests.Session() as session:
        request = requests.Request("GET", server.url, headers=bearer(secret)).prepare()
        request.url = server.url + path.format(repo)  # as it is: requests would tidy it up
        answer = session.send(request, timeout=30)
    assert answer.status_code in (400, 401, 403, 404)
    assert b"root:" not in answer.content


# Private repositories


def addresses(owner: str, name: str) -> Iterator[tuple[str, str]]:
    """Give every route that names a repository, filled in."""
    words = {
        "kind": "models", "owner": owner, "name": name, "revision": "main", "path": "x.txt", "tag": "1.0.0",
        "branch": "main", "number": "1", "change": "title", "comment": "0" * 24, "sha256": "0" * 64, "commit": "main",
    }  # fmt: skip
    for route in ROUTES:
        if "{name}" in route.template and not route.template.startswith("lfs/"):
            yield route.method, route.template.replace("[datasets/]", "").replace("*", "").format(**words)


@pytest.mark.slow
def test_missing_and_forbidden_look_the_same_on_every_route(server: Server, treasure: bytes) -> None:
    strangers = [None, server.token("mallory", "admin"), server.token("ada", "admin", "elsewhere"), "azt_wrong"]
    compared = 0
    for secret in strangers:
        missing = list(addresses("ada", "nothing0"))
        for (method, hidden), (_, absent) in zip(addresses("ada", "treasure"), missing, strict=True):
            answers = [
                requests.request(method, f"{server.url}/{path}", headers=bearer(secret), data=b"{}", timeout=30)
                for path in (hidden, absent)
            ]
            seen = [
                (answer.status_code, sorted((k, v) for k, v in answer.headers.items() if k != "date"), answer.content)
                for answer in answers
            ]
            assert seen[0] == seen[1], (method, hidden)
            assert answers[0].status_code in (401, 404), (method, hidden)
            compared += 1
    assert compared > 100


@pytest.mark.slow
def test_names_in_a_body_do_not_give_a_private_repository_away(server: Server, treasure: bytes) -> None:
    stranger = bearer(server.token("mallory", "admin"))

    def delete(name: str) -> requests.Response:
        body = {"name": name, "organization": "ada"}
        return requests.delete(f"{server.url}/api/repos/delete", json=body, headers=stranger, timeout=30)

    def move(name: str) -> requests.Response:
        body = {"fromRepo": f"ada/{name}", "toRepo": "mallory/x", "type": "model"}
        return requests.post(f"{server.url}/api/repos/move", json=body, headers=stranger, timeout=30)

    def create(name: str) -> requests.Response:
        body = {"name": name, "organization": "ada"}
        return requests.post(f"{server.url}/api/repos/create", json=body, headers=stranger, timeout=30)

    for attempt in (delete, move, create):
        hidden, missing = attempt("treasure"), attempt("nothing0")
        assert (hidden.status_code, hidden.content) == (missing.status_code, missing.content)
    listed = requests.get(f"{server.url}/api/models?search=treasure", timeout=30)
    assert listed.json() == []


@pytest.mark.slow
def test_a_password_reads_but_does_not_write(server: Server, secret: str, repo: str) -> None:
    """Browsers send passwords along whoever's page made the request."""
    where = f"{server.url}/api/models/{repo}"
    assert requests.get(where, auth=("any", secret), timeout=30).status_code == 200
    assert requests.post(f"{where}/tag/main", json={"tag": "x"}, auth=("any", secret), timeout=30).status_code == 401
    assert requests.get(where, auth=("any", "azt_wrong"), timeout=30).status_code == 401


@pytest.mark.slow
def test_files_are_never_shown_as_pages(server: Server, secret: str, repo: str) -> None:
    assert commit(server, repo, secret, file("x.html", b"<script>alert(1)</script>")).status_code == 200
    answer = requests.get(f"{server.url}/{repo}/resolve/main/x.html", headers=bearer(secret), timeout=30)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"[1", b"[]", b'"x"', b"[" * 100_000, b"\xff\xfe", b"x" * 9_000_000])
def test_bodies_that_are_no_json_objects(server: Server, secret: str, repo: str, body: bytes) -> None:
    where = f"{server.url}/api/models/{repo}/preupload/main"
    assert requests.post(where, data=body, headers=bearer(secret), timeout=30).status_code in (400, 413)


@pytest.mark.slow
def test_commits_that_are_no_commits(server: Server, secret: str, repo: str) -> None:
    where = f"{server.url}/api/models/{repo}/commit/main"
    header = b'{"key":"header","value":{"summary":"x"}}\n'
    for body in (b"", b"{}", b"[]", b'{"key":"file","value":{}}', header + b'{"key":"evil","value":{"path":"x"}}',
                 header + b'{"key":"file","value":{"path":"x","content":"***"}}', header + b"{", header + b"1",
                 b'{"key":"header","value":{"summary":1}}', header + b'{"key":"file","value":{"path":1}}'):  # fmt: skip
        assert requests.post(where, data=body, headers=bearer(secret), timeout=30).status_code == 400, body

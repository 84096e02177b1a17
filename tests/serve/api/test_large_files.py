"""Files in parts, transfers that break off, and a server that is told to stop meanwhile."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get

from tests import releases
from tests.served import ARCHZOO, CLIENTS_OWN, MIB, Server, add, environment, served, server, weights

__all__ = ["server"]
pytestmark = [pytest.mark.slow, *CLIENTS_OWN]

LARGE = weights(3 * MIB)
SMALL = bytes(range(32, 127)) * 25


@pytest.fixture(scope="module")
def files(server: Server) -> dict[str, bytes]:
    api, content = server.api("ada"), {"w.safetensors": LARGE, "a/small.txt": SMALL}
    api.create_repo("ada/parts", private=False)
    api.create_commit("ada/parts", [add(name, data) for name, data in content.items()], commit_message="x")
    return content


@pytest.fixture(params=["w.safetensors", "a/small.txt"])
def one(request: pytest.FixtureRequest, server: Server, files: dict[str, bytes]) -> tuple[str, bytes]:
    return f"{server.url}/ada/parts/resolve/main/{request.param}", files[request.param]


@pytest.mark.parametrize("part", [slice(0, 10), slice(5, None), slice(-7, None), slice(100, 101), slice(1000, 2000)])
def test_parts_of_a_file(one: tuple[str, bytes], part: slice) -> None:
    url, data = one
    first = "" if part.start < 0 else str(part.start)
    last = str(-part.start) if part.start < 0 else "" if part.stop is None else str(part.stop - 1)
    answer = requests.get(url, headers={"Range": f"bytes={first}-{last}"}, timeout=30)
    start, end, _ = part.indices(len(data))
    assert (answer.status_code, answer.content) == (206, data[part])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"


def test_parts_that_are_not_there_or_not_understood(one: tuple[str, bytes]) -> None:
    url, data = one
    beyond = requests.get(url, headers={"Range": f"bytes={len(data)}-"}, timeout=30)
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    for unknown in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x-y"):
        answer = requests.get(url, headers={"Range": unknown}, timeout=30)
        assert (answer.status_code, answer.content) == (200, data)


def test_heads_tags_and_conditions(one: tuple[str, bytes]) -> None:
    url, data = one
    head = requests.head(url, timeout=30)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")
    etag = head.headers["etag"]
    large = data is LARGE
    assert (
        etag.strip('"')
        == (hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)).hexdigest()
    )
    assert head.headers.get("x-linked-size") == (str(len(data)) if large else None)
    assert requests.get(url, headers={"If-None-Match": etag}, timeout=30).status_code == 304
    same = requests.get(url, headers={"Range": "bytes=5-", "If-Range": etag}, timeout=30)
    other = requests.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'}, timeout=30)
    assert (same.status_code, other.status_code, other.content) == (206, 200, data)


class Counter:
    """A wire to the server that counts what comes back over it, and can be slow."""

    def __init__(self, server: Server, *, rate: float) -> None:
        self.target = urlsplit(server.url).netloc.split(":")
        self.rate = rate
        self.received = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection((self.target[0], int(self.target[1])))
            threading.Thread(target=self.pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, True), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if back:
                    self.received += len(data)
                    time.sleep(len(data) / self.rate)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def counted(server: Server, *, rate: float = 1e9) -> Iterator[Counter]:
    wire = Counter(server, rate=rate)
    try:
        yield wire
    finally:
        wire.listener.close()


def test_the_public_hubs_client_goes_on_where_it_was(server: Server, files: dict[str, bytes], tmp_path: Path) -> None:
    part, half = tmp_path / "part", len(LARGE) // 2
    part.write_bytes(LARGE[:half])
    with counted(server) as wire, part.open("ab") as file:
        http_get(f"{wire.url}/ada/parts/resolve/main/w.safetensors", file, resume_size=half, expected_size=len(LARGE))
    assert part.read_bytes() == LARGE
    assert len(LARGE) - half < wire.received < len(LARGE) - half + 4096


def test_a_pull_that_was_killed_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    folder = releases.wide(tmp_path / "release", units=400_000, name="wide", version="1.0.0")
    api = server.api("ada")
    api.create_repo("ada/wide", private=False)
    content = releases.contents(folder)
    api.create_commit("ada/wide", [add(name, data) for name, data in content.items()], commit_message="w")
    api.create_tag("ada/wide", tag="1.0.0")
    size, variables = (
        len(content["model.safetensors"]),
        environment(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "c")),
    )
    with counted(server, rate=4e6) as wire:
        command = [*ARCHZOO, "pull", "ada/wide@1.0.0", "--hub", wire.url, "--out"]
        first = subprocess.Popen([*command, str(tmp_path / "first")], env=variables, stderr=subprocess.DEVNULL)
        while wire.received < size // 2:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wire.rate = 1e9
        subprocess.run([*command, str(tmp_path / "second")], env=variables, check=True, capture_output=True)
    assert releases.contents(tmp_path / "second") == content
    whole = sum(map(len, content.values()))
    assert whole <= wire.received < whole + size // 5


def test_an_upload_that_broke_off_leaves_nothing(server: Server) -> None:
    secret, data = server.token("ada"), weights(2 * MIB, seed=9)
    server.with_token(secret).create_repo("ada/broken")
    objects = [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}]
    told = requests.post(
        f"{server.url}/ada/broken.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": objects},
        headers={"Authorization": f"Bearer {secret}"},
        timeout=30,
    )
    href = urlsplit(told.json()["objects"][0]["actions"]["upload"]["href"])
    connection = http.client.HTTPConnection(href.netloc)
    connection.putrequest("PUT", f"{href.path}?{href.query}")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[: len(data) // 2])
    time.sleep(0.3)
    connection.close()
    kept = server.root / "models" / "ada" / "broken.git" / "lfs"
    deadline = time.monotonic() + 20
    while (left := [path for path in kept.rglob("*") if path.is_file()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses to write on in the same way."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    with served(tmp_path, before=limit) as server:
        api, data = server.api("ada"), weights(2 * MIB)
        api.create_repo("ada/full")
        sha = api.model_info("ada/full").sha
        with pytest.raises(RuntimeError) as failed:
            api.create_commit("ada/full", [add("w.safetensors", data)], commit_message="w")
        assert "507" in str(failed.value.__cause__)
        many = [add(f"{number}.json", data[number : number + 900_000].hex().encode()) for number in range(2)]
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_commit("ada/full", many, commit_message="too long for a file")
        assert refused.value.response.status_code == 507
        assert str(tmp_path) not in str(refused.value)
        assert api.model_info("ada/full").sha == sha
        assert [path for path in (tmp_path / "models/ada/full.git/lfs").rglob("*") if path.is_file()] == []
        api.create_commit("ada/full", [add("small.txt", b"fits")], commit_message="s")


def test_a_server_that_is_told_to_stop_ends_what_it_does(tmp_path: Path) -> None:
    data = weights(30 * MIB)
    with served(tmp_path) as server:
        api = server.api("ada")
        api.create_repo("ada/slow", private=False)
        api.create_commit("ada/slow", [add("w.safetensors", data)], commit_message="w")
        answer = requests.get(f"{server.url}/ada/slow/resolve/main/w.safetensors", stream=True, timeout=30)
        digest = hashlib.sha256(answer.raw.read(MIB))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url, timeout=5)
        digest.update(answer.raw.read())
        assert digest.digest() == hashlib.sha256(data).digest()
        assert server.process.wait(timeout=30) == 0


def test_https_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate, which is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
    ]
    subprocess.run(
        [*command, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True
    )
    with served(tmp_path / "root", "--certificate", str(certificate), "--key", str(key)) as server:
        assert server.url.startswith("https://")
        home = requests.get(server.url, verify=str(certificate), timeout=30)
        secret = server.token("ada")
        form = {"token": secret}
        login = requests.post(f"{server.url}/login", form, verify=str(certificate), allow_redirects=False, timeout=30)
    assert home.status_code == 200
    assert "Secure" in login.headers["set-cookie"]

"""The hub's pages, seen with a real browser. None has a script, and the browser is told to run none."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests

from hub_client.hub.client import Hub
from hub_client.serve.pages import html
from hub_client.serve.tokens import Tokens
from tests import releases
from tests.served import CLIENTS_OWN, Server, add, server

__all__ = ["server"]
pytestmark = list(CLIENTS_OWN)

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-dev-shm-usage",
)  # fmt: skip
HOSTILE = """---
tags: [x]
---
# <script>document.title = "owned"</script> Card

<img src=x onerror="document.title = 'owned'"> [click](javascript:document.title='owned')
[data](data:text/html,<script>1</script>) <iframe src="https://example.org"></iframe>
![pixel](https://example.org/pixel.png)

| a | b |
|---|---|
| 1 | <b>2</b> |
"""


@pytest.fixture(scope="module")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs the Chromium browser, which is not installed")
    return found


@pytest.fixture
def look(browser: str, tmp_path: Path):
    """Return what opens an address in a browser of its own."""

    def run(url: str, *options: str) -> str:
        command = [browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture(scope="module")
def stocked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A hub with a model in two versions, a hostile one, a private one and a data set."""
    scratch = tmp_path_factory.mktemp("releases")
    api = server.api("ada", "admin")
    api.create_repo("ada/kidney", private=False)
    for number, title in enumerate(["Kidney <one>", "Kidney <two>"]):
        folder = releases.release(scratch / str(number), seed=number, title=title, version=f"1.{number}.0")
        Hub(server.root).push(folder, "ada/kidney", version=f"{number + 1}.0.0")
    api.create_repo("ada/hostile", private=False)
    api.create_commit("ada/hostile", [add("README.md", HOSTILE.encode())], commit_message="<script>alert(1)</script>")
    api.create_commit("ada/hostile", [add("<b>.txt".replace("<", "(").replace(">", ")"), b"x")], commit_message="f")
    api.create_repo("ada/patients", private=True)
    api.create_repo("ada/cells", repo_type="dataset", private=False)
    opened = api.create_commit(
        "ada/hostile", [add("x.md", b"<script>1</script>\n")], commit_message="<i>pr</i>", create_pr=True
    )
    api.comment_discussion("ada/hostile", opened.pr_num, "<img src=x onerror=alert(1)>")
    return server


@pytest.mark.slow
def test_models_are_listed_and_found(stocked: Server, look) -> None:
    page = look(f"{stocked.url}/", "--dump-dom")
    assert "ada/<b>kidney</b>" in page
    assert "Kidney &lt;two&gt;" in page
    assert "patients" not in page
    found = look(f"{stocked.url}/?q=kidney+two", "--dump-dom")
    assert "<b>kidney</b>" in found
    assert "<b>hostile</b>" not in found
    assert "<b>cells</b>" in look(f"{stocked.url}/datasets", "--dump-dom")


@pytest.mark.slow
def test_a_models_page_tells_what_one_needs(stocked: Server, look) -> None:
    page = look(f"{stocked.url}/ada/kidney", "--dump-dom")
    assert "<h1>Kidney" in page  # the card
    assert f"HF_ENDPOINT={stocked.url} hf download ada/kidney --revision 2.0.0" in page
    for version in ("1.0.0", "2.0.0"):
        digest = stocked.anonymous().model_info("ada/kidney", revision=version).sha
        assert digest
        assert f'href="/ada/kidney/tree/{version}"' in page
    assert 'title="sha256:' in page
    assert f"archzoo pull ada/kidney@2.0.0 --hub {stocked.url}" in page


@pytest.mark.slow
def test_yanked_versions_are_told_and_not_offered(stocked: Server, look, tmp_path: Path) -> None:
    hub = Hub(stocked.root)
    for number in range(2):
        folder = releases.release(tmp_path / str(number), seed=number, version=f"{number + 1}.0.0", title="Lung")
        hub.push(folder, "ada/lung")
    hub.yank("ada/lung@2.0.0", reason="two <donors> were swapped")
    stocked.api("ada", "admin").update_repo_settings("ada/lung", private=False)
    page = look(f"{stocked.url}/ada/lung", "--dump-dom")
    assert "two &lt;donors&gt; were swapped" in page
    assert "--revision 1.0.0" in page


@pytest.mark.slow
def test_files_have_their_digests_and_versions_are_compared(stocked: Server, look) -> None:
    page = look(f"{stocked.url}/ada/kidney/tree/2.0.0", "--dump-dom")
    (weights,) = stocked.anonymous().get_paths_info("ada/kidney", "model.safetensors", revision="2.0.0")
    assert weights.lfs.sha256 in page
    changes = look(f"{stocked.url}/ada/kidney/compare?from=1.0.0&to=2.0.0", "--dump-dom")
    assert "<del>Kidney &lt;one&gt;</del>" in changes
    assert "<ins>Kidney &lt;two&gt;</ins>" in changes
    assert "files[model.safetensors].sha256" in changes


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["", "/tree/main", "/commits", "/discussions", "/discussions/1", "/compare", "/commit/main"]
)
def test_nothing_of_an_author_is_obeyed(stocked: Server, look, path: str) -> None:
    page = look(f"{stocked.url}/ada/hostile{path}", "--dump-dom")
    assert "ada/<b>hostile</b>" in page
    assert "<title>ada/hostile · archzoo hub</title>" in page
    for name, attributes in elements(page):
        assert name not in ("script", "iframe", "object", "base")
        for key, value in attributes:
            assert not key.startswith("on")
            assert not re.match(r"\s*(?:javascript|data|vbscript):", value or "") or (name, key) == ("link", "href")


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def elements(html: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Elements()
    parser.feed(html)
    return parser.found


@pytest.mark.slow
def test_who_logs_in_sees_what_the_token_sees_and_changes_nothing(stocked: Server) -> None:
    secret, page = stocked.token("ada", "admin"), f"{stocked.url}/ada/patients"
    with requests.Session() as browser:
        assert browser.get(page, timeout=30).status_code == 404
        wrong = browser.post(f"{stocked.url}/login", data={"token": "azt_wrong"}, timeout=30)
        assert (wrong.status_code, browser.cookies.get_dict()) == (401, {})
        home = browser.post(f"{stocked.url}/login", data={"token": secret}, timeout=30)
        assert "<b>patients</b>" in home.text
        (cookie,) = browser.cookies
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert secret not in cookie.value
        assert browser.get(page, timeout=30).status_code == 200
        gone = {"name": "patients", "organization": "ada"}
        assert browser.delete(f"{stocked.url}/api/repos/delete", json=gone, timeout=30).status_code == 401
        identity, expires, signature = cookie.value.split(".")
        for forged in (f"{identity}.{int(expires) + 9}.{signature}", f"00000000.{expires}.{signature}", "x"):
            answer = requests.get(page, headers={"Cookie": f"{cookie.name}={forged}"}, timeout=30)
            assert answer.status_code == 404
        Tokens(stocked.root).revoke(identity)
        assert browser.get(page, timeout=30).status_code == 404
        browser.post(f"{stocked.url}/logout", timeout=30)
        assert browser.cookies.get_dict() == {}


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("path", ["/", "/ada/kidney", "/ada/kidney/tree/2.0.0", "/ada/kidney/compare"])
def test_pages_are_as_wide_as_the_window(stocked: Server, look, tmp_path: Path, path: str, width: int) -> None:
    """A picture of the page has its ground at both edges: nothing sticks out, and something is drawn between."""
    from PIL import Image

    picture = tmp_path / "page.png"
    look(f"{stocked.url}{path}", f"--window-size={width},900", f"--screenshot={picture}")
    with Image.open(picture) as image:
        grey = image.convert("L")
    assert grey.width == width
    for x in (2, width - 3):
        assert grey.crop((x, 80, x + 1, 860)).getextrema()[0] > 200
    assert grey.getextrema()[0] < 100


@pytest.mark.slow
def test_every_page_forbids_scripts_and_is_not_kept(stocked: Server) -> None:
    for path in ("/", "/datasets", "/ada/kidney", "/ada/kidney/tree/main", "/ada/nothing", "/nowhere/at/all/x"):
        answer = requests.get(f"{stocked.url}{path}", headers={"Accept": "text/html"}, timeout=30)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "script-src" not in policy
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["content-type"].startswith("text/html")


def test_cards_are_rendered_without_their_metadata() -> None:
    text = html.rendered(b"---\ntags: [x]\n---\n# A *card*\n\n<b>bold</b>\n")
    assert text == "<h1>A <em>card</em></h1>\n<p>&lt;b&gt;bold&lt;/b&gt;</p>\n"

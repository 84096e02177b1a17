"""The Hugging Face hub, and every hub with the same interface.

What is read goes over :mod:`hub_client.store.network.http`, which bounds it; ``huggingface_hub`` makes repositories,
commits and tags, because uploads take more than a request. The library gets no token for a hub that is not the public
one: a hook adds it to requests to that hub's own origin, so that neither a redirect nor an upload link can carry it
off, and ``HF_TOKEN`` and stored logins go to the public hub alone.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from hub_client import errors
from hub_client.files import markdown
from hub_client.manifest.reading import MAX_BYTES
from hub_client.manifest.scalars import Commit
from hub_client.release import card, dataset, yanks
from hub_client.release.files import Wanted
from hub_client.release.names import COMMIT, SHA256
from hub_client.release.store import DOCUMENT, Logged, RepoType
from hub_client.store import settings
from hub_client.store.network import http
from hub_client.store.network.http import Answer, Client
from hub_client.store.network.remote import Change, Heads, MovedOn, Published
from hub_client.store.network.stream import Advance, Stream, progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLIC = "https://huggingface.co"
TAG = "archzoo"
"""What a repository of ours is tagged with on a hub: ``library_name`` of a card, or a tag."""

_PAGE = 16 << 20
_ETAG = re.compile(rf'(?:W/)?"?({COMMIT.pattern}|{SHA256.pattern})"?')
_QUERY = re.compile(r"(?<=\S)\?[^\s'\"]+")
_TYPES: Mapping[RepoType, str] = {"models": "model", "datasets": "dataset"}
_FILES: Mapping[RepoType, str] = {"models": "", "datasets": "datasets/"}
_STALE = 412
_BARS = "HF_HUB_DISABLE_PROGRESS_BARS"
_WAIT = 300.0
"""Seconds to wait for a hub to take a commit."""


_Model = TypeVar("_Model", bound=BaseModel)


class _Head(BaseModel):
    name: str
    ref: str
    commit: Annotated[Commit, Field(alias="targetCommit")]


class _Heads(BaseModel):
    branches: tuple[_Head, ...] = ()
    tags: tuple[_Head, ...] = ()
    proposals: Annotated[tuple[_Head, ...], Field(alias="pullRequests")] = ()


class _Repo(BaseModel):
    id: str
    private: bool = False
    gated: bool | str | None = False


class _Log(BaseModel):
    commit: Annotated[Commit, Field(alias="id")]
    message: Annotated[str, Field(alias="title")] = ""
    date: datetime | None = None


def public_address() -> str:
    """Return what ``hf://`` stands for: the public hub, or the mirror that ``HF_ENDPOINT`` names."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC).rstrip("/")


def public_token(address: str) -> str | None:
    """Return the token of the user's Hugging Face login, for the public hub alone."""
    if address != PUBLIC:
        return None
    from huggingface_hub import get_token

    return get_token()


class HuggingFaceWire:
    """A :class:`~hub_client.store.network.remote.WritableWire` to one hub."""

    def __init__(self, address: str, *, kind: RepoType, token: str | None) -> None:
        self._client = Client(address, token=token)
        self.address = self._client.url
        self._kind: RepoType = kind
        self._token = token

    # Reading

    def repos(self) -> list[str]:
        """Return the repositories that the hub has tagged as ours, of all pages."""
        asked = {"filter": TAG, "limit": "1000"}
        pages = self._client.pages(f"api/{self._kind}", params=asked, limit=_PAGE)
        return [one.id for page in pages for one in self._each(_Repo, page)]

    def heads(self, repo: str) -> Heads | None:
        """Return where the repository's names point."""
        answer = self._client.get(f"api/{self._kind}/{repo}/refs", params={"include_prs": "1"}, limit=_PAGE)
        if self._hidden(answer):
            return None
        found = self._validated(_Heads, self._json(answer))
        branches = {one.name: one.commit for one in found.branches}
        yanked = branches.pop(yanks.BRANCH, None)
        return Heads(
            branches,
            {one.name: one.commit for one in found.tags},
            {one.ref: one.commit for one in found.proposals},
            yanks.reasons(self._yanked(repo, yanked)) if yanked else {},
        )

    def log(self, repo: str) -> list[Logged]:
        """Return the commits of the main branch."""
        logged: list[Logged] = []
        for page in self._client.pages(f"api/{self._kind}/{repo}/commits/main", limit=_PAGE):
            if self._hidden(page):
                return []
            logged += [Logged(one.commit, one.message, one.date) for one in self._each(_Log, page)]
        return logged

    def private(self, repo: str) -> bool:
        """Return whether the hub shows a repository to some only: to members, or to those who accept its terms."""
        answer = self._client.get(f"api/{self._kind}/{repo}", limit=_PAGE)
        if self._hidden(answer):
            return True
        found = self._validated(_Repo, self._json(answer))
        return found.private or bool(found.gated)

    def document(self, repo: str, commit: str) -> bytes | None:
        """Return a commit's document, if the hub states that it is this commit's."""
        return self._file(repo, commit, DOCUMENT[self._kind], limit=MAX_BYTES)

    def _yanked(self, repo: str, commit: str) -> tuple[yanks.Yank, ...]:
        content = self._file(repo, commit, yanks.FILE, limit=yanks.MAX_BYTES)
        return yanks.read(content, source=repo) if content is not None else ()

    def _file(self, repo: str, commit: str, name: str, *, limit: int) -> bytes | None:
        answer = self._client.get(self._place(repo, commit, name), limit=limit, elsewhere=True)
        if answer.headers.get("x-error-code") == "RevisionNotFound":
            raise errors.NotFound(f"{repo} in {self.address} has no commit {commit[:12]}.", name=f"{repo}@{commit}")
        if self._hidden(answer):
            return None
        self._check_status(answer)
        self._check_commit(answer.headers, commit, name)
        self._check_etag(answer.headers, _hashes(answer.body), name)
        return answer.body

    @contextmanager
    def stream(self, repo: str, commit: str, file: Wanted, start: int) -> Iterator[Stream]:
        """Give a file, after checking what the hub states of it."""
        with self._client.stream(self._place(repo, commit, file.name), start=start, size=file.size) as stream:
            self._check_commit(stream.headers, commit, file.name)
            self._check_etag(stream.headers, {64: file.sha256}, file.name)
            yield stream

    # Writing

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository where there is none; its visibility is the hub's default unless ``private`` is given."""
        answer = self._client.get(f"api/{self._kind}/{repo}", limit=_PAGE)
        if self._hidden(answer):
            with self._library() as api:
                api.create_repo(repo, repo_type=_TYPES[self._kind], private=private, exist_ok=True)
        elif private and not self._validated(_Repo, self._json(answer)).private:
            raise errors.InvalidInput(
                f"{repo} in {self.address} exists already and is public. Make it private in its settings there, or "
                "push to another name.",
                facts={"private": private},
            )

    def publish(self, repo: str, change: Change) -> Published:
        """Make one commit with ``create_commit``; it follows the change's parent or is refused."""
        size = sum(path.stat().st_size for path in change.folder.iterdir())
        bar = progress(size, what=f"{repo} to {self.address}")
        with self._library() as api, ExitStack() as opened, bar as advance:
            made = api.create_commit(
                repo,
                self._operations(change, opened, advance),
                commit_message=change.message or "Release",  # the library takes no empty one
                repo_type=_TYPES[self._kind],
                revision="main",
                parent_commit=change.parent,
                create_pr=change.proposal,
            )
            commit, url = made.oid, made.pr_url
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise self._lying("answers a push with a commit that is none", expected="40 hex digits", actual=commit)
        return Published(commit, url)

    def tag(self, repo: str, version: str, commit: str) -> None:
        """Tag a commit."""
        with self._library() as api:
            api.create_tag(repo, tag=version, revision=commit, repo_type=_TYPES[self._kind])

    def yank(self, repo: str, yank: yanks.Yank) -> None:
        """Commit the longer list to its branch, which is made at the first time; MovedOn if it is not the one seen."""
        from huggingface_hub import CommitOperationAdd

        answer = self._client.get(f"api/{self._kind}/{repo}/refs", limit=_PAGE)
        found = self._validated(_Heads, self._json(answer))
        before = {one.name: one.commit for one in found.branches}.get(yanks.BRANCH)
        listed = self._yanked(repo, before) if before else ()
        content = yanks.dump([*yanks.without(listed, yank.version), yank])
        with self._library() as api:
            if before is None:
                api.create_branch(repo, branch=yanks.BRANCH, repo_type=_TYPES[self._kind])
            api.create_commit(
                repo,
                [CommitOperationAdd(path_in_repo=yanks.FILE, path_or_fileobj=content)],
                commit_message=f"Yank {yank.version}: {yank.reason}",
                repo_type=_TYPES[self._kind],
                revision=yanks.BRANCH,
                parent_commit=before,
            )

    def _operations(self, change: Change, opened: ExitStack, advance: Advance) -> list[Any]:
        """Return what the commit does: open files take the path of plain uploads, which every hub knows."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        paths = sorted(change.folder.iterdir())
        contents: dict[str, Any] = {path.name: self._content(path, opened, advance) for path in paths}
        if self._kind == "datasets":
            contents.setdefault("README.md", _dataset_card(change.folder))
        gone = [CommitOperationDelete(path_in_repo=name) for name in change.gone if name not in contents]
        return [*(CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents[name]) for name in contents), *gone]

    def _content(self, path: Path, opened: ExitStack, advance: Advance) -> Any:
        return path if self.address == PUBLIC else opened.enter_context(_Watched(path, advance(path.name)))

    # The library, and the one border where its errors become ours

    @contextmanager
    def _library(self) -> Iterator[HfApi]:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        settings.refuse_offline(self.address)
        try:
            with self._api() as api:
                yield api
        except OfflineModeIsEnabled as error:
            raise errors.TransportError(f"{self.address} is not asked: HF_HUB_OFFLINE is set. Unset it.") from error
        except HfHubHTTPError as error:
            raise self._translated(error) from error
        except httpx2.TransportError as error:
            raise errors.TransportError(
                f"the hub {self.address} cannot be reached: {type(error).__name__}. Nothing was released; push again."
            ) from error
        except (ConnectionError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, errors.HubClientError):
                raise
            cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error
            raise errors.TransportError(
                f"the push to {self.address} failed: {self._reason(cause)}. Nothing was released; push again, "
                "and if it stays so, ask who runs the hub."
            ) from error

    @contextmanager
    def _api(self) -> Iterator[HfApi]:
        from huggingface_hub import HfApi

        if self.address == PUBLIC:
            yield HfApi(endpoint=PUBLIC, token=self._token or False)
            return
        with self._authorised(), _discreet_library():
            yield HfApi(endpoint=self.address, token=False)

    @contextmanager
    def _authorised(self) -> Iterator[None]:
        """Let the library's requests to this hub's origin, and no others, carry the token; and wait no longer."""
        import httpx2
        from huggingface_hub import get_session
        from huggingface_hub.errors import HfHubHTTPError

        session = get_session()

        def authorise(request: Any) -> None:
            own = http.origin(str(request.url)) == self._client.origin
            if own and self._token:
                request.headers["Authorization"] = f"Bearer {self._token}"

        timeout = session.timeout
        session.event_hooks["request"].append(authorise)
        session.timeout = httpx2.Timeout(_WAIT, connect=http.TIMEOUT[0])
        try:
            yield
        except HfHubHTTPError as error:
            if get_session() is session:
                raise
            raise errors.TransportError(  # the library began a session anew, which has no token of ours
                f"the connection to {self.address} was lost on the way. Push again: what was released already stays."
            ) from error
        finally:
            session.event_hooks["request"].remove(authorise)
            session.timeout = timeout

    def _translated(self, error: Any) -> Exception:
        status = error.response.status_code if error.response is not None else None
        if status == _STALE:
            return MovedOn()
        advice = {
            401: "The token is missing, wrong or revoked: give one that may write",
            403: "The token may not write there: ask for one that may, or push under another owner",
            409: "Somebody else was faster: push again",
            413: "It is larger than the hub takes: ask who runs it",
            429: "The hub limits how often it is asked: wait a few minutes, then push again",
            507: "The hub or your quota is full: ask who runs it",
        }
        return errors.TransportError(
            f"{self.address} refused the push ({self._reason(error)}). Nothing was released. "
            f"{advice.get(status or 0, 'Try again, and if it stays so, ask who runs the hub')}."
        )

    def _reason(self, error: BaseException) -> str:
        response = getattr(error, "response", None)
        reason = None if response is None else response.headers.get("X-Error-Message")
        text = http.shown(" ".join((reason or str(error)).split())).rstrip(". ")
        return text.replace(self._token, "***") if self._token else text

    # Answers

    def _place(self, repo: str, commit: str, name: str) -> str:
        return f"{_FILES[self._kind]}{repo}/resolve/{commit}/{quote(name)}"

    def _hidden(self, answer: Answer) -> bool:
        """Return whether there is no such thing, or none that we may know of; TransportError if the token is bad."""
        bad = "invalid" in answer.headers.get("x-error-message", "").lower() and self._token is not None
        if answer.status == 401 and bad:
            raise errors.TransportError(
                f"the hub {self.address} does not know the token that was given. It may have been revoked: get another."
            )
        return answer.status in (401, 404) and not http.gated(answer.headers)

    def _check_status(self, answer: Answer) -> None:
        if answer.status != 200:
            raise self._client.refusal(answer.status, answer.headers)

    def _json(self, answer: Answer) -> Any:
        self._check_status(answer)
        return http.parsed(answer, limit=_PAGE, source=f"the answer of {self.address}")

    def _each(self, model: type[_Model], answer: Answer) -> list[_Model]:
        found = self._json(answer)
        return [self._validated(model, one) for one in found] if isinstance(found, list) else []

    def _validated(self, model: type[_Model], found: Any) -> _Model:
        try:
            return model.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._lying(f"answers with a {where} that is none", expected=first["msg"], actual=None) from None

    def _check_commit(self, headers: Mapping[str, str], commit: str, name: str) -> None:
        found = headers.get("x-repo-commit")
        if found == commit:
            return
        what = f"was asked for {name} of commit {commit[:12]} and answers with another"
        raise self._lying(what, expected=commit, actual=http.shown(found or "none"))

    def _check_etag(self, headers: Mapping[str, str], hashes: Mapping[int, str], name: str) -> None:
        """Refuse a file of which the hub itself states that it is another; ``hashes`` are the right ones, by length."""
        etag = headers.get("x-linked-etag", headers.get("etag"))
        if etag is None:
            return
        found = _ETAG.fullmatch(etag)
        if found is None or hashes.get(len(found[1]), found[1]) != found[1]:
            what = f"states that {name} is another file than its release names"
            raise self._lying(what, expected=hashes, actual=http.shown(etag))

    def _lying(self, what: str, *, expected: object, actual: object) -> errors.IntegrityError:
        return errors.IntegrityError(
            f"the hub {self.address} {what}: expected {expected}, found {actual}. Nothing was used; tell its owner.",
            file=str(self.address),
            expected=expected,
            actual=actual,
        )


class _Watched(io.BufferedReader):
    """An open file that reports how far it was read: once by the library for its hash, once for the upload."""

    def __init__(self, path: Path, report: Callable[[int], object]) -> None:
        super().__init__(io.FileIO(path))
        self._report = report

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, and report."""
        found = super().read(size)
        self._report(self.tell())
        return found


def _hashes(content: bytes) -> dict[int, str]:
    """Return what an ETag of these bytes may be: git's id of the blob, or the sha256."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return {40: git, 64: hashlib.sha256(content).hexdigest()}


@contextmanager
def _discreet_library() -> Iterator[None]:
    """Keep the library from logging upload links, whose query is a capability, from advice on Xet, and from its bars.

    We show a bar of our own, where there is a terminal; what the environment sets for the library's
    bars holds.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    def wanted(record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("", record.getMessage()), ()
        return "Xet" not in record.msg

    logs = [logging.getLogger(f"huggingface_hub.{name}") for name in ("_commit_api", "utils._http")]
    for log in logs:
        log.addFilter(wanted)
    bars = not are_progress_bars_disabled() and _BARS not in os.environ
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(wanted)
        if bars:
            enable_progress_bars()


def _dataset_card(folder: Path) -> bytes:
    """Return a page for a data set, so that the hub finds and shows it; its release does not name it."""
    record = dataset.parse((folder / dataset.RECORD).read_bytes(), source=str(folder))
    title = record.title or record.name
    facts = card.hub_license(record.license) | {"tags": [TAG, "single-cell"], "pretty_name": title}
    about = f"{record.cells:,} cells, {record.genes:,} genes. Source: {markdown.text(record.source)}"
    return f"---\n{markdown.yaml(facts)}---\n\n# {markdown.text(title)}\n\n{about}\n".encode()

"""The answers that mean no, in the words and codes a Hugging Face client understands."""

from __future__ import annotations

import re
from typing import NoReturn

from starlette.responses import JSONResponse, Response

from hub_client import errors

BAD_TOKEN = "Invalid credentials in Authorization header"
"""The one message by which the client distinguishes a bad token from a missing repository."""
_LONGEST_HEADER = 400


class Refused(errors.HubClientError):
    """A request that is answered by no: an HTTP status, a code the client knows, and what to do."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body: dict[str, str] = {}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        """Return the answer, its message both in the body and where the client looks for it."""
        headers = {"X-Error-Message": _header(str(self))} | self.headers
        if self.code:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": str(self)} | self.body, status_code=self.status, headers=headers)


class Exists(Refused):
    """A repository that is there already; the client reads its address from the answer."""

    def __init__(self, url: str) -> None:
        super().__init__(409, "You already created this repository.")
        self.body = {"url": url}


def no_repository(*, known: bool) -> NoReturn:
    """Refuse a missing repository and a forbidden one in the same words; ``known`` is whether a valid token came."""
    raise Refused(404 if known else 401, "Repository not found, or not for you to see.", code="RepoNotFound")


def no_revision(revision: str) -> NoReturn:
    """Refuse a revision that the repository has not."""
    raise Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def no_entry(path: str, commit: str) -> NoReturn:
    """Refuse a path that a commit has not."""
    raise Refused(404, f"Entry not found: {path}", code="EntryNotFound", X_Repo_Commit=commit)


def _header(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:_LONGEST_HEADER].strip()

"""Names of repositories and of files in them: what is refused before it touches a path."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from hub_client.release.names import check_new, is_device
from hub_client.release.store import RepoType
from hub_client.serve.refusals import Refused

TYPES: dict[str | None, RepoType] = {None: "models", "model": "models", "dataset": "datasets"}
"""What the client calls a kind of repository, and what it is called in paths."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_LONGEST_PART = 255
_LONGEST_PATH = 1024


@dataclass(frozen=True, order=True)
class Place:
    """Where a repository is: its kind, its owner and its name."""

    kind: RepoType
    owner: str
    name: str

    @classmethod
    def named(cls, kind: RepoType, repo: str) -> Self:
        """Return the place of ``owner/name``."""
        return cls(kind, *repo.split("/"))

    @classmethod
    def new(cls, kind: RepoType, repo: str) -> Self:
        """Return the place of a repository to be; InvalidInput if it cannot be called so."""
        check_new(repo)
        return cls.named(kind, repo)

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def type(self) -> str:
        """The kind in the client's words."""
        return self.kind.removesuffix("s")

    @property
    def web(self) -> str:
        """The path of its page, without a ``/`` in front."""
        return f"datasets/{self}" if self.kind == "datasets" else str(self)


def check_path(path: str) -> str:
    """Return the path of a file to be; Refused if some computer could not check it out, or would leave the folder."""
    problem = next(filter(None, map(_problem, path.split("/"))), None)
    if len(path.encode(errors="surrogatepass")) > _LONGEST_PATH:
        problem = f"is longer than {_LONGEST_PATH} bytes"
    if problem:
        raise Refused(400, f"Invalid path {path[:80]!r}: it {problem}. Rename the file.")
    return path


def _problem(part: str) -> str | None:
    """Return what is wrong with one part of a path."""
    plain = unicodedata.normalize("NFKC", part).casefold()
    # without the characters that some file systems ignore
    visible = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
    surrogate = any("\ud800" <= letter <= "\udfff" for letter in part)
    rows = {
        "has an empty part": not part,
        "has a . or .. part": part in (".", ".."),
        "has a character that is not allowed in file names": bool(_UNSAFE.search(part)) or surrogate,
        "ends a part with a dot or a blank": part != part.rstrip(". "),
        "has a part named .git": visible in (".git", "git~1"),
        "has a part that Windows keeps for a device": is_device(part),
        f"has a part longer than {_LONGEST_PART} bytes": len(part.encode(errors="replace")) > _LONGEST_PART,
    }
    return next((problem for problem, found in rows.items() if found), None)


def check_together(paths: Iterable[str]) -> None:
    """Refuse paths that cannot lie in one folder: a file that is also a folder, names that differ in case only."""
    seen: dict[str, str] = {}
    files = set(paths)
    for path in sorted(files):
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if depth < len(parts) and name in files:
                raise Refused(400, f"{name!r} cannot be both a file and a folder.")
            other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                raise Refused(400, f"{name!r} and {other!r} are one name on many computers. Rename one of them.")

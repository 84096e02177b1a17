"""Names, before any of them touches a path: of repositories, of a release's files, of versions, and of hashes.

A repository is ``owner/name``. Each part is what the public Hugging Face hub takes: 1 to 96 letters, digits, ``-``,
``_`` and ``.``, neither beginning nor ending with ``-`` or ``.``, without ``--`` and ``..``. Every hub reads this one
grammar, so that what one lists another can pull. What is new may besides not be called as a device, a lock or a git
folder is, nor as a page of a served hub; and one hub does not take two names that differ in case only, which many file
systems hold for one (see :mod:`hub_client.store.folder.folder_store`).
"""

from __future__ import annotations

import re

from hub_client import errors
from hub_client.manifest import scalars

_PART = r"(?![^/]*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_PARTS = re.compile(_PART)
_REPOSITORY = re.compile(f"{_PART}/{_PART}")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_DEVICE = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_PAGES = frozenset(
    {"api", "datasets", "models", "spaces", "kernels", "buckets", "static", "login", "logout", "lfs", "settings"}
)
"""Owners whose pages would hide a served hub's own."""

SHA256 = re.compile(scalars.SHA256)
COMMIT = re.compile(scalars.COMMIT)
SHORT_COMMIT = re.compile("[0-9a-f]{7,40}")
DIGEST = re.compile(f"sha256:({SHA256.pattern})")
"""The sha256 of a release's document, as a revision."""
VERSION = re.compile(scalars.VERSION, re.ASCII)
REVISION = re.compile(r"sha256:[0-9a-f]{12,64}|[A-Za-z0-9]+(?:[-_./]?[A-Za-z0-9]+)*")
"""What may be written after ``@``: a digest, or a version, commit, tag or branch."""


def is_part(text: str) -> bool:
    """Return whether an owner or a repository can be called so."""
    return bool(_PARTS.fullmatch(text))


def is_repository(text: str) -> bool:
    """Return whether this is ``owner/name``."""
    return bool(_REPOSITORY.fullmatch(text))


def check_new(repo: str) -> None:
    """Raise InvalidInput unless a new repository can be called so."""
    owner, _, name = repo.partition("/")
    kept = _DEVICE.fullmatch(owner) or _DEVICE.fullmatch(name) or owner.lower() in _PAGES
    if not is_repository(repo) or kept or repo.lower().endswith((".git", ".lock")):
        raise errors.InvalidInput(
            f"{repo!r:.200} cannot be a repository's name: expected owner/name, as in my-lab/pbmc-scpoli, each 1 to 96 "
            "letters, digits, - _ . that begin and end with a letter, a digit or _, without -- or ..; not ending with "
            ".git or .lock, and not a word that the hub's pages or Windows keep for themselves.",
            facts={"repo": repo},
        )


def document_name(repo: str) -> str:
    """Return what a release's document calls itself in a repository: its last part, as format 1 spells names."""
    words = re.sub(r"[-_.]*([-_.])[-_.]*", r"\1", repo.split("/")[-1].lower())
    return words.strip("-_.") or "release"


def is_device(text: str) -> bool:
    """Return whether Windows keeps a file's name for a device."""
    return bool(_DEVICE.fullmatch(text))


def is_file(text: str) -> bool:
    """Return whether a release's file can be called so: the same on every system, and in no other folder."""
    return bool(_FILE.fullmatch(text)) and not text.endswith(".") and not is_device(text)


def is_version(text: str) -> bool:
    """Return whether this is a semantic version without anything after its three numbers."""
    return bool(VERSION.fullmatch(text))


def semver(version: str) -> tuple[int, ...]:
    """Return a semantic version as numbers that compare."""
    return tuple(int(part) for part in version.split("."))

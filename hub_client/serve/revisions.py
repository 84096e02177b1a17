"""From what a client calls a revision to a commit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from dulwich.objects import Commit

from hub_client import errors
from hub_client.release.names import COMMIT, SHORT_COMMIT, is_version
from hub_client.release.store import DOCUMENT, Entry, choose
from hub_client.serve import commit_tree
from hub_client.serve.refusals import Refused, no_revision
from hub_client.serve.repository_names import Place
from hub_client.store.folder import git, lfs

HEADS = "refs/heads/"
TAGS = "refs/tags/"
PULLS = "refs/pr/"
MAIN = "main"
_REF_PART = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)|/\.|\.(?:/|$)))[A-Za-z0-9_][A-Za-z0-9_./+@=-]{0,199}(?<!/)")


def resolve(repository: git.Repository, place: Place, revision: str) -> str:
    """Return the commit that a branch, tag, pull request, commit or manifest's digest names.

    Raises
    ------
    Refused
        If the repository has none, or several.
    """
    if COMMIT.fullmatch(revision) and repository.sound(revision.encode(), Commit):
        return revision  # no branch or tag may be called so, and most downloads ask like this
    names = {
        **{TAGS + name: commit for name, commit in repository.tags().items()},
        **{PULLS + name: commit for name, commit in repository.refs(PULLS).items()},
        **{HEADS + name: commit for name, commit in repository.branches().items()},
    }
    short = {name.removeprefix(TAGS).removeprefix(HEADS): commit for name, commit in names.items()}
    known = names | short | ({"HEAD": names[HEADS + MAIN]} if HEADS + MAIN in names else {})
    if revision in known:
        return known[revision]
    tips = set(known.values())
    try:  # the commit with this digest, or one that begins so
        return choose(
            str(place), revision, versions={}, names={}, history=lambda: _history(repository, place, tips=tips)
        )
    except errors.NotFound:
        no_revision(revision)


def existing(repository: git.Repository, given: str) -> str:
    """Return a commit that is given by its full id; Refused if there is none."""
    if not COMMIT.fullmatch(given) or not repository.sound(given.encode(), Commit):
        no_revision(given)
    return given


def _history(repository: git.Repository, place: Place, *, tips: set[str]) -> Iterator[Entry]:
    nodes = {node.id: node for tip in tips for node in repository.line(tip)}
    for node in nodes.values():
        yield Entry(node.id, None, digest(repository, place, node.id) or "", node.message, node.date)


def digest(repository: git.Repository, place: Place, commit: str) -> str | None:
    """Return the sha256 of the manifest of a commit; None where it has none."""
    data = commit_tree.file(repository, commit, DOCUMENT[place.kind])
    if data is None:
        return None
    pointer = lfs.Pointer.parse(data)
    return pointer.sha256 if pointer else hashlib.sha256(data).hexdigest()


def branch_ref(revision: str) -> str:
    """Return the full name of the branch or pull request that a client would write to."""
    if revision.startswith((HEADS, PULLS)):
        return revision
    return HEADS + revision


def check_ref(name: str) -> str:
    """Return the name of a branch or tag to be; Refused if git could not keep it or it looks like something else."""
    if not _REF_PART.fullmatch(name) or name.startswith("refs/") or name == "HEAD" or SHORT_COMMIT.fullmatch(name):
        raise Refused(
            400,
            f"Invalid reference name {name[:80]!r}: letters, digits, . _ - + @ = and single / between them, not "
            "beginning with refs/ and not a commit's digits.",
        )
    return name


def versions(repository: git.Repository) -> dict[str, str]:
    """Return the released versions and their commits."""
    return {name: commit for name, commit in repository.tags().items() if is_version(name)}

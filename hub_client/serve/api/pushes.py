"""What a client changes in a repository: commits, tags, branches."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import IO, Any

from starlette.responses import JSONResponse, Response

from hub_client.serve import commit_tree, commits, discussion_files, repository_names, revisions
from hub_client.serve.quota import LARGEST_REGULAR
from hub_client.serve.refusals import Refused, no_revision
from hub_client.serve.request import Call, flag
from hub_client.serve.revisions import HEADS, MAIN, PULLS, TAGS
from hub_client.store.folder import git, lfs

_MOST_PREUPLOADS = 256


def preupload(call: Call) -> Response:
    """Report how each file is to be uploaded, and which hash the hub's own copy has."""
    asked = call.body.get("files")
    if not isinstance(asked, list) or len(asked) > _MOST_PREUPLOADS:
        raise Refused(400, f"expected a list of at most {_MOST_PREUPLOADS} files.")
    with call.hub.repositories.reading(call.repo) as repository:
        commit = _writable(call, repository, proposal=flag(call.query.get("create_pr")))
        return JSONResponse({"files": [_preuploaded(repository, commit, item) for item in asked]})


def _preuploaded(repository: git.Repository, commit: str | None, item: Any) -> dict[str, Any]:
    path, size = (item.get("path"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(path, str) or type(size) is not int or size < 0:
        raise Refused(400, "each file has a path and a size.")
    repository_names.check_path(path)
    found = commit_tree.find(repository, commit, path) if commit else None
    content = commit_tree.content(repository, found.id) if found and not found.folder else None
    return {
        "path": path,
        "uploadMode": "lfs" if _is_large(path, item) else "regular",
        "shouldIgnore": False,
        "oid": content.etag if content else None,
    }


def _is_large(path: str, item: Mapping[str, Any]) -> bool:
    """Return whether a file is kept out of git: as in folder hubs, and what is binary or too large for a commit."""
    size = item["size"]
    if path.endswith((".json", ".md", commit_tree.ATTRIBUTES)):
        return bool(size > LARGEST_REGULAR)
    return bool(path.endswith(lfs.SUFFIXES) or size >= lfs.THRESHOLD or _binary(item.get("sample")))


def _binary(sample: object) -> bool:
    try:
        return b"\0" in base64.b64decode(str(sample or ""), validate=True)
    except (binascii.Error, ValueError):
        return False


def _writable(call: Call, repository: git.Repository, *, proposal: bool) -> str | None:
    """Return the commit that a commit to the route's revision would follow; refused if whoever asks may not make it.

    Everybody with a token may propose. A pull request may be added to by whoever opened it.
    """
    revision = call.words["revision"]
    ref = revisions.branch_ref(revision)
    commit = repository.ref(ref) if ref.startswith((HEADS, PULLS)) else None
    if commit is None and not (ref == HEADS + MAIN and repository.head() is None):
        if proposal:
            return revisions.resolve(repository, call.repo, revision)
        no_revision(revision)
    if proposal or call.allows("write", call.repo.owner) or _own_proposal(call, repository, ref):
        return commit
    raise Refused(403, f"This token may not write to {call.repo}: {call.may} A pull request is open to it.")


def _own_proposal(call: Call, repository: git.Repository, ref: str) -> bool:
    number = ref.removeprefix(PULLS)
    if not ref.startswith(PULLS) or not number.isdecimal():
        return False
    return bool(discussion_files.read(repository, int(number))["author"] == call.user)


def commit(call: Call, file: IO[bytes]) -> Response:
    """Make a commit on a branch or a pull request, or open a pull request with it."""
    lines = commits.lines(file)
    header = commits.header(lines)
    proposal = flag(call.query.get("create_pr"))
    with call.hub.repositories.writing(call.repo) as repository:
        base = _writable(call, repository, proposal=proposal)
        if proposal:
            base = revisions.existing(repository, header.parent) if header.parent else base
        elif header.parent is not None and header.parent != base:
            raise Refused(412, "A commit has happened since. Please refresh and try again.", X_Head=base or "none")
        content = commits.apply(repository, base, lines)
        made = _recorded(repository, content, header, base=base, user=call.user)
        opened = _land(call, repository, made, header, base=base, proposal=proposal)
    answer = {"success": True, "commitOid": made, "commitUrl": f"{call.page}/commit/{made}", "hookOutput": ""}
    return JSONResponse(answer | ({"pullRequestUrl": f"{call.page}/discussions/{opened}"} if opened else {}))


def _recorded(
    repository: git.Repository, content: bytes, header: commits.Header, *, base: str | None, user: str
) -> str:
    """Return the new commit, or the one it would follow where nothing changes."""
    if base is not None:
        root = commit_tree.find(repository, base, "")
        if root is not None and root.id == content.decode():
            return base
    parents = [base] if base else []
    return repository.record(content, message=header.message, parents=parents, author=commit_tree.signature(user))


def _land(
    call: Call, repository: git.Repository, made: str, header: commits.Header, *, base: str | None, proposal: bool
) -> int | None:
    """Move the branch to a new commit, or open a pull request for it and return its number."""
    if proposal:
        title, _, text = header.message.partition("\n")
        opened = discussion_files.open_one(
            repository, user=call.user, title=title[:500], text=text.strip() or title, head=made
        )
        return int(opened["num"])
    ref = revisions.branch_ref(call.words["revision"])
    if made != base and not repository.move(ref, base, made):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    if made != base and ref.startswith(PULLS):
        discussion = discussion_files.read(repository, int(ref.removeprefix(PULLS)))
        event = discussion_files.event("commit", call.user, subject=header.message.partition("\n")[0], oid=made)
        discussion_files.write(repository, discussion | {"events": [*discussion["events"], event]})
    return None


def create_tag(call: Call) -> Response:
    """Give a commit a tag; it is the commit's for good."""
    name = revisions.check_ref(call.text("tag"))
    with call.hub.repositories.writing(call.repo) as repository:
        target = revisions.resolve(repository, call.repo, call.words["revision"])
        _new_ref(repository, TAGS, name, target=target)
    return JSONResponse({})


def create_branch(call: Call) -> Response:
    """Begin a branch at a revision, or at the head of the main branch."""
    name = revisions.check_ref(call.words["branch"])
    with call.hub.repositories.writing(call.repo) as repository:
        target = revisions.resolve(repository, call.repo, call.text("startingPoint") or MAIN)
        _new_ref(repository, HEADS, name, target=target)
    return JSONResponse({})


def _new_ref(repository: git.Repository, base: str, name: str, *, target: str) -> None:
    """Add a tag or a branch; Refused where one is called so, or is a folder of the other's name."""
    ends = ((other, f"{other}/", f"{name}/") for other in repository.refs(base))
    clash = next((other for other, one, two in ends if one.startswith(two) or two.startswith(one)), None)
    if clash is not None or not repository.move(base + name, None, target):
        raise Refused(409, f"Reference already exists: {base}{clash or name}")


def delete_tag(call: Call) -> Response:
    """Remove a tag."""
    return _drop(call, TAGS, call.words["tag"])


def delete_branch(call: Call) -> Response:
    """Remove a branch other than the main one."""
    if call.words["branch"] == MAIN:
        raise Refused(403, "The main branch cannot be deleted.")
    return _drop(call, HEADS, call.words["branch"])


def _drop(call: Call, base: str, name: str) -> Response:
    with call.hub.repositories.writing(call.repo) as repository:
        commit = repository.refs(base).get(name)
        if commit is None or not repository.drop(base + name, commit):
            no_revision(base + name)
    return JSONResponse({})

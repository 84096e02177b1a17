"""What each call of the wire format does; ``hub_client.serve.routes`` says which call it is."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import IO, Any
from urllib.parse import parse_qs

from dulwich.objects import Commit
from starlette.responses import JSONResponse, Response

from hub_client.serve import commits, describing, discussions, front_matter, merging, places, revisions, streams, tree
from hub_client.serve.places import Place
from hub_client.serve.quota import LARGEST_REGULAR
from hub_client.serve.repositories import Record
from hub_client.serve.revisions import HEADS, MAIN, PULLS, TAGS
from hub_client.serve.wire import Call, Refused, flag, no_entry, no_repository, no_revision, number, page
from hub_client.store import git, lfs
from hub_client.store.protocol import Kind

_PAGE = 1000
_EXPANDED_PAGE = 50
_COMMITS_PAGE = 50
_DISCUSSIONS_PAGE = 50
_MOST_PATHS = 1000
_MOST_PREUPLOADS = 256
_LONGEST_DIFF = 2**20


# Without a repository


def whoami(call: Call) -> Response:
    """Tell whose token it is."""
    token = call.token
    if token is None:
        raise Refused(401, "A token is needed.")
    access = {"displayName": token.id, "role": token.scope if token.scope != "admin" else "write", "createdAt": None}
    return JSONResponse(
        {
            "type": "user",
            "id": token.user,
            "name": token.user,
            "fullname": token.user,
            "orgs": [{"type": "org", "name": name} for name in token.namespaces if name not in (token.user, "*")],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def validate_yaml(call: Call) -> Response:
    """Check a card's metadata before anything is uploaded."""
    try:
        front_matter.strict(call.text("content").encode(errors="replace"))
    except ValueError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, status_code=400)
    return JSONResponse({"errors": [], "warnings": []})


def list_repositories(call: Call) -> Response:
    """List the repositories that the token may see."""
    kind = _kind(call.words["kind"])
    size = min(number(call.query, "limit", default=_PAGE, most=_PAGE) or _PAGE, _PAGE)
    return page(call, [_listed(call, place, record) for place, record in visible(call, kind)], size=size)


def visible(call: Call, kind: Kind) -> list[tuple[Place, Record]]:
    """Return the repositories of a kind that the token may see and the query asks for."""
    found = []
    for place in call.hub.repositories.all(kind):
        record = call.hub.repositories.record(place)
        if record is not None and sees(call, place, record) and _asked_for(call.query, place):
            found.append((place, record))
    return found


def sees(call: Call, place: Place, record: Record) -> bool:
    """Return whether whoever asks may see a repository."""
    return not record.private or (call.token is not None and call.token.allows("read", place.owner))


def _asked_for(query: Mapping[str, str], place: Place) -> bool:
    words = query.get("search", "").lower().split()
    return query.get("author", place.owner) == place.owner and all(word in str(place).lower() for word in words)


def _listed(call: Call, place: Place, record: Record) -> dict[str, Any]:
    with call.hub.repositories.reading(place) as repository:
        return describing.repository(call.hub, place, record, commit=repository.head())


def create(call: Call) -> Response:
    """Make a repository."""
    place = _new_place(call, call.body.get("organization"), call.text("name"))
    _check_scope(call, place)
    url = f"{call.address}/{place.web}"
    call.hub.repositories.create(place, private=_visibility(call.body), creator=call.user, url=url)
    return JSONResponse({"url": url, "name": str(place), "id": str(place)})


def _new_place(call: Call, owner: object, name: str) -> Place:
    kind = call.body.get("type")
    if kind not in places.TYPES:
        raise Refused(404, "This hub holds models and data sets.", code="RepoNotFound")
    return places.new_place(places.TYPES[kind], str(owner or call.user), name)


def _check_scope(call: Call, place: Place) -> None:
    if call.token is None or not call.token.allows("write", place.owner):
        raise Refused(403, f"This token may not write to the namespace {place.owner!r}: {_may(call)}")


def _may(call: Call) -> str:
    if call.token is None:
        return "there is none."
    return f"it may {call.token.scope} in {', '.join(call.token.namespaces)}."


def _visibility(body: Mapping[str, Any]) -> bool | None:
    """Return whether a request wants a repository private; None if it does not say."""
    wanted = body.get("visibility")
    if wanted is None:
        given = body.get("private")
        return given if isinstance(given, bool) else None
    if wanted not in ("public", "private"):
        raise Refused(400, f"visibility is public or private here, not {str(wanted)[:40]!r}.")
    return bool(wanted == "private")


def delete(call: Call) -> Response:
    """Delete a repository."""
    place = named_in_body(call, str(call.body.get("organization") or call.user), call.text("name"))
    call.hub.repositories.delete(place)
    return JSONResponse({})


def move(call: Call) -> Response:
    """Give a repository another name or owner."""
    owner, _, name = call.text("fromRepo").partition("/")
    place = named_in_body(call, owner, name)
    owner, _, name = call.text("toRepo").partition("/")
    target = places.new_place(place.kind, owner, name)
    _check_scope(call, target)
    call.hub.repositories.move(place, target, url=f"{call.address}/{target.web}")
    return JSONResponse({"url": f"{call.address}/{target.web}"})


def named_in_body(call: Call, owner: str, name: str) -> Place:
    """Return the repository a request's body names; refused unless the token is an admin's there."""
    kind = call.body.get("type")
    if kind not in places.TYPES:
        no_repository(call.token)
    place = Place(places.TYPES[kind], owner, name)
    record = call.hub.repositories.record(place)
    if record is None or not sees(call, place, record):
        no_repository(call.token)
    if call.token is None or not call.token.allows("admin", owner):
        raise Refused(403, f"Deleting and renaming need a token with scope admin for {owner!r}: {_may(call)}")
    return place


# About a repository


def info(call: Call) -> Response:
    """Describe a repository at a revision."""
    record = call.hub.repositories.record(call.repo) or no_repository(call.token)
    with call.hub.repositories.reading(call.repo) as repository:
        revision = call.words.get("revision")
        commit = revisions.resolve(repository, call.repo, revision) if revision else repository.head()
        found = describing.repository(call.hub, call.repo, record, commit=commit)
        blobs = flag(call.query.get("blobs"))
        found["siblings"] = describing.siblings(repository, commit, blobs=blobs) if commit else []
    found["usedStorage"] = sum(file.get("size", 0) for file in found["siblings"])
    return JSONResponse(found)


def auth_check(call: Call) -> Response:
    """Say that the token may do what the route asks for."""
    return JSONResponse({})


def settings(call: Call) -> Response:
    """Say who may see a repository."""
    private = _visibility(call.body)
    if call.body.get("gated"):
        raise Refused(400, "This hub has no gated repositories: give read tokens to those who may see a private one.")
    if private is not None:
        call.hub.repositories.show(call.repo, private=private)
    return JSONResponse({})


def refs(call: Call) -> Response:
    """List branches, tags and pull requests."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = {
            "branches": describing.refs(repository.branches(), base=HEADS),
            "tags": describing.refs(repository.tags(), base=TAGS),
            "converts": [],
        }
        if flag(call.query.get("include_prs")):
            found["pullRequests"] = describing.refs(discussions.pull_requests(repository), base=PULLS)
    return JSONResponse(found)


def list_commits(call: Call) -> Response:
    """List the commits of a revision, the newest first."""
    with call.hub.repositories.reading(call.repo) as repository:
        head = call.query.get("head") or revisions.resolve(repository, call.repo, call.words["revision"])
        found = [describing.commit(node) for node in repository.line(_commit(repository, head))]
    size = number(call.query, "limit", default=_COMMITS_PAGE, most=_PAGE) or _COMMITS_PAGE
    return page(call, found, size=size, head=head)


def _commit(repository: git.Repository, given: str) -> str:
    if not revisions.COMMIT.fullmatch(given) or not repository.sound(given.encode(), Commit):
        no_revision(given)
    return given


def list_tree(call: Call) -> Response:
    """List the files under a folder of a revision."""
    expand = flag(call.query.get("expand"))
    with call.hub.repositories.reading(call.repo) as repository:
        pinned = call.query.get("head")
        commit = (
            _commit(repository, pinned) if pinned else revisions.resolve(repository, call.repo, call.words["revision"])
        )
        under = call.words.get("path", "").strip("/")
        folder = tree.find(repository, commit, under)
        if folder is None or not folder.folder:
            no_entry(under, commit)
        entries = list(tree.walk(repository, commit, under=under, recursive=flag(call.query.get("recursive"))))
        size = _EXPANDED_PAGE if expand else number(call.query, "limit", default=_PAGE, most=_PAGE) or _PAGE
        start = number(call.query, "cursor", default=0, most=10**9)
        shown = _shown(repository, commit, entries[start : start + size], expand=expand)
    more = start + size < len(entries)
    return JSONResponse(shown, headers=call.next_link(cursor=start + size, head=commit) if more else {})


def _shown(repository: git.Repository, commit: str, entries: list[tree.Entry], *, expand: bool) -> list[dict[str, Any]]:
    last = describing.last_commits(repository, commit, [entry.path for entry in entries]) if expand else {}
    return [
        describing.entry(repository, entry) | ({"lastCommit": last[entry.path]} if expand else {}) for entry in entries
    ]


def paths_info(call: Call, body: bytes) -> Response:
    """Describe the files and folders that a form names; those that are not there are left out."""
    wanted, expand = _wanted_paths(call, body)
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["revision"])
        found = [tree.find(repository, commit, path.strip("/")) for path in wanted]
        shown = _shown(repository, commit, [entry for entry in found if entry and entry.path], expand=expand)
    return JSONResponse(shown)


def _wanted_paths(call: Call, body: bytes) -> tuple[list[str], bool]:
    if "json" in call.headers.get("content-type", ""):
        form: Any = parsed_json(body)
        paths, expand = form.get("paths", []), form.get("expand")
    else:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=_MOST_PATHS + 8, keep_blank_values=True)
        paths, expand = fields.get("paths", []), fields.get("expand", ["0"])[-1]
    if not isinstance(paths, list) or len(paths) > _MOST_PATHS or not all(isinstance(path, str) for path in paths):
        raise Refused(400, f"expected at most {_MOST_PATHS} paths.")
    return list(dict.fromkeys(paths)), flag(expand)


def parsed_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request's body; nothing is an empty one."""
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "The request's body is not JSON.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refused(400, "The request's body is not a JSON object.")
    return found


def resolve(call: Call) -> Response:
    """Send a file of a revision."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["revision"])
        found = tree.find(repository, commit, call.words["path"])
        if found is None or found.folder:
            no_entry(call.words["path"], commit)
        content = tree.content(repository, found.id)
        source = repository.large.path(content.pointer.sha256) if content.pointer else tree.read(repository, found.id)
        if content.pointer and repository.large.size(content.pointer.sha256) != content.size:
            raise Refused(500, f"{found.path} is damaged on the hub: push it again to repair it.")
    headers = {
        "ETag": f'"{content.etag}"',
        "X-Repo-Commit": commit,
        "Content-Disposition": streams.attachment(found.path),
        "Cache-Control": "private, no-cache",
    }
    if content.pointer:
        headers |= {"X-Linked-Etag": f'"{content.etag}"', "X-Linked-Size": str(content.size)}
    if call.headers.get("if-none-match", "").strip('"') == content.etag:
        return Response(status_code=304, headers=headers)
    part = streams.span(call.headers, size=content.size, etag=content.etag)
    return streams.FileAnswer(source, size=content.size, part=part, headers=headers)


# Writing


def preupload(call: Call) -> Response:
    """Tell how each file is to be uploaded, and which hash the hub's own copy has."""
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
    places.check_path(path)
    found = tree.find(repository, commit, path) if commit else None
    content = tree.content(repository, found.id) if found and not found.folder else None
    return {
        "path": path,
        "uploadMode": "lfs" if _is_large(path, item) else "regular",
        "shouldIgnore": False,
        "oid": content.etag if content else None,
    }


def _is_large(path: str, item: Mapping[str, Any]) -> bool:
    """Return whether a file is kept out of git: as in folder hubs, and what is binary or too large for a commit."""
    size = item["size"]
    if path.endswith((".json", ".md", tree.ATTRIBUTES)):
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
    if proposal or (call.token and call.token.allows("write", call.repo.owner)) or _own_proposal(call, repository, ref):
        return commit
    raise Refused(403, f"This token may not write to {call.repo}: {_may(call)} A pull request is open to it.")


def _own_proposal(call: Call, repository: git.Repository, ref: str) -> bool:
    number = ref.removeprefix(PULLS)
    if not ref.startswith(PULLS) or not number.isdecimal():
        return False
    return bool(discussions.read(repository, int(number))["author"] == call.user)


def commit(call: Call, file: IO[bytes]) -> Response:
    """Make a commit on a branch or a pull request, or open a pull request with it."""
    lines = commits.lines(file)
    said = commits.header(lines)
    proposal = flag(call.query.get("create_pr"))
    with call.hub.repositories.writing(call.repo) as repository:
        base = _writable(call, repository, proposal=proposal)
        if proposal:
            base = _commit(repository, said.parent) if said.parent else base
        else:
            _check_parent(said.parent, base)
        content = commits.apply(repository, base, lines)
        made = _recorded(repository, content, said, base=base, user=call.user)
        opened = _land(call, repository, made, said, base=base, proposal=proposal)
    answer = {"success": True, "commitOid": made, "commitUrl": f"{_page(call)}/commit/{made}", "hookOutput": ""}
    return JSONResponse(answer | ({"pullRequestUrl": f"{_page(call)}/discussions/{opened}"} if opened else {}))


def _page(call: Call) -> str:
    return f"{call.address}/{call.repo.web}"


def _check_parent(parent: str | None, base: str | None) -> None:
    if parent is not None and parent != base:
        raise Refused(412, "A commit has happened since. Please refresh and try again.", X_Head=base or "none")


def _recorded(repository: git.Repository, content: bytes, said: commits.Header, *, base: str | None, user: str) -> str:
    """Return the new commit, or the one it would follow where nothing changes."""
    if base is not None:
        root = tree.find(repository, base, "")
        if root is not None and root.id == content.decode():
            return base
    parents = [base] if base else []
    return repository.record(content, message=said.message, parents=parents, author=tree.signature(user))


def _land(
    call: Call, repository: git.Repository, made: str, said: commits.Header, *, base: str | None, proposal: bool
) -> int | None:
    """Move the branch to a new commit, or open a pull request for it and return its number."""
    if proposal:
        title, _, text = said.message.partition("\n")
        opened = discussions.open_one(
            repository, user=call.user, title=title[:500], text=text.strip() or title, head=made
        )
        return int(opened["num"])
    ref = revisions.branch_ref(call.words["revision"])
    if made != base and not repository.move(ref, base, made):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    if made != base and ref.startswith(PULLS):
        discussion = discussions.read(repository, int(ref.removeprefix(PULLS)))
        event = discussions.event("commit", call.user, subject=said.message.partition("\n")[0], oid=made)
        discussions.write(repository, discussion | {"events": [*discussion["events"], event]})
    return None


def create_tag(call: Call) -> Response:
    """Give a commit a tag; it is the commit's for good."""
    name = revisions.check_ref(call.text("tag"))
    with call.hub.repositories.writing(call.repo) as repository:
        target = revisions.resolve(repository, call.repo, call.words["revision"])
        _new_ref(repository, TAGS + name, target, what="tag")
    return JSONResponse({})


def create_branch(call: Call) -> Response:
    """Begin a branch at a revision, or at the head of the main branch."""
    name = revisions.check_ref(call.words["branch"])
    with call.hub.repositories.writing(call.repo) as repository:
        target = revisions.resolve(repository, call.repo, call.text("startingPoint") or MAIN)
        _new_ref(repository, HEADS + name, target, what="branch")
    return JSONResponse({})


def _new_ref(repository: git.Repository, ref: str, target: str, *, what: str) -> None:
    base, name = (HEADS, ref.removeprefix(HEADS)) if ref.startswith(HEADS) else (TAGS, ref.removeprefix(TAGS))
    taken = repository.refs(base)
    clash = next(
        (other for other in taken if f"{other}/".startswith(f"{name}/") or f"{name}/".startswith(f"{other}/")), ""
    )
    if clash:
        raise Refused(409, f"Reference already exists: {base}{clash}")
    if not repository.move(ref, None, target):
        raise Refused(409, f"Reference already exists: {ref}")


def delete_tag(call: Call) -> Response:
    """Remove a tag."""
    return _drop(call, TAGS + call.words["tag"])


def delete_branch(call: Call) -> Response:
    """Remove a branch other than the main one."""
    if call.words["branch"] == MAIN:
        raise Refused(403, "The main branch cannot be deleted.")
    return _drop(call, HEADS + call.words["branch"])


def _drop(call: Call, ref: str) -> Response:
    with call.hub.repositories.writing(call.repo) as repository:
        commit = repository.refs(ref[: ref.index("/", 5) + 1]).get(ref[ref.index("/", 5) + 1 :])
        if commit is None or not repository.drop(ref, commit):
            no_revision(ref)
    return JSONResponse({})


# Discussions and pull requests


def list_discussions(call: Call) -> Response:
    """List discussions and pull requests, the newest first."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = [_outline(call, discussion) for discussion in discussions.all_of(repository)]
    shown = [item for item in found if _wanted(call.query, item)]
    start = number(call.query, "p", default=0, most=10**6) * _DISCUSSIONS_PAGE
    return JSONResponse({"discussions": shown[start : start + _DISCUSSIONS_PAGE], "count": len(shown), "start": start})


def _wanted(query: Mapping[str, str], item: Mapping[str, Any]) -> bool:
    kinds = {"all": (True, False), "discussion": (False,), "pull_request": (True,)}
    states = {"all": ("open", "draft", "closed", "merged"), "open": ("open", "draft"), "closed": ("closed", "merged")}
    return (
        item["isPullRequest"] in kinds.get(query.get("type", "all"), ())
        and item["status"] in states.get(query.get("status", "all"), ())
        and query.get("author", item["author"]["name"]) == item["author"]["name"]
    )


def _outline(call: Call, discussion: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: discussion[key] for key in ("num", "title", "status", "createdAt", "isPullRequest")}
    return shown | {
        "author": {"name": discussion["author"]},
        "repo": {"name": str(call.repo), "type": call.repo.type},
        "numComments": sum(event["type"] == "comment" for event in discussion["events"]),
    }


def get_discussion(call: Call) -> Response:
    """Return one discussion with all that happened in it."""
    with call.hub.repositories.reading(call.repo) as repository:
        return JSONResponse(_detailed(call, repository, discussions.read(repository, discussion_number(call))))


def discussion_number(call: Call) -> int:
    """Return the number of the route's discussion."""
    text = call.words["number"]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(404, f"There is no discussion {text[:20]!r} here.")
    return int(text)


def _detailed(call: Call, repository: git.Repository, discussion: Mapping[str, Any]) -> dict[str, Any]:
    shown = _outline(call, discussion) | {"events": discussion["events"], "filesWithConflicts": None, "diff": None}
    if discussion["isPullRequest"]:
        merged = discussion.get("mergeCommitId")
        shown["changes"] = {"base": discussion["base"]} | ({"mergeCommitId": merged} if merged else {})
        shown["filesWithConflicts"] = [] if merged else _conflicts(repository, discussion)
        shown["diff"] = diff(repository, discussion) if flag(call.query.get("diff")) else None
    return shown


def _conflicts(repository: git.Repository, discussion: Mapping[str, Any]) -> list[str]:
    head, ours = repository.ref(f"{PULLS}{discussion['num']}"), repository.ref(discussion["base"])
    return merging.merge(repository, ours, head).conflicts if head and ours else []


def diff(repository: git.Repository, discussion: Mapping[str, Any]) -> str | None:
    """Return what a pull request changes; None where that is too long to be read."""
    head, ours = repository.ref(f"{PULLS}{discussion['num']}"), repository.ref(discussion["base"])
    if head is None or ours is None:
        return None
    base = merging.fork(repository, ours, head)
    return repository.diff(base, head, most=_LONGEST_DIFF) if base else None


def create_discussion(call: Call) -> Response:
    """Begin a discussion, or a pull request as a draft."""
    proposal = call.body.get("pullRequest") is True
    with call.hub.repositories.writing(call.repo) as repository:
        opened = discussions.open_one(
            repository,
            user=call.user,
            title=call.text("title"),
            text=call.text("description") or call.text("title"),
            head=repository.head() if proposal else None,
            status="draft" if proposal else "open",
        )
    return JSONResponse({"num": opened["num"], "url": f"{_page(call)}/discussions/{opened['num']}"})


def change_discussion(call: Call) -> Response:
    """Comment on a discussion, or change its title or status."""
    change = discussions.CHANGES[call.words["change"]]
    return _changed(
        call,
        lambda discussion: change(discussion, call.user, call.body),
        by_author=call.words["change"] != "comment",
    )


def edit_comment(call: Call) -> Response:
    """Change the text of one's own comment."""
    return _changed_comment(call, call.text("content"))


def hide_comment(call: Call) -> Response:
    """Remove the text of a comment for ever."""
    return _changed_comment(call, None)


def _changed_comment(call: Call, text: str | None) -> Response:
    def change(discussion: discussions.Discussion) -> dict[str, Any]:
        events = [event for event in discussion["events"] if event["id"] == call.words["comment"]]
        if any(event["author"]["name"] != call.user for event in events) and not _writes(call):
            raise Refused(403, "A comment is changed by who wrote it, or by who may write here.")
        return discussions.change_comment(discussion, call.words["comment"], user=call.user, text=text)

    return _changed(call, change, by_author=False)


def _writes(call: Call) -> bool:
    return call.token is not None and call.token.allows("write", call.repo.owner)


def _changed(call: Call, change: Callable[[discussions.Discussion], dict[str, Any]], *, by_author: bool) -> Response:
    with call.hub.repositories.writing(call.repo) as repository:
        discussion = discussions.read(repository, discussion_number(call))
        if by_author and discussion["author"] != call.user and not _writes(call):
            raise Refused(403, "A discussion is changed by who opened it, or by who may write here.")
        answer = change(discussion)
        discussions.write(repository, discussion)
    return JSONResponse(answer)


def merge(call: Call) -> Response:
    """Merge a pull request into the branch it was opened for."""
    with call.hub.repositories.writing(call.repo) as repository:
        discussion = discussions.read(repository, discussion_number(call))
        head = repository.ref(f"{PULLS}{discussion['num']}")
        if not discussion["isPullRequest"] or head is None or discussion["status"] != "open":
            raise Refused(403, f"Only an open pull request is merged; this one is {discussion['status']}.")
        if call.text("comment"):
            discussion["events"].append(discussions.comment(call.user, call.text("comment")))
        made = _merged(call, repository, discussion, head)
        discussions.write(repository, discussions.merged(discussion, made, user=call.user))
    return JSONResponse({"mergeCommitId": made})


def _merged(call: Call, repository: git.Repository, discussion: discussions.Discussion, head: str) -> str:
    """Return the merge's commit, to which the branch has been moved."""
    ours = repository.ref(discussion["base"]) or no_revision(discussion["base"])
    result = merging.merge(repository, ours, head)
    if result.conflicts:
        raise Refused(409, f"Both sides changed {', '.join(result.conflicts[:5])}: resolve that in the pull request.")
    message = f"{discussion['title']} (#{discussion['num']})"
    made = repository.record(
        tree.write(repository, result.paths), message=message, parents=[ours, head], author=tree.signature(call.user)
    )
    discussions.write(repository, discussion | {"merging": {"commit": made, "user": call.user}})
    if not repository.move(discussion["base"], ours, made):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    return made


def _kind(word: str) -> Kind:
    return "models" if word == "models" else "datasets"

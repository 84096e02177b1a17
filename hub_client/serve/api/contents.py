"""What a client reads of a repository: its description, refs, commits, files."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hub_client.serve import commit_tree, discussion_files, json_views, revisions, streams
from hub_client.serve.refusals import Refused, no_entry
from hub_client.serve.request import PAGE, Call, flag, limit, number, page, parsed_json
from hub_client.serve.revisions import HEADS, PULLS, TAGS
from hub_client.store.folder import git

_EXPANDED_PAGE = 50
_COMMITS_PAGE = 50
_MOST_PATHS = 1000


def info(call: Call) -> Response:
    """Describe a repository at a revision."""
    record = call.seen(call.repo)
    with call.hub.repositories.reading(call.repo) as repository:
        revision = call.words.get("revision")
        commit = revisions.resolve(repository, call.repo, revision) if revision else repository.head()
        found = json_views.repository(call.hub, call.repo, record, commit=commit)
        blobs = flag(call.query.get("blobs"))
        found["siblings"] = json_views.siblings(repository, commit, blobs=blobs) if commit else []
    found["usedStorage"] = sum(file.get("size", 0) for file in found["siblings"])
    return JSONResponse(found)


def auth_check(call: Call) -> Response:
    """Confirm that the token may do what the route asks for."""
    return JSONResponse({})


def refs(call: Call) -> Response:
    """List branches, tags and pull requests."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = {
            "branches": json_views.refs(repository.branches(), base=HEADS),
            "tags": json_views.refs(repository.tags(), base=TAGS),
            "converts": [],
        }
        if flag(call.query.get("include_prs")):
            found["pullRequests"] = json_views.refs(discussion_files.pull_requests(repository), base=PULLS)
    return JSONResponse(found)


def list_commits(call: Call) -> Response:
    """List the commits of a revision, the newest first."""
    with call.hub.repositories.reading(call.repo) as repository:
        head = _pinned(call, repository)
        found = [json_views.commit(node) for node in repository.line(head)]
    return page(call, found, size=limit(call.query, default=_COMMITS_PAGE), head=head)


def _pinned(call: Call, repository: git.Repository) -> str:
    """Return the commit of a listing: the one its first page had, or the route's revision."""
    head = call.query.get("head")
    if head:
        return revisions.existing(repository, head)
    return revisions.resolve(repository, call.repo, call.words["revision"])


def list_tree(call: Call) -> Response:
    """List the files under a folder of a revision."""
    expand = flag(call.query.get("expand"))
    with call.hub.repositories.reading(call.repo) as repository:
        commit = _pinned(call, repository)
        under = call.words.get("path", "").strip("/")
        folder = commit_tree.find(repository, commit, under)
        if folder is None or not folder.folder:
            no_entry(under, commit)
        entries = list(commit_tree.walk(repository, commit, under=under, recursive=flag(call.query.get("recursive"))))
        size = _EXPANDED_PAGE if expand else limit(call.query, default=PAGE)
        start = number(call.query, "cursor", default=0, most=10**9)
        shown = _shown(repository, commit, entries[start : start + size], expand=expand)
    more = start + size < len(entries)
    return JSONResponse(shown, headers=call.next_link(cursor=start + size, head=commit) if more else {})


def _shown(
    repository: git.Repository, commit: str, entries: list[commit_tree.Entry], *, expand: bool
) -> list[dict[str, Any]]:
    last = json_views.last_commits(repository, commit, [entry.path for entry in entries]) if expand else {}
    return [
        json_views.entry(repository, entry) | ({"lastCommit": last[entry.path]} if expand else {}) for entry in entries
    ]


def paths_info(call: Call, body: bytes) -> Response:
    """Describe the files and folders that a form names; those that are not there are left out."""
    wanted, expand = _wanted_paths(call, body)
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["revision"])
        found = [commit_tree.find(repository, commit, path.strip("/")) for path in wanted]
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


def resolve(call: Call) -> Response:
    """Send a file of a revision."""
    with call.hub.repositories.reading(call.repo) as repository:
        commit = revisions.resolve(repository, call.repo, call.words["revision"])
        found = commit_tree.find(repository, commit, call.words["path"])
        if found is None or found.folder:
            no_entry(call.words["path"], commit)
        content = commit_tree.content(repository, found.id)
        source = (
            repository.large.path(content.pointer.sha256) if content.pointer else commit_tree.read(repository, found.id)
        )
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

"""Discussions and pull requests, as a client asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from hub_client.serve import commit_tree, discussion_files
from hub_client.serve.refusals import Refused, no_revision
from hub_client.serve.request import Call, flag, number
from hub_client.serve.revisions import PULLS
from hub_client.store.folder import git

_PAGE = 50


def list_discussions(call: Call) -> Response:
    """List discussions and pull requests, the newest first."""
    with call.hub.repositories.reading(call.repo) as repository:
        found = [_outline(call, discussion) for discussion in discussion_files.all_of(repository)]
    shown = [item for item in found if _wanted(call.query, item)]
    start = number(call.query, "p", default=0, most=10**6) * _PAGE
    return JSONResponse({"discussions": shown[start : start + _PAGE], "count": len(shown), "start": start})


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
        found = discussion_files.named(repository, call.words["number"])
        shown = _outline(call, found) | {"events": found["events"], "filesWithConflicts": None, "diff": None}
        if found["isPullRequest"]:
            merged = found.get("mergeCommitId")
            shown["changes"] = {"base": found["base"]} | ({"mergeCommitId": merged} if merged else {})
            shown["filesWithConflicts"] = discussion_files.conflicts(repository, found)
            shown["diff"] = discussion_files.diff(repository, found) if flag(call.query.get("diff")) else None
        return JSONResponse(shown)


def create_discussion(call: Call) -> Response:
    """Begin a discussion, or a pull request as a draft."""
    proposal = call.body.get("pullRequest") is True
    with call.hub.repositories.writing(call.repo) as repository:
        opened = discussion_files.open_one(
            repository,
            user=call.user,
            title=call.text("title"),
            text=call.text("description") or call.text("title"),
            head=repository.head() if proposal else None,
            status="draft" if proposal else "open",
        )
    return JSONResponse({"num": opened["num"], "url": f"{call.page}/discussions/{opened['num']}"})


def change_discussion(call: Call) -> Response:
    """Comment on a discussion, or change its title or status."""
    change = discussion_files.CHANGES[call.words["change"]]
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
    def change(discussion: discussion_files.Discussion) -> dict[str, Any]:
        events = [event for event in discussion["events"] if event["id"] == call.words["comment"]]
        if any(event["author"]["name"] != call.user for event in events) and not call.allows("write", call.repo.owner):
            raise Refused(403, "A comment is changed by who wrote it, or by who may write here.")
        return discussion_files.change_comment(discussion, call.words["comment"], user=call.user, text=text)

    return _changed(call, change, by_author=False)


def _changed(
    call: Call, change: Callable[[discussion_files.Discussion], dict[str, Any]], *, by_author: bool
) -> Response:
    with call.hub.repositories.writing(call.repo) as repository:
        discussion = discussion_files.named(repository, call.words["number"])
        if by_author and discussion["author"] != call.user and not call.allows("write", call.repo.owner):
            raise Refused(403, "A discussion is changed by who opened it, or by who may write here.")
        answer = change(discussion)
        discussion_files.write(repository, discussion)
    return JSONResponse(answer)


def merge(call: Call) -> Response:
    """Merge a pull request into the branch it was opened for."""
    with call.hub.repositories.writing(call.repo) as repository:
        discussion = discussion_files.named(repository, call.words["number"])
        head = repository.ref(f"{PULLS}{discussion['num']}")
        if not discussion["isPullRequest"] or head is None or discussion["status"] != "open":
            raise Refused(403, f"Only an open pull request is merged; this one is {discussion['status']}.")
        if call.text("comment"):
            discussion["events"].append(discussion_files.comment(call.user, call.text("comment")))
        made = _merged(call, repository, discussion, head)
        discussion_files.write(repository, discussion_files.merged(discussion, made, user=call.user))
    return JSONResponse({"mergeCommitId": made})


def _merged(call: Call, repository: git.Repository, discussion: discussion_files.Discussion, head: str) -> str:
    """Return the merge's commit, to which the branch has been moved."""
    ours = repository.ref(discussion["base"]) or no_revision(discussion["base"])
    result = commit_tree.merge(repository, ours, head)
    if result.conflicts:
        raise Refused(409, f"Both sides changed {', '.join(result.conflicts[:5])}: resolve that in the pull request.")
    message = f"{discussion['title']} (#{discussion['num']})"
    made = repository.record(
        commit_tree.write(repository, result.paths),
        message=message,
        parents=[ours, head],
        author=commit_tree.signature(call.user),
    )
    discussion_files.write(repository, discussion | {"merging": {"commit": made, "user": call.user}})
    if not repository.move(discussion["base"], ours, made):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    return made

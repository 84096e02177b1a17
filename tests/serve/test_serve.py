"""The self-hosted hub, driven by the real client of the public one and by its command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_client.hub.client import Hub
from hub_client.store.folder.folder_store import FolderStore
from tests import releases
from tests.served import CLIENTS_OWN, MIB, Server, add, archzoo, environment, served, server, weights

__all__ = ["server"]
pytestmark = [pytest.mark.slow, *CLIENTS_OWN]


def head(api: HfApi, repo: str, **where: str) -> str:
    sha = api.repo_info(repo, **where).sha
    assert sha
    return sha


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def files(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Repositories


def test_create_says_where_and_twice_is_a_conflict(server: Server) -> None:
    api = server.api("ada")
    url = api.create_repo("ada/created", private=False)
    assert url == f"{server.url}/ada/created"
    assert api.create_repo("ada/created", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("ada/created")
    assert status(refused) == 409
    with pytest.raises(HfHubHTTPError):
        api.create_repo("ada/CREATED")  # one folder on many computers


def test_a_name_without_owner_is_the_users(server: Server) -> None:
    assert server.api("ada").create_repo("mine").repo_id == "ada/mine"


@pytest.mark.parametrize("name", ["ada/x.git", "api/x", "datasets/x", "ada/x.lock"])
def test_names_that_would_hide_something_are_refused(server: Server, name: str) -> None:
    with pytest.raises((HfHubHTTPError, ValueError)):
        server.api("ada", "admin", "*").create_repo(name)


def test_repositories_are_private_unless_said_otherwise(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/unsaid")
    assert api.model_info("ada/unsaid").private
    with pytest.raises(RepositoryNotFoundError):
        server.anonymous().model_info("ada/unsaid")


def test_only_a_namespaces_tokens_see_a_private_repository(server: Server) -> None:
    api, other = server.api("ada"), server.api("bob", "admin")
    api.create_repo("ada/hidden", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="ada/hidden")
    for stranger in (other, server.anonymous()):
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("ada/hidden")
        assert "ada/hidden" not in [model.id for model in stranger.list_models()]
    reader = server.api("carl", "read", "ada")
    assert reader.model_info("ada/hidden").private
    assert "ada/hidden" in [model.id for model in reader.list_models(author="ada")]


def test_settings_change_who_sees_a_repository(server: Server) -> None:
    api = server.api("ada", "admin")
    api.create_repo("ada/seen", private=True)
    api.update_repo_settings("ada/seen", private=False)
    assert server.anonymous().model_info("ada/seen").id == "ada/seen"
    api.update_repo_settings("ada/seen", visibility="private")
    with pytest.raises(RepositoryNotFoundError):
        server.anonymous().model_info("ada/seen")


def test_rename_and_delete_need_an_admin(server: Server) -> None:
    admin, writer = server.api("ada", "admin"), server.api("ada", "write")
    writer.create_repo("ada/before")
    writer.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="ada/before")
    sha = head(writer, "ada/before")
    with pytest.raises(HfHubHTTPError) as refused:
        writer.move_repo("ada/before", "ada/after")
    assert status(refused) == 403
    with pytest.raises(HfHubHTTPError) as refused:
        writer.delete_repo("ada/before")
    assert status(refused) == 403
    admin.move_repo("ada/before", "ada/after")
    assert head(admin, "ada/after") == sha
    with pytest.raises(RepositoryNotFoundError):
        admin.model_info("ada/before")
    admin.delete_repo("ada/after")
    with pytest.raises(RepositoryNotFoundError):
        admin.model_info("ada/after")
    admin.delete_repo("ada/after", missing_ok=True)


def test_data_sets_are_repositories_of_their_own(server: Server, tmp_path: Path) -> None:
    api = server.api("ada")
    api.create_repo("ada/cells", repo_type="dataset", private=False)
    data = os.urandom(2 * MIB)
    api.create_commit(
        "ada/cells", [add("cells.bin", data), add("README.md", b"# Cells")], commit_message="data", repo_type="dataset"
    )
    assert [found.id for found in api.list_datasets(author="ada")] == ["ada/cells"]
    folder = snapshot_download("ada/cells", repo_type="dataset", endpoint=server.url, token=False, cache_dir=tmp_path)
    assert files(folder)["cells.bin"] == data
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("ada/cells")


def test_spaces_are_not_found(server: Server) -> None:
    api = server.api("ada")
    with pytest.raises(RepositoryNotFoundError):
        api.space_info("ada/any")
    with pytest.raises(RepositoryNotFoundError):
        api.create_repo("ada/any", repo_type="space", space_sdk="static")


def test_listing_goes_on_over_pages_and_can_be_searched(server: Server) -> None:
    api = server.api("lister")
    for number in range(5):
        api.create_repo(f"lister/model-{number}", private=False)
    every = [model.id for model in api.list_models(author="lister")]
    assert every == [f"lister/model-{number}" for number in range(5)]
    assert [model.id for model in api.list_models(search="LISTER model-3")] == ["lister/model-3"]
    assert len(list(api.list_models(author="lister", limit=2))) == 2
    url, seen = f"{server.url}/api/models?author=lister&limit=2", []
    while url:
        answer = requests.get(url, timeout=30)
        seen.append([model["id"] for model in answer.json()])
        url = answer.links.get("next", {}).get("url")
    assert seen == [every[:2], every[2:4], every[4:]]


# Tokens


def test_whose_token_it_is(server: Server) -> None:
    me = server.api("ada", "read", "lab").whoami()
    assert (me["name"], me["auth"]["accessToken"]["role"]) == ("ada", "read")
    assert [org["name"] for org in me["orgs"]] == ["lab"]


def test_a_wrong_token_is_told_from_a_missing_repository(server: Server) -> None:
    server.api("ada").create_repo("ada/public", private=False, exist_ok=True)
    for repo in ("ada/public", "ada/nothing"):
        with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refused:
            server.with_token("azt_wrong").model_info(repo)
        assert status(refused) == 401
        assert not isinstance(refused.value, RepositoryNotFoundError)


def test_a_read_token_does_not_write(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/readable")
    reader = server.api("ada", "read")
    assert reader.model_info("ada/readable")
    for attempt in (
        lambda: reader.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="ada/readable"),
        lambda: reader.create_tag("ada/readable", tag="1.0.0"),
        lambda: reader.create_branch("ada/readable", branch="dev"),
        lambda: reader.create_repo("ada/another"),
        lambda: reader.update_repo_settings("ada/readable", private=False),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            attempt()
        assert status(refused) == 403


def test_a_foreign_token_does_not_write_to_what_it_sees(server: Server) -> None:
    server.api("ada").create_repo("ada/open", private=False)
    bob = server.api("bob", "admin")
    for attempt in (
        lambda: bob.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="ada/open"),
        lambda: bob.create_repo("ada/from-bob"),
        lambda: bob.delete_repo("ada/open"),
        lambda: bob.move_repo("ada/open", "bob/open"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            attempt()
        assert status(refused) == 403


def test_a_token_is_made_listed_and_revoked_by_the_command(server: Server) -> None:
    words = ["create", "--root", str(server.root), "--user", "ada", "--scope", "write", "--namespace", "lab"]
    secret = archzoo("serve", "token", *words).stdout.split()[-1]
    api = server.with_token(secret)
    identity = api.whoami()["auth"]["accessToken"]["displayName"]
    listed = archzoo("serve", "token", "list", "--root", str(server.root)).stdout
    assert identity in listed
    assert secret not in listed
    archzoo("serve", "token", "revoke", identity, "--root", str(server.root))
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        api.whoami()


def test_an_expired_token_is_refused(server: Server) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        server.api("ada", days=0).whoami()


def test_tokens_are_hashed_and_the_servers_files_are_its_own(server: Server) -> None:
    secret = server.token("ada")
    kept = server.root / ".serve" / "tokens.json"
    assert secret not in kept.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0
    assert (kept.parent / "links.key").stat().st_mode & 0o077 == 0


# Files


def test_twenty_megabytes_go_through_lfs_and_come_back(server: Server, tmp_path: Path) -> None:
    api = server.api("ada")
    api.create_repo("ada/large", private=True)
    data = weights(20_000_000)
    api.create_commit(
        "ada/large",
        [add("model.safetensors", data), add("manifest.json", b"{}"), add("deep/er/x.txt", b"x")],
        commit_message="first",
    )
    (info,) = api.get_paths_info("ada/large", ["model.safetensors"])
    assert info.lfs.sha256 == hashlib.sha256(data).hexdigest()
    folder = snapshot_download("ada/large", endpoint=server.url, token=api.token, cache_dir=tmp_path)
    found = files(folder)
    assert found["model.safetensors"] == data
    assert found["deep/er/x.txt"] == b"x"
    stored = (
        server.root / "models/ada/large.git/lfs/objects" / info.lfs.sha256[:2] / info.lfs.sha256[2:4] / info.lfs.sha256
    )
    assert stored.read_bytes() == data


def test_unchanged_files_are_not_committed_again(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/same")
    operations = lambda: [add("a.json", b"{}"), add("w.safetensors", weights(40_000))]  # noqa: E731
    api.create_commit("ada/same", operations(), commit_message="first")
    sha = head(api, "ada/same")
    assert api.create_commit("ada/same", operations(), commit_message="again").oid == sha


def test_copy_delete_and_folders(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/moved")
    api.create_commit(
        "ada/moved",
        [add("a/w.safetensors", weights(40_000)), add("a/x.txt", b"x"), add("b.txt", b"b")],
        commit_message="first",
    )
    api.create_commit(
        "ada/moved",
        [
            CommitOperationCopy("a/w.safetensors", "c/w.safetensors"),
            CommitOperationCopy("b.txt", "c/b.txt"),
            CommitOperationDelete("a/"),
        ],
        commit_message="move",
    )
    assert sorted(api.list_repo_files("ada/moved")) == [".gitattributes", "b.txt", "c/b.txt", "c/w.safetensors"]
    with pytest.raises(EntryNotFoundError):
        api.delete_file("nothing.txt", "ada/moved")


def test_tree_paths_and_last_commits(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/tree")
    first = api.create_commit("ada/tree", [add("a/x.txt", b"x"), add("y.txt", b"y")], commit_message="one").oid
    second = api.create_commit("ada/tree", [add("a/x.txt", b"xx")], commit_message="two").oid
    tree = {item.path: item for item in api.list_repo_tree("ada/tree", recursive=True, expand=True)}
    assert (tree["a"].last_commit.oid, tree["a/x.txt"].last_commit.oid, tree["y.txt"].last_commit.oid) == (
        second,
        second,
        first,
    )
    assert [item.path for item in api.list_repo_tree("ada/tree", path_in_repo="a")] == ["a/x.txt"]
    assert [item.path for item in api.get_paths_info("ada/tree", ["y.txt", "none", "a"])] == ["y.txt", "a"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("ada/tree", path_in_repo="nowhere"))
    titles = [commit.title for commit in api.list_repo_commits("ada/tree")]
    assert titles == ["two", "one", "Initial commit"]
    assert {author for commit in api.list_repo_commits("ada/tree") for author in commit.authors} == {"ada"}


def test_more_than_a_thousand_files_come_in_pages(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/many")
    names = {f"part-{number % 7}/file-{number:04}.txt" for number in range(1100)}
    api.create_commit("ada/many", [add(name, name.encode()) for name in sorted(names)], commit_message="many")
    assert set(api.list_repo_files("ada/many")) == names | {".gitattributes"}
    assert len(list(api.list_repo_tree("ada/many", recursive=True))) == 1100 + 1 + 7


def test_a_card_with_wrong_metadata_is_refused_before_the_upload(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/card")
    with pytest.raises(ValueError, match="alias"):
        api.upload_file(path_or_fileobj=b"---\na: &x [1]\nb: *x\n---\n", path_in_repo="README.md", repo_id="ada/card")
    card = b"---\nlibrary_name: archzoo\ntags: [single-cell, scpoli]\nlicense: mit\n---\n# Kidney\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="ada/card")
    info = api.model_info("ada/card")
    assert info.tags == ["archzoo", "single-cell", "scpoli", "license:mit"]
    assert info.card_data["license"] == "mit"


# Revisions


def test_snapshot_by_tag_branch_commit_and_digest(server: Server, tmp_path: Path) -> None:
    api = server.api("ada")
    api.create_repo("ada/pinned", private=False)
    manifests = [b'{"version": "1.0.0"}', b'{"version": "1.1.0"}']
    commits = [
        api.create_commit("ada/pinned", [add("manifest.json", data)], commit_message="m").oid for data in manifests
    ]
    api.create_tag("ada/pinned", tag="1.0.0", revision=commits[0], tag_message="the first")
    api.create_branch("ada/pinned", branch="dev/old", revision=commits[0])
    digest = hashlib.sha256(manifests[0]).hexdigest()
    for number, revision in enumerate(
        ["1.0.0", "dev/old", commits[0], commits[0][:9], f"sha256:{digest}", f"sha256:{digest[:12]}"]
    ):
        folder = snapshot_download(
            "ada/pinned", revision=revision, endpoint=server.url, token=False, cache_dir=tmp_path / str(number)
        )
        assert files(folder)["manifest.json"] == manifests[0]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("ada/pinned", revision="2.0.0")


def test_tags_and_branches_come_and_go(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/refs")
    sha = head(api, "ada/refs")
    api.create_tag("ada/refs", tag="1.0.0")
    api.create_branch("ada/refs", branch="dev")
    refs = api.list_repo_refs("ada/refs")
    assert {ref.ref: ref.target_commit for ref in refs.branches + refs.tags} == {
        "refs/heads/dev": sha,
        "refs/heads/main": sha,
        "refs/tags/1.0.0": sha,
    }
    for again in (lambda: api.create_tag("ada/refs", tag="1.0.0"), lambda: api.create_branch("ada/refs", branch="dev")):
        with pytest.raises(HfHubHTTPError) as refused:
            again()
        assert status(refused) == 409
    api.create_tag("ada/refs", tag="1.0.0", exist_ok=True)
    api.delete_tag("ada/refs", tag="1.0.0")
    api.delete_branch("ada/refs", branch="dev")
    with pytest.raises(HfHubHTTPError):
        api.delete_branch("ada/refs", branch="main")
    refs = api.list_repo_refs("ada/refs")
    assert [ref.name for ref in refs.branches + refs.tags] == ["main"]
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag("ada/refs", tag="1.0.0")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag("ada/refs", tag="2.0.0", revision="nowhere")


def test_a_stale_parent_is_refused(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/stale")
    parent = head(api, "ada/stale")
    api.create_commit("ada/stale", [add("a.txt", b"a")], commit_message="a", parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_commit("ada/stale", [add("b.txt", b"b")], commit_message="b", parent_commit=parent)
    assert status(refused) == 412
    assert "b.txt" not in api.list_repo_files("ada/stale")


def test_of_eight_racing_writers_one_wins_each_parent(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/raced")
    writers = [server.api("ada") for _ in range(8)]

    def attempt(number: int, parent: str, around: int) -> str | None:
        try:
            return (
                writers[number]
                .create_commit(
                    "ada/raced",
                    [add(f"{around}-{number}.txt", os.urandom(8))],
                    commit_message="mine",
                    parent_commit=parent,
                )
                .oid
            )
        except HfHubHTTPError as error:
            assert error.response.status_code == 412
            return None

    with ThreadPoolExecutor(8) as threads:
        for around in range(5):
            parent = head(api, "ada/raced")
            won = list(threads.map(lambda number: attempt(number, parent, around), range(8)))  # noqa: B023
            assert [sha for sha in won if sha] == [head(api, "ada/raced")]
    assert len(api.list_repo_commits("ada/raced")) == 1 + 5


# Pull requests


def test_a_reader_opens_a_pull_request_and_a_writer_merges_it(server: Server, tmp_path: Path) -> None:
    api, reader = server.api("ada"), server.api("rita", "read")
    api.create_repo("ada/asked", private=False)
    data = weights(2 * MIB, seed=1)
    opened = reader.create_commit("ada/asked", [add("w.safetensors", data)], commit_message="Better", create_pr=True)
    assert (opened.pr_num, opened.pr_revision) == (1, "refs/pr/1")
    reader.create_commit("ada/asked", [add("note.txt", b"why")], commit_message="Why", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError) as refused:
        server.api("bob").create_commit("ada/asked", [add("x", b"x")], commit_message="x", revision="refs/pr/1")
    assert status(refused) == 403
    details = api.get_discussion_details("ada/asked", 1)
    assert (details.author, details.status, details.conflicting_files) == ("rita", "open", [])
    assert "note.txt" in (details.diff or "")
    assert [ref.ref for ref in api.list_repo_refs("ada/asked", include_pull_requests=True).pull_requests] == [
        "refs/pr/1"
    ]
    with pytest.raises(HfHubHTTPError):
        reader.merge_pull_request("ada/asked", 1)
    api.merge_pull_request("ada/asked", 1, comment="thank you")
    merged = api.get_discussion_details("ada/asked", 1)
    assert (merged.status, merged.merge_commit_oid) == ("merged", head(api, "ada/asked"))
    folder = snapshot_download("ada/asked", endpoint=server.url, token=False, cache_dir=tmp_path)
    assert files(folder)["w.safetensors"] == data
    with pytest.raises(HfHubHTTPError):
        api.merge_pull_request("ada/asked", 1)


def test_both_sides_of_a_merge_are_kept_and_conflicts_are_named(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/both")
    api.create_commit("ada/both", [add("a.txt", b"a"), add("b.txt", b"b")], commit_message="base")
    for number, change in enumerate((b"one", b"two"), start=1):
        assert (
            api.create_commit("ada/both", [add("a.txt", change)], commit_message="pr", create_pr=True).pr_num == number
        )
    api.create_commit("ada/both", [add("b.txt", b"changed")], commit_message="meanwhile")
    api.merge_pull_request("ada/both", 1)
    assert api.get_discussion_details("ada/both", 2).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"a\.txt") as refused:
        api.merge_pull_request("ada/both", 2)
    assert status(refused) == 409
    urls = [f"{server.url}/ada/both/resolve/main/{name}" for name in ("a.txt", "b.txt")]
    session = {"Authorization": f"Bearer {api.token}"}
    assert [requests.get(url, headers=session, timeout=10).content for url in urls] == [b"one", b"changed"]


def test_discussions_are_talked_in(server: Server) -> None:
    api, reader = server.api("ada"), server.api("rita", "read")
    api.create_repo("ada/talk", private=False)
    begun = reader.create_discussion("ada/talk", "A question", description="Which genes?")
    said = api.comment_discussion("ada/talk", begun.num, "These.")
    assert api.edit_discussion_comment("ada/talk", begun.num, said.id, "Those.").content == "Those."
    assert api.hide_discussion_comment("ada/talk", begun.num, said.id).hidden
    assert reader.rename_discussion("ada/talk", begun.num, "Answered").new_title == "Answered"
    assert reader.change_discussion_status("ada/talk", begun.num, "closed").new_status == "closed"
    draft = api.create_pull_request("ada/talk", "A draft")
    assert draft.status == "draft"
    with pytest.raises(HfHubHTTPError):
        api.merge_pull_request("ada/talk", draft.num)
    with pytest.raises(HfHubHTTPError):
        server.api("bob").change_discussion_status("ada/talk", begun.num, "open")
    assert [(found.num, found.status) for found in api.get_repo_discussions("ada/talk")] == [
        (2, "draft"),
        (1, "closed"),
    ]
    assert [found.num for found in api.get_repo_discussions("ada/talk", discussion_type="pull_request")] == [2]


# The command line, and the folder hub beside it


def test_the_public_hubs_command_line(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("# A model\n")
    (source / "model.safetensors").write_bytes(weights(3 * MIB))
    variables = environment(
        HF_ENDPOINT=server.url, HF_TOKEN=server.token("ada", "admin"), HF_HOME=str(tmp_path / "home")
    )
    hf = str(Path(sys.executable).with_name("hf"))

    def run(*words: str) -> str:
        done = subprocess.run([hf, *words], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ada" in run("auth", "whoami")
    run("repos", "create", "ada/by-hf", "--private")
    run("upload", "ada/by-hf", str(source), ".", "--commit-message", "by hf")
    run("repos", "tag", "create", "ada/by-hf", "1.0.0")
    run("download", "ada/by-hf", "--revision", "1.0.0", "--local-dir", str(tmp_path / "target"))
    assert (tmp_path / "target" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    run("repos", "delete", "ada/by-hf", "--yes")


def test_what_a_folder_hub_holds_is_served_and_the_other_way_round(tmp_path: Path) -> None:
    with served(tmp_path / "root") as server:
        goes_both_ways(server, tmp_path)


def goes_both_ways(server: Server, tmp_path: Path) -> None:
    folder = releases.release(tmp_path / "release", name="kidney", version="1.0.0")
    Hub(server.root).push(folder, "ada/kidney")
    store = FolderStore(server.root, kind="models")
    pulled = files(store.fetch(store.resolve("ada/kidney"), tmp_path / "pulled"))
    api = server.api("ada")
    got = snapshot_download(
        "ada/kidney", revision="1.0.0", endpoint=server.url, token=api.token, cache_dir=tmp_path / "cache"
    )
    assert {name: data for name, data in files(got).items() if name != ".gitattributes"} == pulled

    api.create_repo("ada/lung")
    names = sorted(releases.contents(folder))
    made = api.create_commit(
        "ada/lung", [add(name, (folder / name).read_bytes()) for name in names], commit_message="by a client"
    )
    told = json.loads(archzoo("info", "ada/lung", "--hub", str(server.root), "--json").stdout)
    assert made.oid in json.dumps(told)
    assert archzoo("cache", "verify", "--hub", str(server.root), check=False).returncode == 0


def test_a_first_release_may_follow_what_a_client_created(server: Server, tmp_path: Path) -> None:
    api = server.api("ada")
    api.create_repo("ada/first")
    folder = releases.release(tmp_path / "release", name="first", version="1.0.0")
    Hub(server.root).push(folder, "ada/first")
    assert "manifest.json" in api.list_repo_files("ada/first", revision="1.0.0")
    assert len(api.list_repo_commits("ada/first")) == 2


def test_the_audit_log_says_who_did_what_and_no_secret(server: Server, tmp_path: Path) -> None:
    secret = server.token("auditor")
    api = server.with_token(secret)
    api.create_repo("auditor/logged")
    api.create_commit("auditor/logged", [add("w.safetensors", weights(MIB))], commit_message="w")
    hf_hub_download("auditor/logged", "w.safetensors", endpoint=server.url, token=secret, cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError):
        server.with_token("azt_wrong").whoami()
    text = (server.root / ".serve" / "audit.jsonl").read_text()
    lines = [line for line in map(json.loads, text.splitlines()) if line.get("user") == "auditor"]
    assert [line["action"] for line in lines if line["action"] != "preupload"] == [
        "create",
        "batch",
        "commit",
        "resolve",
        "resolve",
    ]
    assert secret not in text
    assert "signature" not in text
    assert {"action": "whoami", "status": 401}.items() <= json.loads(text.splitlines()[-1]).items()


def test_bad_requests_are_told_what_was_expected(server: Server) -> None:
    api = server.api("ada")
    api.create_repo("ada/bad")
    with pytest.raises(BadRequestError, match="name"):
        api.create_tag("ada/bad", tag="..")
    with pytest.raises(BadRequestError, match="gated"):
        server.api("ada", "admin").update_repo_settings("ada/bad", gated="auto")

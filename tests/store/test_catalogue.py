"""Names: what each kind means, and that nothing is guessed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.store import catalogue
from hub_client.store.catalogue import Catalogue, Name
from hub_client.store.folder.folder_store import FolderStore
from hub_client.store.folder.plain import BundledStore
from tests.releases import release


@pytest.fixture
def first(tmp_path: Path) -> FolderStore:
    """A hub with two versions of lab/lupus, one of lab/lung and one of lab/pbmc-scpoli."""
    store = FolderStore(tmp_path / "first", kind="models")
    parent = store.commit("lab/lupus", release(tmp_path / "a"), message="", parent=None).commit
    store.commit("lab/lupus", release(tmp_path / "b", version="1.1.0", seed=1), message="", parent=parent)
    store.commit("lab/lung", release(tmp_path / "c", seed=2), message="", parent=None)
    store.commit("lab/pbmc-scpoli", release(tmp_path / "d", version="3.0.0", seed=3), message="", parent=None)
    return store


@pytest.fixture
def zoo(tmp_path: Path) -> BundledStore:
    """A zoo with one version of pbmc-scpoli."""
    release(tmp_path / "zoo" / "pbmc-scpoli" / "1.0.0", seed=4)
    return BundledStore(tmp_path / "zoo")


@pytest.fixture
def both(zoo: BundledStore, first: FolderStore) -> Catalogue:
    return Catalogue([zoo, first], kind="models")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pbmc-scpoli", ("pbmc-scpoli", None)),
        ("my-lab/pbmc.scpoli_2@1.2.0", ("my-lab/pbmc.scpoli_2", "1.2.0")),
        ("a/b@sha256:0123456789ab", ("a/b", "sha256:0123456789ab")),
        ("a@feature/new-genes", ("a", "feature/new-genes")),
        ("a@0123456", ("a", "0123456")),
        ("Lab/Kidney_v2@1.0.0", ("Lab/Kidney_v2", "1.0.0")),
        ("_a", ("_a", None)),
    ],
)
def test_a_name_has_a_repository_and_perhaps_a_revision(text: str, parts: tuple[str, str | None]) -> None:
    assert catalogue.parse(text) == Name(*parts)


BAD_NAMES = [
    "",
    "@1.0.0",
    "a b",
    "a--b",
    "a-",
    "a/b/c",
    "a//b",
    "a/",
    "a..b",
    "-a",
    "a\n",
    "a\0",
    "ä",
    "a:b",
    "a\\b",
    "a" * 97,
]
BAD_REVISIONS = ["", "@b", "..", "x/../y", "/etc", "1.0.0\n", "sha256:123", "sha256:0123456789AB", "a b", "x\0"]


@pytest.mark.parametrize("text", [*BAD_NAMES, "a/" + "b" * 97, *(f"a@{revision}" for revision in BAD_REVISIONS)])
def test_anything_else_is_no_name(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"expected name or owner/name|after @ comes"):
        catalogue.parse(text)


@pytest.mark.parametrize("text", ["hf://org/name", "https://example.org/x", "s3://bucket/x"])
def test_an_address_is_no_name(text: str) -> None:
    with pytest.raises(errors.Unsupported, match="does not reach") as caught:
        catalogue.parse(text)
    assert caught.value.kind == text.split("://")[0] + " hub"


@pytest.mark.parametrize("text", ["lupus", "lab/lupus@1.0.0", "lab/lupus@main"])
def test_a_push_goes_to_an_owner_and_names_no_revision(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="a push goes to owner/name"):
        catalogue.repository(text)
    assert catalogue.repository("lab/lupus") == "lab/lupus"


def test_a_name_is_found_in_whichever_hub_has_it(both: Catalogue, zoo: BundledStore, first: FolderStore) -> None:
    assert both.find("pbmc-scpoli").source is zoo
    assert both.find("lupus").ref == both.find("lab/lupus").ref == first.resolve("lab/lupus", "1.1.0")
    assert both.find("lupus@1.0.0").ref == first.resolve("lab/lupus", "1.0.0")


def test_a_full_name_wins_over_a_last_part(both: Catalogue) -> None:
    assert both.find("pbmc-scpoli").ref.version == "1.0.0"
    assert both.find("lab/pbmc-scpoli").ref.version == "3.0.0"


def test_a_version_that_only_a_namesake_has_is_not_taken_from_there(both: Catalogue) -> None:
    with pytest.raises(errors.NotFound, match=r"its versions are 1\.0\.0.*lab/pbmc-scpoli@3\.0\.0"):
        both.find("pbmc-scpoli@3.0.0")


def test_two_owners_of_one_last_part_are_ambiguous(first: FolderStore, tmp_path: Path) -> None:
    first.commit("other/lung", release(tmp_path / "e", seed=5), message="", parent=None)
    with pytest.raises(errors.NotFound, match="ambiguous") as caught:
        Catalogue([first], kind="models").find("lung")
    assert caught.value.suggestions == ("lab/lung", "other/lung")
    assert Catalogue([first], kind="models").find("other/lung").ref.repo == "other/lung"


def test_one_name_in_two_hubs_is_ambiguous(first: FolderStore, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    two = Catalogue([first, FolderStore(tmp_path / "second", kind="models")], kind="models")
    with pytest.raises(errors.NotFound, match=r"ambiguous.*choose one hub") as caught:
        two.find("lab/lupus")
    assert str(tmp_path / "first") in str(caught.value)
    assert str(tmp_path / "second") in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("lupuss", "lab/lupus"), ("lab/lupis", "lab/lupus"), ("pbmc-scpolli", "pbmc-scpoli"), ("lba/lung", "lab/lung")],
)
def test_close_names_of_all_hubs_are_suggested(both: Catalogue, wrong: str, right: str) -> None:
    with pytest.raises(errors.NotFound, match="Did you mean") as caught:
        both.find(wrong)
    assert right in caught.value.suggestions


def test_a_name_unlike_any_other_gets_no_suggestion(both: Catalogue) -> None:
    with pytest.raises(errors.NotFound) as caught:
        both.find("zebrafish")
    assert caught.value.suggestions == ()


def test_a_path_is_a_release_folder(both: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = release(tmp_path / "mapped", version="1.4.0")
    monkeypatch.chdir(tmp_path)
    for name in (folder, str(folder), "./mapped", "mapped/", "mapped"):
        ref = both.find(name).ref
        assert (ref.repo, ref.version, ref.commit) == ("tiny-scpoli", "1.4.0", ref.digest[:40])
    release(tmp_path / "lupus")
    assert both.find("lupus").ref.repo == "lab/lupus"


def test_a_path_without_a_release_is_said_to_be_none(both: Catalogue, tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "nothing", "./nothing", "../nothing/", "~/nothing-of-this-name"):
        with pytest.raises(errors.NotFound, match=r"holds no manifest\.json"):
            both.find(name)


def test_history_is_found_by_name(both: Catalogue) -> None:
    store, repo, _ = both.store_of("lupus")
    assert [entry.version for entry in store.history(repo)] == ["1.1.0", "1.0.0"]

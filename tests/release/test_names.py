"""One grammar of names, for every hub."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hub_client import errors
from hub_client.manifest import scalars
from hub_client.release import names
from hub_client.serve.repository_names import Place
from hub_client.serve.repository_root import Repositories
from hub_client.store import catalogue
from hub_client.store.folder.folder_store import FolderStore, namesakes
from tests import releases

SLUG = r"[a-z0-9]+(?:[-_.][a-z0-9]+)*"
OLD_FOLDER_HUB = re.compile(f"{SLUG}/{SLUG}")
OLD_SERVED_HUB = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
"""What earlier versions took for the name of a repository, and for each part of one."""

texts = st.text("abAB01-_./", max_size=12) | st.from_regex(r"[\w.-]{1,5}/[\w.-]{1,5}", fullmatch=True)
parts = st.text("aB0-_.", min_size=1, max_size=6) | st.sampled_from(
    ["x.git", "x.LOCK", "con", "Aux.b", "a" * 96, "a" * 97, "é", "..", "a/b", "a\n", "api", "Login", ""]
)


@given(texts)
def test_it_is_the_public_hubs_grammar(text: str) -> None:
    if not text.isascii() or "/" not in text:
        return
    try:
        validate_repo_id(text.removesuffix(".git") if text.endswith(".git") else text)
        theirs = "--" not in text and ".." not in text
    except HFValidationError:
        theirs = False
    if not text.endswith(".git"):
        assert names.is_repository(text) == theirs


@given(st.from_regex(OLD_FOLDER_HUB, fullmatch=True) | st.from_regex(OLD_SERVED_HUB, fullmatch=True))
def test_what_earlier_versions_took_is_still_read(text: str) -> None:
    repo = text if "/" in text else f"lab/{text}"
    assert names.is_repository(repo) or max(map(len, repo.split("/"))) > 96
    if names.is_repository(repo):
        assert catalogue.parse(repo).repo == repo
        assert catalogue.parse(repo.split("/")[1]).repo == repo.split("/")[1]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases.release(tmp_path_factory.mktemp("names") / "release")


@given(owner=parts, name=parts)
@settings(max_examples=60, deadline=None)
def test_a_folder_hub_and_a_served_hub_take_and_list_the_same_names(release: Path, owner: str, name: str) -> None:
    repo = f"{owner}/{name}"
    with TemporaryDirectory() as root:
        folder, served = FolderStore(Path(root), kind="models"), Repositories(Path(root), private=True)
        try:
            ref = folder.commit(repo, release, message="", parent=None)
        except errors.InvalidInput:
            assert folder.repos() == [str(place) for place in served.all("models")] == []
            with pytest.raises(errors.InvalidInput):
                Place.new("models", repo)
            return
        place = Place.new("models", repo)
        assert folder.repos() == [str(place) for place in served.all("models")] == [repo]
        assert served.record(place) is not None
        assert folder.resolve(repo) == ref


def test_names_that_differ_in_case_only_are_one_name(release: Path, tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, kind="models")
    folder.commit("Lab/Kidney_v2", release, message="", parent=None)
    for repo in ("lab/Kidney_v2", "Lab/kidney_v2", "LAB/KIDNEY_V2"):
        with pytest.raises(errors.InvalidInput, match=f"{repo} and Lab/Kidney_v2.*differ in case only"):
            folder.commit(repo, release, message="", parent=None)
        assert namesakes(tmp_path / "models", repo) == {"Lab/Kidney_v2"}
    assert folder.repos() == ["Lab/Kidney_v2"]


def test_a_repository_of_an_older_hub_is_still_pushed_to(release: Path, tmp_path: Path) -> None:
    folder = FolderStore(tmp_path / "hub", kind="models")
    first = folder.commit("lab/lung", release, message="", parent=None)
    (tmp_path / "hub/models/lab/lung.git").rename(tmp_path / "hub/models/lab/lung.git.git")
    assert folder.repos() == ["lab/lung.git"]
    second = releases.release(tmp_path / "second", version="1.1.0", seed=1)
    folder.commit("lab/lung.git", second, message="", parent=first.commit)
    assert [ref.version for ref in folder.releases("lab/lung.git")] == ["1.0.0", "1.1.0"]


@given(st.from_regex(OLD_SERVED_HUB, fullmatch=True))
def test_a_document_is_called_as_format_1_spells_names(part: str) -> None:
    name = names.document_name(f"lab/{part}")
    assert TypeAdapter(scalars.Slug).validate_python(name) == name
    assert names.document_name(f"lab/{name}") == name
    assert names.document_name("Lab/Kidney_v2") == "kidney_v2"


@pytest.mark.parametrize(
    ("pattern", "format_"),
    [(names.SHA256, scalars.Sha256), (names.COMMIT, scalars.Commit), (names.VERSION, scalars.SemVer)],
    ids=["sha256", "commit", "version"],
)
@given(text=st.text("0123456789abcdefA.\n", max_size=66) | st.sampled_from(["a" * 64, "1.2.3", "0" * 40, "1.02.3"]))
def test_hashes_and_versions_are_those_of_the_formats(pattern: re.Pattern[str], format_: object, text: str) -> None:
    try:
        TypeAdapter(format_).validate_python(text)
        taken = True
    except ValidationError:
        taken = False
    assert bool(pattern.fullmatch(text)) == taken


@pytest.mark.parametrize("name", ["manifest.json", "a", "_a-b.c", "a" * 128])
def test_a_file_is_called_plainly(name: str) -> None:
    assert names.is_file(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a.", "a/b", "a\\b", "nul", "COM1.json", "a\n", "é", "a" * 129])
def test_a_file_is_called_so_on_no_system(name: str) -> None:
    assert not names.is_file(name)

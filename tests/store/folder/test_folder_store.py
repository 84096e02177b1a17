"""The folder hub: what is pushed comes back, a version never changes, and trouble is named."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.release import folder as release_folder
from hub_client.release.store import Ref, writable
from hub_client.store.folder import lfs
from hub_client.store.folder.folder_store import FolderStore
from hub_client.store.folder.plain import BundledStore
from tests.releases import contents, release, wide

REPO = "lab/tiny-scpoli"
NOBODY = 65534


@pytest.fixture
def hub(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "hub", kind="models")


@pytest.fixture
def two(hub: FolderStore, tmp_path: Path) -> tuple[Ref, Ref]:
    """Two releases of one repository."""
    first = hub.commit(REPO, release(tmp_path / "first"), message="the first", parent=None)
    folder = release(tmp_path / "second", version="1.1.0", seed=1)
    return first, hub.commit(REPO, folder, message="the second", parent=first.commit)


def test_a_hub_that_does_not_exist_is_empty(hub: FolderStore, tmp_path: Path) -> None:
    assert hub.repos() == []
    with pytest.raises(errors.NotFound):
        hub.resolve(REPO)
    assert not (tmp_path / "hub").exists()


def test_what_is_pushed_comes_back_byte_for_byte(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    for ref, name in zip(two, ("first", "second"), strict=True):
        fetched = hub.fetch(ref, tmp_path / f"{name}-out")
        assert contents(fetched) == contents(tmp_path / name)
        assert release_folder.verify(fetched).digest == ref.digest


def test_a_release_is_found_by_version_branch_tag_commit_and_digest(hub: FolderStore, two: tuple[Ref, Ref]) -> None:
    first, second = two
    named = {None: second, "1.0.0": first, "1.1.0": second, "main": second}
    pinned = {ref.commit[:length]: ref for ref in two for length in (7, 12, 40)}
    digests = {f"sha256:{ref.digest[:length]}": ref for ref in two for length in (12, 64)}
    assert {revision: hub.resolve(REPO, revision) for revision in named | pinned | digests} == named | pinned | digests


def test_the_newest_version_is_the_highest_not_the_latest(hub: FolderStore, tmp_path: Path) -> None:
    parent = None
    for seed, version in enumerate(("1.9.0", "1.10.0", "1.9.1")):
        folder = release(tmp_path / version, version=version, seed=seed)
        parent = hub.commit(REPO, folder, message="", parent=parent).commit
    assert hub.resolve(REPO).version == "1.10.0"
    assert [ref.version for ref in hub.releases(REPO)] == ["1.9.0", "1.9.1", "1.10.0"]
    assert [entry.version for entry in hub.history(REPO)] == ["1.9.1", "1.10.0", "1.9.0"]


def test_history_says_what_and_when(hub: FolderStore, two: tuple[Ref, Ref]) -> None:
    newest, oldest = hub.history(REPO)
    assert (newest.commit, newest.version, newest.digest, newest.message) == (
        *(two[1].commit, "1.1.0", two[1].digest),
        "the second",
    )
    assert oldest.message == "the first"
    assert oldest.date <= newest.date


def test_a_commit_says_nothing_of_who_and_where(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    log = git("log", "--format=%an|%ae|%cn|%ce|%ai", "main", cwd=repository(tmp_path))
    assert {line.rsplit("|", 1)[0] for line in log.splitlines()} == {
        "archzoo|archzoo@localhost" * 1 + "|archzoo|archzoo@localhost"
    }
    assert {line[-5:] for line in log.splitlines()} == {"+0000"}


def test_a_stale_parent_is_refused_and_the_head_named(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    first, second = two
    late = release(tmp_path / "late", version="1.2.0", seed=2)
    for parent in (first.commit, None, "0" * 40):
        with pytest.raises(errors.TransportError, match="Pull again") as caught:
            hub.commit(REPO, late, message="", parent=parent)
        assert caught.value.ref == second
    assert hub.resolve(REPO) == second


def test_a_new_repository_has_no_parent(hub: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(errors.TransportError, match="no releases yet"):
        hub.commit(REPO, release(tmp_path / "first"), message="", parent="0" * 40)
    assert hub.repos() == []


def test_a_version_never_changes(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    other = release(tmp_path / "other", version="1.0.0", seed=7)
    with pytest.raises(errors.TransportError, match="never changes") as caught:
        hub.commit(REPO, other, message="", parent=two[1].commit)
    assert caught.value.ref == two[0]
    assert hub.resolve(REPO, "1.0.0") == two[0]


def test_the_same_bytes_again_change_nothing(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    assert hub.commit(REPO, tmp_path / "first", message="again", parent=None) == two[0]
    assert len(hub.history(REPO)) == 2


def test_the_same_weights_are_stored_once(hub: FolderStore, tmp_path: Path) -> None:
    first = hub.commit(REPO, release(tmp_path / "first"), message="", parent=None)
    hub.commit(REPO, release(tmp_path / "patch", version="1.0.1", title="Better"), message="", parent=first.commit)
    assert len(large_files(tmp_path)) == 1


@pytest.mark.parametrize("fault", ["flipped", "missing", "truncated"])
def test_damaged_weights_are_found_and_repaired_by_the_same_push(
    hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path, fault: str
) -> None:
    weights = next(
        path
        for path in large_files(tmp_path)
        if path.read_bytes() == (tmp_path / "first/model.safetensors").read_bytes()
    )
    damage(weights, fault)
    with pytest.raises(errors.IntegrityError, match="damaged") as caught:
        hub.fetch(two[0], tmp_path / "out")
    assert caught.value.file == "model.safetensors"
    hub.fetch(two[1], tmp_path / "other")
    assert hub.commit(REPO, tmp_path / "first", message="repair", parent=None) == two[0]
    assert contents(hub.fetch(two[0], tmp_path / "repaired")) == contents(tmp_path / "first")


@pytest.mark.parametrize("fault", ["flipped", "missing", "truncated"])
def test_a_damaged_git_object_is_found_and_repaired_by_the_same_push(
    hub: FolderStore, tmp_path: Path, fault: str
) -> None:
    ref = hub.commit(REPO, release(tmp_path / "first"), message="", parent=None)
    blob = git("rev-parse", "main:README.md", cwd=repository(tmp_path)).strip()
    damage(repository(tmp_path) / "objects" / blob[:2] / blob[2:], fault)
    with pytest.raises(errors.IntegrityError, match="damaged"):
        hub.fetch(ref, tmp_path / "out")
    hub.commit(REPO, tmp_path / "first", message="repair", parent=None)
    assert contents(hub.fetch(ref, tmp_path / "repaired")) == contents(tmp_path / "first")


def test_a_tree_with_a_link_or_a_folder_is_not_checked_out(hub: FolderStore, tmp_path: Path) -> None:
    hub.commit(REPO, release(tmp_path / "first"), message="", parent=None)
    clone = tmp_path / "clone"
    git("clone", "-q", str(repository(tmp_path)), str(clone), cwd=tmp_path)
    (clone / "manifest.json").unlink()
    (clone / "manifest.json").symlink_to("/etc/passwd")
    git("add", "-A", cwd=clone)
    git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "link", cwd=clone)
    git("push", "-q", "origin", "main", cwd=clone)
    with pytest.raises(errors.IntegrityError, match="plain file"):
        hub.resolve(REPO, "main")
    assert hub.repos() == [REPO]


def test_git_clones_it_and_sees_pointers(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    git("clone", "-q", str(repository(tmp_path)), "clone", cwd=tmp_path)
    git("fsck", "--strict", cwd=repository(tmp_path))
    clone = contents_of_clone(tmp_path / "clone")
    pushed = contents(tmp_path / "second")
    pointer = lfs.Pointer.parse(clone.pop("model.safetensors"))
    assert pointer.size == len(pushed.pop("model.safetensors"))
    assert clone.pop(".gitattributes").startswith(b"* -text\n")
    assert clone == pushed
    assert git("tag", cwd=tmp_path / "clone").split() == ["1.0.0", "1.1.0"]


def test_git_lfs_gives_identical_bytes(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    if not shutil.which("git-lfs"):
        pytest.skip("needs git-lfs, which is not installed")
    settings = ["-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true"]
    git(*settings, "clone", "-q", str(repository(tmp_path)), "clone", cwd=tmp_path)
    clone = contents_of_clone(tmp_path / "clone")
    clone.pop(".gitattributes")
    assert clone == contents(tmp_path / "second")


def test_files_of_a_megabyte_are_large_but_documents_never_are(tmp_path: Path) -> None:
    sizes = {"notes.txt": lfs.THRESHOLD - 1, "table.csv": lfs.THRESHOLD, "manifest.json": 2 * lfs.THRESHOLD, "a.zip": 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert {name for name in sizes if lfs.is_large(tmp_path / name)} == {"table.csv", "a.zip"}
    assert b"table.csv filter=lfs" in lfs.attributes(["table.csv", "a.zip"])


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "lab/x/y",
        "../x",
        "lab/..",
        "lab/x.",
        "lab/a--b",
        "lab/x\n",
        "lab/é",
        "lab/x.git",
        "lab/con",
        "api/x",
        "",
    ],
)
def test_a_repository_has_an_owner_and_a_plain_name(hub: FolderStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InvalidInput, match="owner/name"):
        hub.commit(name, release(tmp_path / "first"), message="", parent=None)
    with pytest.raises(errors.NotFound):
        hub.resolve(name)
    assert not (tmp_path / "hub").exists()


def test_names_that_begin_alike_are_never_guessed(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    git("branch", two[0].commit[:8], two[1].commit, cwd=repository(tmp_path))
    with pytest.raises(errors.NotFound, match="ambiguous") as caught:
        hub.resolve(REPO, two[0].commit[:8])
    assert set(caught.value.suggestions) == {f"{REPO}@{two[0].commit}", f"{REPO}@{two[0].commit[:8]}"}


def test_an_unknown_revision_is_answered_with_the_versions(hub: FolderStore, two: tuple[Ref, Ref]) -> None:
    for revision in ("2.0.0", "v1.0.0", "0" * 40, "sha256:" + "0" * 64):
        with pytest.raises(errors.NotFound, match=r"its versions are 1\.0\.0, 1\.1\.0"):
            hub.resolve(REPO, revision)


def test_a_read_only_hub_can_be_read_and_says_why_it_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        hub = FolderStore(place / "hub", kind="models")
        ref = hub.commit(REPO, release(place / "first"), message="", parent=None)
        folder = release(place / "second", version="1.1.0", seed=1)
        with read_only(place / "hub"):
            (place / "out").mkdir(mode=0o777)
            for repo, parent in ((REPO, ref.commit), ("lab/new", None), ("other/new", None)):
                with pytest.raises(errors.TransportError, match="read-only"):
                    hub.commit(repo, folder, message="", parent=parent)
            assert hub.resolve(REPO) == ref
            assert contents(hub.fetch(ref, Path(tempfile.mkdtemp()) / "out")) == contents(place / "first")
        assert hub.commit(REPO, folder, message="", parent=ref.commit).version == "1.1.0"


def test_a_full_disk_is_named_and_leaves_no_debris(hub: FolderStore, two: tuple[Ref, Ref], tmp_path: Path) -> None:
    big = wide(tmp_path / "big", units=50_000, version="1.2.0")
    before = sorted(path for path in (tmp_path / "hub").rglob("*") if path.is_file())
    with largest_file(400_000), pytest.raises(errors.TransportError, match="no room left"):
        hub.commit(REPO, big, message="", parent=two[1].commit)
    assert sorted(path for path in (tmp_path / "hub").rglob("*") if path.is_file()) == before
    assert hub.resolve(REPO) == two[1]
    assert hub.commit(REPO, big, message="", parent=two[1].commit).version == "1.2.0"


def test_a_hub_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hub = FolderStore(tmp_path / "file", kind="models")
    with pytest.raises(errors.TransportError, match="cannot be written"):
        hub.commit(REPO, release(tmp_path / "first"), message="", parent=None)


def test_the_bundled_zoo_is_read_only_and_pins_by_digest(tmp_path: Path) -> None:
    for seed, version in enumerate(("1.0.0", "1.0.1")):
        release(tmp_path / "zoo" / "tiny-scpoli" / version, version=version, seed=seed)
    (tmp_path / "zoo" / "tiny-scpoli" / "notes").mkdir()
    zoo = BundledStore(tmp_path / "zoo")
    first, second = zoo.releases("tiny-scpoli")
    assert zoo.repos() == ["tiny-scpoli"]
    assert zoo.resolve("tiny-scpoli") == second
    assert (
        zoo.resolve("tiny-scpoli", first.commit) == zoo.resolve("tiny-scpoli", f"sha256:{first.digest[:12]}") == first
    )
    assert first.commit == first.digest[:40]
    assert release_folder.verify(zoo.fetch(second, tmp_path / "out")).version == "1.0.1"
    with zoo.opened(first) as folder:
        assert release_folder.verify(folder).version == "1.0.0"
    assert [entry.version for entry in zoo.history("tiny-scpoli")] == ["1.0.1", "1.0.0"]
    with pytest.raises(errors.TransportError, match="read-only"):
        writable(zoo, "lab/tiny-scpoli")
    with pytest.raises(errors.NotFound):
        zoo.resolve("tiny")


def repository(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models" / f"{REPO}.git"


def large_files(tmp_path: Path) -> list[Path]:
    return [path for path in (repository(tmp_path) / "lfs" / "objects").rglob("*") if path.is_file()]


def git(*arguments: str, cwd: Path) -> str:
    alone = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": str(cwd)}  # git-lfs, where it is installed, is not asked unless named
    environment = {"PATH": os.environ["PATH"], "GIT_LFS_SKIP_SMUDGE": "0", **alone}
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def contents_of_clone(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def damage(path: Path, fault: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.unlink() if fault == "missing" else path.write_bytes(data if fault == "flipped" else data[:-9])


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the right to write, from root too: it becomes nobody for the while."""
    paths = [folder.parent, folder, *folder.rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222 | (0o555 if path.is_dir() else 0o444))
    folder.parent.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

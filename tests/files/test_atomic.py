"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.files import atomic


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "release"
    place.mkdir()
    (place / "manifest.json").write_text("{}")
    return place


def test_a_plain_swap_does_where_the_system_has_none(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    atomic.renamed_thrice(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "name").read_text() for name in "ab"] == ["b", "a"]
    atomic.exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "name").read_text() for name in "ab"] == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_what_a_killed_writer_left_is_swept_and_a_live_writers_is_not(folder: Path) -> None:
    dead = folder.with_name(f".{folder.name}.{'0' * 32}.tmp")
    dead.mkdir()
    (dead / "model.safetensors").write_bytes(b"half")
    os.utime(dead, (0, 0))
    with atomic.staged(folder) as stage:
        assert not dead.exists()
        with atomic.staged(folder):
            assert stage.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs a system call that swaps two folders")
def test_a_folder_that_is_being_replaced_is_there_at_every_moment(folder: Path) -> None:
    other = shutil.copytree(folder, folder.with_name("other"))
    stop = threading.Event()
    absent = 0

    def watch() -> None:
        nonlocal absent
        while not stop.is_set():
            absent += not folder.exists()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5000):
        atomic.exchange(other, folder)
    stop.set()
    watcher.join()
    assert absent == 0


def test_a_stage_of_a_file_is_swept_as_one_of_a_folder_is(tmp_path: Path) -> None:
    dead, file = tmp_path / f".kidney.tar.{'0' * 32}.tmp", tmp_path / "kidney.tar"
    dead.write_bytes(b"half")
    os.utime(dead, (0, 0))
    with atomic.staged_file(file) as stage:
        stage.write_bytes(b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"kidney.tar"}
    assert file.read_bytes() == b"whole"


def test_a_block_that_fails_leaves_what_was_there(folder: Path) -> None:
    for writer, path in ((atomic.staged, folder), (atomic.staged_file, folder / "manifest.json")):
        with pytest.raises(ZeroDivisionError), writer(path):
            raise ZeroDivisionError
    assert [path.name for path in folder.parent.rglob("*")] == ["release", "manifest.json"]


def test_what_is_the_owners_alone_is_so_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"older")

    def pieces() -> Iterator[bytes]:
        (staged,) = (other for other in tmp_path.iterdir() if other != path)
        assert stat.S_IMODE(staged.stat().st_mode) == atomic.OWNER_ONLY
        yield b"secret"

    atomic.publish(atomic.stage(pieces(), staging=tmp_path, mode=atomic.OWNER_ONLY), path)
    atomic.write(path, b"newer", mode=atomic.OWNER_ONLY)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"newer", atomic.OWNER_ONLY)


def test_a_new_file_follows_no_link_and_a_failed_one_is_gone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        atomic.create(tmp_path / "link", [b"content"])
    with pytest.raises(ZeroDivisionError):
        atomic.create(tmp_path / "new", (bytes(1 // zero) for zero in (1, 0)))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_refusal_of_the_system_states_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(errors.TransportError, match=r"cannot be written .*choose another place"),
        atomic.staged(tmp_path / "file" / "release"),
    ):
        pass

"""Two writers at once, and writers killed with SIGKILL at every step of a push."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from hub_client.errors import TransportError
from hub_client.files import locks
from hub_client.release import folder as release_folder
from hub_client.store.folder.folder_store import FolderStore
from tests.pipeline import kills
from tests.pushers import answer, order, pusher
from tests.releases import release, wide

pytestmark = pytest.mark.slow

REPO = "lab/tiny-scpoli"


@pytest.fixture
def hub(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "hub", kind="models")


def sound(hub: FolderStore, folder: Path, *, newest: int = 2) -> set[str]:
    """Read what the hub shows, every hash of the newest releases checked, and return its commits."""
    if REPO not in hub.repos():
        return set()
    releases, entries = hub.releases(REPO), hub.history(REPO)
    for ref in releases[-newest:]:
        fetched = hub.fetch(ref, folder / f"{ref.version}-{time.monotonic_ns()}")
        assert release_folder.verify(fetched).version == ref.version
    assert [entry.version for entry in entries] == [ref.version for ref in reversed(releases)]
    return {entry.commit for entry in entries}


def test_of_two_pushes_at_once_exactly_one_wins(hub: FolderStore, tmp_path: Path) -> None:
    with pusher(tmp_path / "hub") as one, pusher(tmp_path / "hub") as other:
        parent = None
        for number in range(12):
            left = release(tmp_path / f"left-{number}", version=f"1.{number}.0", seed=2 * number)
            right = release(tmp_path / f"right-{number}", version=f"1.{number}.0", seed=2 * number + 1)
            order(one, repo=REPO, folder=str(left), parent=parent)
            order(other, repo=REPO, folder=str(right), parent=parent)
            answers = [answer(one), answer(other)]
            (won,) = [said["commit"] for said in answers if "commit" in said]
            (lost,) = [said for said in answers if "refused" in said]
            assert lost["head"] == won
            assert "Pull again" in lost["refused"]
            parent = won
    assert len(sound(hub, tmp_path / "out", newest=12)) == 12


def test_a_push_killed_before_any_of_its_steps_leaves_the_hub_whole(hub: FolderStore, tmp_path: Path) -> None:
    with pusher(tmp_path / "hub") as process:
        order(process, repo=REPO, folder=str(release(tmp_path / "first")), parent=None)
        first = answer(process)["commit"]
        order(process, repo=REPO, folder=str(release(tmp_path / "second", version="1.1.0", seed=1)), parent=first)
        second = answer(process)
        acknowledged, steps = [first, second["commit"]], second["steps"]
        for step in range(steps):
            version = f"1.{len(acknowledged)}.0"
            folder = release(tmp_path / f"killed-{step}", version=version, seed=10 + step)
            order(process, repo=REPO, folder=str(folder), parent=acknowledged[-1], kill_at=step)
            assert answer(process) == {"killed": signal.SIGKILL}
            shown = sound(hub, tmp_path / "out")
            assert shown >= set(acknowledged)
            again = hub.commit(REPO, folder, message="again", parent=acknowledged[-1])
            assert hub.resolve(REPO, version) == again == hub.resolve(REPO)
            assert shown <= {*acknowledged, again.commit}
            acknowledged.append(again.commit)
    assert steps > 20
    assert sound(hub, tmp_path / "out", newest=len(acknowledged)) == set(acknowledged)
    assert not list((tmp_path / "hub").rglob("lfs/tmp/*")) + list((tmp_path / "hub").rglob("refs/**/*.lock"))


def test_the_first_push_killed_before_any_of_its_steps_can_be_repeated(tmp_path: Path) -> None:
    folder = release(tmp_path / "release")
    with pusher(tmp_path / "hub") as process:
        for repo in ("lab/warm", "lab/counted"):  # the first push also imports
            order(process, repo=repo, folder=str(folder), parent=None)
            steps = answer(process)["steps"]
        for step in range(steps):
            hub, repo = FolderStore(tmp_path / "hub", kind="models"), f"lab/killed-{step}"
            order(process, repo=repo, folder=str(folder), parent=None, kill_at=step)
            assert answer(process) == {"killed": signal.SIGKILL}
            shown = hub.releases(repo) if repo in hub.repos() else []
            ref = hub.commit(repo, folder, message="again", parent=None)
            assert hub.releases(repo) == [ref]
            assert shown in ([], [ref])
            release_folder.verify(hub.fetch(ref, tmp_path / f"out-{step}"))


def pushed(hub: Path, folder: Path, parent: str | None) -> str:
    return FolderStore(hub, kind="models").commit(REPO, folder, message="by a writer", parent=parent).commit


def test_pushes_killed_at_random_moments_lose_nothing_that_was_acknowledged(hub: FolderStore, tmp_path: Path) -> None:
    begun = time.monotonic()
    first = kills.Child(partial(pushed, tmp_path / "hub", wide(tmp_path / "first", units=60_000), None))
    acknowledged, duration = [first.wait()[0]], time.monotonic() - begun
    chance = random.Random(0)
    for number in range(1, 26):
        folder = wide(tmp_path / f"release-{number}", units=60_000, version=f"1.{number}.0", seed=number)
        head = hub.history(REPO)[0].commit
        doomed = kills.Child(partial(pushed, tmp_path / "hub", folder, head))
        time.sleep(chance.uniform(0, 2 * duration))
        doomed.kill()
        said, _ = doomed.wait()
        if said:
            acknowledged.append(said)
        duration *= 1 / 1.3 if said else 1.3  # the first push found cold files, or a machine slower than now
        assert sound(hub, tmp_path / "out") >= set(acknowledged)
    assert len(acknowledged) < 26, "no push was killed: the test shows nothing"
    last = wide(tmp_path / "last", units=60_000, version="2.0.0", seed=99)
    ref = hub.commit(REPO, last, message="after all", parent=hub.history(REPO)[0].commit)
    assert sound(hub, tmp_path / "out", newest=27) >= {*acknowledged, ref.commit}


@pytest.mark.parametrize("size", range(20, 640, 40))
def test_a_disk_that_fills_during_a_push_loses_nothing(tmp_path: Path, size: int) -> None:
    folders = [wide(tmp_path / f"release-{n}", units=10_000, version=f"1.{n}.0", seed=n) for n in range(2)]
    with disk(tmp_path / "disk", kilobytes=size) as place:
        hub, pushed = FolderStore(place / "hub", kind="models"), []
        for folder in folders:
            try:
                pushed.append(hub.commit(REPO, folder, message="", parent=pushed[-1].commit if pushed else None))
            except TransportError as error:
                assert "no room left" in str(error)
        assert hub.repos() == ([REPO] if pushed else [])
        assert len(sound(hub, tmp_path / "out")) == len(pushed)
        mount("-o", "remount,size=4m", str(place))
        for folder in folders:
            head = hub.history(REPO)[0].commit if hub.repos() else None
            hub.commit(REPO, folder, message="", parent=head)
        assert len(sound(hub, tmp_path / "after")) == 2


@contextmanager
def disk(place: Path, *, kilobytes: int) -> Iterator[Path]:
    """Give a small file system of its own, where this process may mount one."""
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)):
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def mount(*arguments: str) -> bool:
    return bool(shutil.which("mount")) and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def test_a_writer_that_holds_the_lock_is_waited_for_only_so_long(tmp_path: Path) -> None:
    impatient = FolderStore(tmp_path / "hub", kind="models", timeout=0.1)
    folder = release(tmp_path / "release")
    lock = tmp_path / "hub" / "models" / "lab" / "tiny-scpoli.lock"
    with locks.writer(lock, timeout=1), pytest.raises(TransportError, match="another push has held"):
        impatient.commit(REPO, folder, message="", parent=None)
    assert impatient.commit(REPO, folder, message="", parent=None)


def test_processes_killed_at_random_moments_lose_nothing_over_the_network(tmp_path: Path) -> None:
    figures = kills.run(tmp_path, rounds=10)
    assert figures.killed_pushes > 0
    assert figures.killed_servers == 1

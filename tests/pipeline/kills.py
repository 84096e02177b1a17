"""SIGKILL at random moments of pushes, of pulls and of the hub itself, with two writers on one repository.

``python -m tests.pipeline.kills 200`` runs 200 rounds against ``archzoo serve`` and prints what happened. In every
round two processes push to the same repository, following the same commit, and a third pulls 20 MB; one of the pushers
and the puller are killed at random moments, and in every tenth round the server is killed in their place. After each
round the hub must show every commit that was acknowledged, in one line, and pulls must give files that are intact,
going on from what the killed one left.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hub_client import errors
from hub_client.release import folder as release_folder
from hub_client.release.store import Ref
from hub_client.store.cache import prune
from hub_client.store.cache.downloads import Cache
from hub_client.store.network.huggingface import HuggingFaceWire
from hub_client.store.network.remote import WritableRemoteStore
from tests import served
from tests.releases import wide

REPO = "lab/kills"
UNITS = 60_000
"""Hidden units of the models that are pushed: about a megabyte of weights."""
LARGE = "lab/large"
LARGE_UNITS = 1_250_000
"""Hidden units of the model that is pulled: 20 MB."""


@dataclass
class Figures:
    """What happened, in all rounds."""

    rounds: int = 0
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    killed_pushes: int = 0
    killed_pulls: int = 0
    killed_servers: int = 0
    unacknowledged: int = 0
    resumed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds: {self.killed_pushes} pushes, {self.killed_pulls} pulls and {self.killed_servers} "
            f"servers killed; {len(self.acknowledged)} pushes acknowledged and none of them lost, {self.refused} "
            f"refused, {self.unacknowledged} released before they could say so; {self.resumed} pulls went on from what "
            "a killed one had left; every file intact"
        )


class Child:
    """A forked process that does one thing, and says how it went unless it is killed."""

    def __init__(self, work: Callable[[], str]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            try:
                said = work()
            except errors.HubClientError as error:
                said = f"refused {type(error).__name__}"
            os.write(write, said.encode())
            os._exit(0)
        os.close(write)
        self._read = read

    def ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> tuple[str, bool]:
        """Return what it said, and whether it was killed."""
        with open(self._read, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
            said = pipe.read().decode()
        return said, os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])


@dataclass
class Arena:
    """A hub that is served, and folders for its users."""

    place: Path
    server: served.Server
    token: str

    def store(self, cache: str) -> WritableRemoteStore:
        wire = HuggingFaceWire(self.server.url, kind="models", token=self.token)
        return WritableRemoteStore(wire, kind="models", cache=Cache(self.place / cache))

    def push(self, folder: Path, parent: str | None, cache: str) -> Callable[[], str]:
        return lambda: self.store(cache).commit(REPO, folder, message="by a writer", parent=parent).commit

    def pull(self, ref: Ref, out: Path) -> Callable[[], str]:
        return lambda: str(self.store("puller").fetch(ref, out))

    def restart(self) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.server.process.stdout.close()
        self.server = served.start(self.place / "root")


def run(place: Path, *, rounds: int, seed: int = 0) -> Figures:
    """Run so many rounds and return what happened; AssertionError at the first thing that is wrong."""
    arena = Arena(place, served.start(place / "root"), "")
    arena.token = arena.server.token("writer", "write", "lab")
    figures, chance = Figures(), random.Random(seed)
    try:
        large = arena.store("other").commit(
            LARGE, wide(place / "large", units=LARGE_UNITS), message="large", parent=None
        )
        push = _timed(lambda: figures.acknowledged.append(_first(arena)))
        for number in range(1, rounds + 1):
            _round(arena, figures, chance, number=number, push=push, large=large)
    finally:
        arena.server.process.terminate()
        arena.server.process.wait()
        arena.server.process.stdout.close()
    return figures


def _first(arena: Arena) -> str:
    return arena.push(wide(arena.place / "first", units=UNITS), None, "other")()


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _round(arena: Arena, figures: Figures, chance: random.Random, *, number: int, push: float, large: Ref) -> None:
    head = arena.store("checker").resolve(REPO)
    version = f"1.{number}.0"
    folders = [wide(arena.place / f"{number}-{i}", units=UNITS, version=version, seed=2 * number + i) for i in (0, 1)]
    for blob in (arena.place / "puller/blobs").glob("*/" + "?" * 64):
        blob.unlink()
    doomed = Child(arena.push(folders[0], head.commit, "doomed"))
    other = Child(arena.push(folders[1], head.commit, "other"))
    puller = Child(arena.pull(large, arena.place / f"pulled-{number}"))
    if number % 10 == 0:
        time.sleep(chance.uniform(0, push))
        arena.restart()
        figures.killed_servers += 1
    else:
        _kill(arena, chance, doomed, puller, push=push)
    _count(figures, [child.wait() for child in (doomed, other, puller)])
    _check(arena, figures, large)
    for folder in (*folders, arena.place / f"pulled-{number}", arena.place / "checked"):
        shutil.rmtree(folder, ignore_errors=True)


def _kill(arena: Arena, chance: random.Random, pusher: Child, puller: Child, *, push: float) -> None:
    """Kill one process at a random moment of the time that it takes, the other at a random byte of its download."""
    moment, byte = time.monotonic() + chance.uniform(0, push), chance.uniform(0, LARGE_UNITS * 16)
    alive = {pusher, puller}
    while alive:
        due = {pusher: time.monotonic() >= moment, puller: _received(arena) >= byte or puller.ended()}
        for child in [child for child in alive if due[child]]:
            child.kill()
            alive.remove(child)
        time.sleep(0.0005)


def _received(arena: Arena) -> int:
    """Return how much of a download has come."""
    return max((part.stat().st_size for part in (arena.place / "puller/blobs").glob("*/*.part")), default=0)


def _count(figures: Figures, outcomes: list[tuple[str, bool]]) -> None:
    figures.rounds += 1
    (_, killed_push), _, (_, killed_pull) = outcomes
    figures.killed_pushes += killed_push
    figures.killed_pulls += killed_pull
    for said, _ in outcomes[:2]:
        if said.startswith("refused"):
            figures.refused += 1
        elif said:
            figures.acknowledged.append(said)


def _check(arena: Arena, figures: Figures, large: Ref) -> None:
    entries = arena.store("checker").history(REPO)
    shown = {entry.commit for entry in entries}
    assert shown >= set(figures.acknowledged), "an acknowledged push is lost"
    assert len({entry.version for entry in entries}) == len(entries), "a version was released twice"
    figures.unacknowledged = len(shown) - len(figures.acknowledged)
    figures.resumed += _received(arena) > 0
    head = arena.store("checker").resolve(REPO)
    for cache, ref in {"checker": head, "puller": large}.items():
        found = arena.store(cache).fetch(ref, arena.place / "checked" / cache)
        assert release_folder.verify(found).digest == ref.digest
    for cache in ("checker", "puller", "doomed", "other"):
        broken = [path for path, fault in prune.damaged(Cache(arena.place / cache)) if fault]
        assert not broken, f"the cache of {cache} is damaged: {broken}"


if __name__ == "__main__":
    os.environ["ARCHZOO_CONFIG"] = os.devnull
    with tempfile.TemporaryDirectory(prefix="archzoo-kills-") as folder:
        print(run(Path(folder), rounds=int(sys.argv[1])))

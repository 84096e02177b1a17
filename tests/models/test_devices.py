"""Training on several devices: two processes do what one does with the same whole minibatch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose

from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.model import Model
from tests.models.two_processes import MANIFESTS, reports

ROOT = Path(__file__).parents[2]
SCRIPT = "tests/models/two_processes.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

pytestmark = pytest.mark.slow


def run(folder: Path, *names: str, launcher: tuple[str, ...] = ()) -> str:
    """Run the script on two devices and return what it showed."""
    command = [sys.executable, *launcher, SCRIPT, str(folder), "2", *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    (folder / "shown").write_text(run(folder, *MANIFESTS))
    return folder


def reported(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found


def test_every_kind_is_trained() -> None:
    assert set(MANIFESTS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_two_processes_lose_what_one_loses(kind: str, two: Path) -> None:
    """Of the reference, and of a query after surgery; with dropout, of genes too, batch normalisation, and losses that
    join cells."""
    for alone, together in zip(reports(kind, devices=1), reported(two, 0)[kind], strict=True):
        assert (together["best"], together["stopped"]) == (alone["best"], alone["stopped"])
        assert together["epochs"].keys() == alone["epochs"].keys()
        for name, losses in alone["epochs"].items():
            assert_allclose(together["epochs"][name], losses, rtol=1e-4, atol=1e-6, err_msg=name)
        for name, total in alone["tensors"].items():
            assert_allclose(together["tensors"][name], total, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_query_stops_early(two: Path) -> None:
    """In all processes after the same epoch, long before the last."""
    for rank in (0, 1):
        assert {query["stopped"] for _, query in reported(two, rank).values()} == {"early stopping"}


def test_processes_agree_to_the_bit(two: Path) -> None:
    assert reported(two, 0) == reported(two, 1)


def test_one_process_shows_progress_and_writes(two: Path) -> None:
    shown = (two / "shown").read_text()
    assert shown.count("6/6") == len(MANIFESTS)
    assert Model.load(two / "model").manifest.architecture.kind == "trvae"


def test_torchrun(two: Path, tmp_path: Path) -> None:
    run(tmp_path, "scpoli", launcher=TORCHRUN)
    assert reported(tmp_path, 0)["scpoli"] == reported(two, 0)["scpoli"]

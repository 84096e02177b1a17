"""PyTorch keeps its number of threads, whatever numba does to OpenMP's, and its threads sleep while they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PANEL = """
import numpy, anndata, scipy.sparse, torch
from hub_client.build.panel import METHODS, select_panel
from hub_client.manifest.recipe import Panel
counts = numpy.random.default_rng(0).poisson(1.0, (300, 200)).astype(numpy.float32)
adata = anndata.AnnData(scipy.sparse.csr_matrix(counts))
{call}
print(torch.get_num_threads())
"""
CALLS = {
    "ours": "select_panel(adata, Panel(size=20), batches=numpy.zeros(300, int))",
    "scanpy's": "METHODS['pearson_residuals'](adata)",
}


def threads_after(call: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp"}
    code = PANEL.format(call=call)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_panel_leaves_the_number_of_threads() -> None:
    """The second line shows that there is something to keep."""
    assert threads_after(CALLS["ours"]) == "1"
    assert threads_after(CALLS["scanpy's"]) == "2"


POLICY = "import hub_client, os; print(os.environ['OMP_WAIT_POLICY'])"


def policy(**given: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", POLICY], cwd=ROOT, env=inherited | given, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_waiting_threads_sleep_unless_somebody_says_otherwise() -> None:
    assert policy() == "PASSIVE"
    assert policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"

"""Memory: a large sparse query takes its own size and a minibatch, never that of a dense matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse

from hub_client.models.model import Model
from tests import simulated

ROOT = Path(__file__).parents[2]
CELLS, GENES, EACH = 60_000, 2_000, 100
"""EACH of the genes are not zero in a cell."""
DENSE = CELLS * GENES * 4 / 2**20
"""MiB of the counts as a dense float32 matrix."""
BESIDE = 120
"""MiB that verbs after alignment may add: a minibatch, and the first layer's product of every cell, 15."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, and a query in several forms."""
    folder, x = tmp_path_factory.mktemp("memory"), counts()
    names = [f"g{number}" for number in range(GENES)]
    genes = {"id_type": "symbol", "panel": [{"symbol": name} for name in names]}
    Model.build(simulated.manifest(hidden=(64,), latent=10).changed(genes=genes)).save(folder / "model")
    obs = pd.DataFrame({"batch": np.resize(["q0", "q1"], CELLS)}, index=[f"cell{number}" for number in range(CELLS)])
    query = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
    query[:500].copy().write_h5ad(folder / "small.h5ad")
    query.write_h5ad(folder / "csr.h5ad")
    query.write_zarr(folder / "csr.zarr")
    query.X = x.tocsc()
    query.write_h5ad(folder / "csc.h5ad")
    return folder


def counts() -> sparse.csr_matrix:
    generator = np.random.default_rng(0)
    columns = np.tile(np.concatenate([chosen(generator) for _ in range(1000)]), CELLS // 1000)
    values = 1 + generator.poisson(1.0, len(columns)).astype(np.float32)
    return sparse.csr_matrix((values, columns, np.arange(CELLS + 1) * EACH), shape=(CELLS, GENES))


def chosen(generator: np.random.Generator) -> NDArray[np.int32]:
    return np.sort(generator.choice(GENES, EACH, replace=False, shuffle=False)).astype(np.int32)


@pytest.mark.parametrize(("name", "how"), [("csr.h5ad", "backed"), ("csr.zarr", "path"), ("csc.h5ad", "path")])
def test_alignment_takes_twice_what_it_returns(folder: Path, name: str, how: str) -> None:
    grown = measured(folder, name, how, "align")
    assert grown["cells"] == pytest.approx(DENSE / 10, rel=0.02)
    assert grown["align"] < 3 * grown["cells"]
    assert grown["dense"] > 0.5 * DENSE, "a dense matrix would not have been noticed"


def test_mapping_takes_a_minibatch_besides(folder: Path) -> None:
    grown = measured(folder, "csr.h5ad", "memory", "map")
    assert grown["align"] < 3 * grown["cells"]
    for verb in ("surgery", "train", "predict"):
        assert grown[verb] < BESIDE, verb
    assert grown["map_query"] < grown["cells"] + BESIDE


def measured(folder: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, str(ROOT / "tests" / "memory.py"), str(folder), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found

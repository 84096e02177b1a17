"""Time the training of scVI here against scvi-tools' own ``train()``, on the same cells and network.

    python benchmarks/scvi_training.py [--cells 20000] [--genes 2000] [--rounds 5] [--likelihood zinb]

Both sides train one epoch at a time in the same process and take turns; the figure is the median of the paired ratios
of cells per second, with its extremes. Counts are simulated, one in ten not zero. scvi-tools reads them from memory as
a CSR, with its defaults: minibatches of 128, nine tenths of the cells.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from hub_client import align, from_scvi
from hub_client.manifest.plan import Plan
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.model import Model
from hub_client.models.train import train

BATCHES = 4


def simulated(cells: int, genes: int, *, seed: int) -> anndata.AnnData:
    """Return cells of four batches; about one count in ten is not zero."""
    generator = np.random.default_rng(seed)
    rate = generator.gamma(0.12, 2.0, genes)
    depth = generator.uniform(0.5, 1.5, cells)
    rows = [sparse.csr_matrix(generator.poisson(depth[i : i + 1000, None] * rate)) for i in range(0, cells, 1000)]
    adata = anndata.AnnData(sparse.vstack(rows).tocsr().astype(np.float32))
    adata.obs["batch"] = generator.choice([f"batch {number}" for number in range(BATCHES)], cells)
    return adata


def theirs(adata: anndata.AnnData, **parameters: Any) -> Any:
    """Return scvi-tools' model of the cells, trained for an epoch so that nothing is left to set up."""
    models = scvi_tools().model
    models.SCVI.setup_anndata(adata, batch_key="batch")
    model = models.SCVI(adata, **parameters)
    their_epoch(model)()
    return model


def their_epoch(model: Any) -> Callable[[], object]:
    """Return what trains scvi-tools' model for an epoch."""
    calm = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "accelerator": "cpu"}
    return lambda: model.train(max_epochs=1, **calm)


def our_epoch(model: Model, adata: anndata.AnnData) -> Callable[[], object]:
    """Return what trains our model for an epoch: 128 cells at a time, nine tenths of them, as scvi-tools does."""
    cells = align(adata, model)
    plan = Plan(epochs=1, kl_anneal_epochs=400, early_stopping=False, keep_best=False)
    return lambda: train(model, cells, plan=plan, progress=False, accelerator="cpu")


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--likelihood", default="zinb")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(arguments.seed)
    adata = simulated(arguments.cells, arguments.genes, seed=arguments.seed)
    model = theirs(adata, gene_likelihood=arguments.likelihood)
    sides = {"scvi-tools": their_epoch(model), "archzoo": our_epoch(from_scvi(model, name="timed"), adata)}
    trained = 0.9 * arguments.cells
    rounds = [{name: trained / seconds(call) for name, call in sides.items()} for _ in range(arguments.rounds)]
    ratios = sorted(row["archzoo"] / row["scvi-tools"] for row in rounds)
    table = Table("round", "scvi-tools, cells/s", "archzoo, cells/s", "ratio")
    for number, row in enumerate(rounds):
        table.add_row(
            str(number), *(f"{row[name]:,.0f}" for name in sides), f"{row['archzoo'] / row['scvi-tools']:.2f}"
        )
    console = Console()
    console.print(table)
    console.print(f"median ratio {np.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    console.print(f"PyTorch {torch.__version__}, threads {torch.get_num_threads()}")


if __name__ == "__main__":
    main()

"""Run scArches' scPoli in the interpreter that has scArches 0.6.1, for benchmarks/label_transfer.py.

    python benchmarks/label_transfer_scarches.py FOLDER SEED EPOCHS

Reads ``reference.h5ad`` and each ``query.NAME.h5ad`` in the folder, and writes ``NAME.npz`` there for each query.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.label_transfer_methods import scpoli, write_labelled
from benchmarks.latents_methods import one_thread


def main() -> None:
    logging.disable(logging.WARNING)  # of models that are not run
    warnings.simplefilter("ignore")
    from scarches.models.scpoli import scPoli

    folder, seed, epochs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    one_thread()
    torch.manual_seed(seed)  # scArches seeds what comes after the weights
    np.random.seed(seed)
    reference = anndata.read_h5ad(folder / "reference.h5ad")
    queries = {path.name[len("query.") : -len(".h5ad")]: anndata.read_h5ad(path) for path in folder.glob("query.*")}
    for found in scpoli(SimpleNamespace(scPoli=scPoli), reference, queries, seed, epochs=epochs):
        write_labelled(folder / f"{found.part}.npz", found)


if __name__ == "__main__":
    main()

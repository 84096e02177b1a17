"""Run one of scArches' tutorials in the interpreter that has scArches 0.6.1, for benchmarks/latents.py.

    python benchmarks/latents_scarches.py FOLDER scpoli EPOCHS SEED

Reads ``reference.h5ad`` and each ``query.NAME.h5ad`` in the folder, and writes an ``.npz`` there for each query, before
and after training on it.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# what runs is the same as with this library's classes
from benchmarks.latents_methods import TUTORIALS, one_thread


def main() -> None:
    logging.disable(logging.WARNING)  # of models that are not run
    warnings.simplefilter("ignore")
    from scarches.models import TRVAE
    from scarches.models.scpoli import scPoli

    folder, model, epochs, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    one_thread()
    torch.manual_seed(seed)  # scArches seeds what comes after the weights
    np.random.seed(seed)
    classes = SimpleNamespace(scPoli=scPoli, TRVAE=TRVAE)
    reference = anndata.read_h5ad(folder / "reference.h5ad")
    queries = {
        path.name.split(".", 1)[1][: -len(".h5ad")]: anndata.read_h5ad(path) for path in sorted(folder.glob("query.*"))
    }
    for number, mapped in enumerate(TUTORIALS[model](classes, reference, queries, seed, epochs=epochs)):
        facts = json.dumps({"query": mapped.query, "mode": mapped.mode, "seconds": dict(mapped.seconds)})
        np.savez(folder / f"{number:03}.npz", reference=mapped.reference, latent=mapped.latent, facts=facts)


if __name__ == "__main__":
    main()

"""Run popV in the interpreter that has popV 0.6.1, for benchmarks/label_transfer.py.

    python benchmarks/label_transfer_popv.py FOLDER SEED

Reads ``reference.h5ad`` and each ``query.NAME.h5ad`` in the folder, and writes ``NAME.npz`` there for each query. The
methods are those that popV runs by itself, but for OnClass, whose ontology it would have to download. Parts of a query
are annotated together, as popV integrates reference and query.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from itertools import groupby
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.label_transfer_methods import Labelled, write_labelled
from benchmarks.latents_methods import Clock, one_thread
from benchmarks.latents_sets import BATCH, LABEL, UNLABELLED


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    one_thread()
    reference = anndata.read_h5ad(folder / "reference.h5ad")
    names = sorted(path.name[len("query.") : -len(".h5ad")] for path in folder.glob("query.*"))
    for _, parts in groupby(names, key=lambda name: name.rsplit(".", 1)[0]):
        queries = {name: anndata.read_h5ad(folder / f"query.{name}.h5ad") for name in parts}
        clock = Clock()
        with clock.stage("query"):
            votes, labels = annotated(reference.copy(), anndata.concat(list(queries.values())), seed=seed)
        for name, query in queries.items():
            found = labelled(name, votes.loc[query.obs_names], labels.loc[query.obs_names], clock)
            write_labelled(folder / f"{name}.npz", found)


def annotated(reference: anndata.AnnData, query: anndata.AnnData, *, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """Return the share of popV's methods that vote for each label, ``(cells, labels)``, and the one it decides for."""
    import popv
    import scvi
    from popv.annotation import annotate_data
    from popv.preprocessing import Process_Query

    popv.settings.n_jobs = 1
    scvi.settings.seed = seed
    np.random.seed(seed)
    with tempfile.TemporaryDirectory() as place:
        prepared = Process_Query(
            query,
            reference,
            ref_labels_key=LABEL,
            ref_batch_key=BATCH,
            query_batch_key=BATCH,
            cl_obo_folder=False,
            unknown_celltype_label=UNLABELLED,
            save_path_trained_models=f"{place}/",
        ).adata
        annotate_data(prepared, methods_kwargs={"CELLTYPIST": {"method_kwargs": {"n_jobs": 1}}})  # 10 by itself
    cells = prepared[prepared.obs["_dataset"] == "query"]
    voted = cells.obs[cells.uns["prediction_keys_seen"]].astype(str)
    labels = sorted(set(reference.obs[LABEL]))
    shares = pd.DataFrame({label: (voted == label).mean(axis=1) for label in labels}, index=cells.obs_names)
    decided = cells.obs["popv_majority_vote_prediction"].astype(str)
    return shares.reindex(query.obs_names, fill_value=0.0), decided.reindex(query.obs_names, fill_value=UNLABELLED)


def labelled(part: str, votes: pd.DataFrame, labels: pd.Series, clock: Clock) -> Labelled:
    """Return popV's labels of a part; what the votes leave is the uncertainty."""
    doubt = 1 - votes.to_numpy().max(axis=1)
    return Labelled(part, labels.to_numpy(dtype=object), doubt, votes, seconds=dict(clock.seconds))


if __name__ == "__main__":
    main()
